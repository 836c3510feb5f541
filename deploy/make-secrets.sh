#!/bin/sh
# Make the secrets that docker-compose.yml reads, as files: sh deploy/make-secrets.sh [FOLDER]
#
#   akin_admin_key      a random key with every scope
#   postgres_password   a random password of the database's owner
#   akin_database_url   the address of the database, with that password
#
# Compose mounts such files as they are, with the host's owner and mode, and the containers run as users that this host
# does not have. So the files can be read by all, and the folder around them by nobody but its owner (and root, who
# mounts them). What is there already is left alone: a new password would not be the database's.
set -eu
folder="${1:-$(dirname "$0")/secrets}"
for name in akin_admin_key postgres_password akin_database_url; do
  if [ -e "$folder/$name" ]; then
    echo "$folder/$name is there already; remove it first if you mean to replace it" >&2
    exit 1
  fi
done

random_hex() {
  head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'
}

umask 077
mkdir -p "$folder"
chmod 700 "$folder"
password="$(random_hex)"
# The beginning lets scanners find a key that was committed by mistake.
printf 'akin_%s' "$(random_hex)" > "$folder/akin_admin_key"
printf '%s' "$password" > "$folder/postgres_password"
printf 'postgresql+psycopg://akin:%s@postgres:5432/akin' "$password" > "$folder/akin_database_url"
chmod 444 "$folder/akin_admin_key" "$folder/postgres_password" "$folder/akin_database_url"
echo "made $folder: akin_admin_key, postgres_password, akin_database_url; keep a copy where you keep secrets"
