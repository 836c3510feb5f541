#!/bin/sh
# Start docker-compose.yml as a project of its own, check that it works, and remove it: sh deploy/check-compose.sh
#
# Needs a Docker engine with Compose, curl and some gigabytes. The image is built unless it exists. Environment: all
# variables of .env.example; COMPOSE, the command for Compose (default: docker compose); GATEWAY_PORT (default: 18080).
#
# Exit status: 0 everything works, 1 a check failed, 3 nothing was checked because something is missing.
set -eu
cd "$(dirname "$0")/.."
for command in curl docker; do
  command -v "$command" > /dev/null || { echo "SKIPPED: $command is not installed" >&2; exit 3; }
done
docker info > /dev/null 2>&1 || { echo "SKIPPED: no Docker engine responds" >&2; exit 3; }
work="$(mktemp -d)"
export GATEWAY_PORT="${GATEWAY_PORT:-18080}" SECRETS_DIR="$work/secrets"
url="http://127.0.0.1:$GATEWAY_PORT${AKIN_ROOT_PATH:-}"

compose() { ${COMPOSE:-docker compose} --project-name akin-check "$@"; }
ok() { echo "ok: $1"; }
fail() {
  echo "FAILED: $1" >&2
  compose ps --all >&2
  compose logs --tail 20 >&2
  exit 1
}
remove() {
  touch "$work/stop"
  compose --profile sample down --volumes --timeout 10 > /dev/null 2>&1 || true
  rm -rf "$work"
}
trap remove EXIT
trap 'exit 1' INT TERM

# ---- start ----

sh deploy/make-secrets.sh "$work/secrets" > /dev/null
key="$(cat "$work/secrets/akin_admin_key")"
compose up --detach --wait > "$work/log" 2>&1 || { cat "$work/log" >&2; fail "the services do not become healthy"; }
ok "all services are healthy"
for service in gateway api worker postgres; do
  status="$(compose exec -T "$service" cat /proc/1/status)"
  [ "$(echo "$status" | awk '/^Uid:/ {print ($2 > 0 && $3 > 0)}')" = 1 ] || fail "$service runs as root"
  [ "$(echo "$status" | awk '/^Cap(Prm|Eff|Bnd)/ {print $2}' | sort -u)" = 0000000000000000 ] || fail "$service has capabilities"
  [ "$(echo "$status" | awk '/^NoNewPrivs:/ {print $2}')" = 1 ] || fail "$service may gain privileges"
  ! compose exec -T "$service" touch /written 2> /dev/null || fail "$service can write to its root"
done
ok "no service runs as root, has a capability or can write to its root file system"
outcome=0
compose exec -T gateway curl --silent --max-time 5 http://postgres:5432 > /dev/null 2>&1 || outcome=$?
[ "$outcome" = 6 ] || fail "the gateway can resolve the name of the database"
ok "the gateway cannot resolve the name of the database"

# ---- a catalogue, a search, a training run ----

compose run --rm -T sample > "$work/log" 2>&1 || { cat "$work/log" >&2; fail "the sample cannot be built"; }
ok "sample: $(grep '^recall@1 ' "$work/log")"
compose cp api:/data/sample/images/sample-0007/query-1.jpg "$work/query.jpg" > /dev/null 2>&1
search() { curl --silent --output "$work/answer" --write-out '%{http_code}' --max-time 60 --form "image=@$work/query.jpg" "$@" "$url/search?k=3"; }
for _ in $(seq 60); do
  [ "$(search --header "Authorization: Bearer $key")" != 200 ] || break
  sleep 1
done
grep -q '"product_id":"sample-0007"' "$work/answer" || fail "search: $(cat "$work/answer")"
[ "$(search)" = 401 ] || fail "a search without a key is accepted"
ok "search through the gateway: sample-0007 with a key, 401 without"
outcome=0
compose exec -T api akin retrain --set steps=20 --set augmentation.views=1 --set augmentation.catalogue_views=1 \
  --set augmentation.catalogue_scenes=1 > "$work/log" 2>&1 || outcome=$?
# Exit status 3: the gate found no improvement, which twenty steps rarely make.
case "$outcome" in 0 | 3) ok "retrain in the worker: exit status $outcome" ;; *) cat "$work/log" >&2; fail "retrain" ;; esac

# ---- the rolling update of docs/deployment.md, under load ----

while [ ! -e "$work/stop" ]; do
  curl --silent --output /dev/null --write-out '%{http_code}\n' --max-time 60 --form "image=@$work/query.jpg" \
    --header "Authorization: Bearer $key" "$url/search"
done > "$work/statuses" &
old="$(compose ps --quiet api)"
replicas="$(echo "$old" | wc -l)"
compose up --detach --wait --no-deps --no-recreate --scale "api=$((2 * replicas))" api > "$work/log" 2>&1 || fail "new servers"
for id in $old; do
  docker stop "$id" > /dev/null
  docker rm "$id" > /dev/null
done
compose up --detach --wait --no-deps --no-recreate --scale "api=$replicas" api > "$work/log" 2>&1 || fail "the former number of servers"
touch "$work/stop"
wait
[ "$(sort -u "$work/statuses")" = 200 ] || fail "searches during the update: $(sort "$work/statuses" | uniq -c)"
ok "rolling update: $(wc -l < "$work/statuses") searches, none failed"

# ---- backup and restore ----

compose stop api worker > /dev/null 2>&1
compose exec -T postgres pg_dump --username=akin --format=custom akin > "$work/akin.dump"
compose run --rm -T --no-deps --entrypoint tar worker \
  -C /data -cf - --exclude=./cache --exclude=./uploads --exclude=./workers . > "$work/akin-data.tar" 2> "$work/log"
compose down --volumes > /dev/null 2>&1
compose up --detach --wait postgres > /dev/null 2>&1
compose exec -T postgres pg_restore --username=akin --dbname=akin --no-owner < "$work/akin.dump"
compose run --rm -T --no-deps --entrypoint tar worker -C /data -xf - < "$work/akin-data.tar" > "$work/log" 2>&1
compose up --detach --wait > "$work/log" 2>&1 || fail "the services do not become healthy after the restore"
compose exec -T api akin doctor > "$work/log" 2>&1 || { cat "$work/log" >&2; fail "doctor after the restore"; }
[ "$(search --header "Authorization: Bearer $key")" = 200 ] || fail "search after the restore: $(cat "$work/answer")"
ok "backup and restore: the same search succeeds in a new installation"
docker stats --no-stream --format '   memory of {{.Name}}: {{.MemUsage}}' | grep akin-check

compose stop > /dev/null 2>&1
for id in $(compose ps --all --quiet gateway api worker postgres); do
  code="$(docker inspect --format '{{.State.ExitCode}}' "$id")"
  [ "$code" = 0 ] || fail "$(docker inspect --format '{{.Name}}' "$id") ends with exit status $code"
done
ok "every service stops with exit status 0"
