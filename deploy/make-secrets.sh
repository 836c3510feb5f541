#!/bin/sh
# Create the secret files that docker-compose.yml mounts: sh deploy/make-secrets.sh [FOLDER]
#
#   akin_admin_key      a random key with every scope
#   postgres_password   a random password for the owner of the database
#   akin_database_url   the URL of the database, with that password
#
# Compose mounts the files with their owner and mode on the host, and the containers run as users that the host does not
# have. So the files are readable by everyone, and their folder only by its owner (and root, who mounts them). Existing
# files are never replaced: a new password would not be the database's.
set -eu
folder="${1:-$(dirname "$0")/secrets}"
for name in akin_admin_key postgres_password akin_database_url; do
  if [ -e "$folder/$name" ]; then
    echo "$folder/$name already exists; remove it first to replace it" >&2
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
# The prefix lets scanners find a key that was committed by mistake.
printf 'akin_%s' "$(random_hex)" > "$folder/akin_admin_key"
printf '%s' "$password" > "$folder/postgres_password"
printf 'postgresql+psycopg://akin:%s@postgres:5432/akin' "$password" > "$folder/akin_database_url"
chmod 444 "$folder/akin_admin_key" "$folder/postgres_password" "$folder/akin_database_url"
echo "created $folder: akin_admin_key, postgres_password, akin_database_url; keep a backup of them"
