#!/bin/sh
# Start an image as docker-compose.yml does, without a Docker engine: sh deploy/prove-image.sh IMAGE
#
# Each process gets namespaces of its own for mounts and processes: the image's root read-only, /data and a small /tmp
# to write to, secrets below /run/secrets, user 10001 without any capability. The network is this host's. PostgreSQL is
# this host's too where its programs are installed (Debian: postgresql), otherwise SQLite takes its place, and that is said.
#
# Exit status: 0 all proved, 1 a check failed, 3 not started, as something is missing here.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
image="${1:?usage: prove-image.sh IMAGE}"
port="${PROOF_PORT:-18080}" # and the three after it
threads="${OMP_NUM_THREADS:-2}"
work="$(mktemp -d)"
chmod 711 "$work"
container=""

stop_all() {
  cat "$work"/*.pid 2> /dev/null | while read -r pid; do kill -KILL "$pid" 2> /dev/null || true; done
  if [ -e "$work/postgres/data/postmaster.pid" ]; then as_database_owner "$bin/pg_ctl" stop -D "$work/postgres/data" -m fast > "$work/pg.log" 2>&1 || true; fi
  if [ -n "$container" ]; then buildah rm "$container" > /dev/null 2>&1 || true; fi
  rm -rf "$work"
}
trap stop_all EXIT
trap 'exit 1' INT TERM

skip() {
  echo "SKIPPED: $1" >&2
  exit 3
}
fail() {
  echo "FAILED: $1" >&2
  for log in "$work"/*.log; do
    echo "--- $(basename "$log")" >&2
    tail -n 15 "$log" >&2
  done
  exit 1
}
ok() { echo "ok: $1"; }

command -v buildah > /dev/null || skip "buildah is not installed: the image was not started"
[ "$(id -u)" = 0 ] || skip "not root: the image was not started"
unshare --mount --pid --fork true 2> /dev/null || skip "no namespaces can be made here: the image was not started"

# ---- what it holds ----

container="$(buildah from "$image")"
root="$(buildah mount "$container")"
export root work
of_image() { buildah inspect --type image --format "$1" "$image"; }

[ "$(of_image '{{.Docker.Config.User}}')" = 10001:10001 ] || fail "the image does not run as user 10001"
[ "$(of_image '{{.Docker.Config.Entrypoint}} {{.Docker.Config.Cmd}}')" = "[akin] [serve]" ] || fail "entry point"
ok "user 10001:10001, entry point akin, command serve"
found="$(find "$root" -xdev \( -name 'gcc*' -o -name 'g++*' -o -name cc -o -name make -o -name ld -o -name 'clang*' \) \
  -path '*/bin/*' 2> /dev/null | head -n 3)"
[ -z "$found" ] || fail "compilers in the image: $found"
[ -z "$(find "$root/opt" -xdev -path '*/site-packages/pip' -o -path '*/bin/pip*')" ] || fail "pip is in the image"
[ ! -e "$root/root/.cache" ] || fail "a cache is in the image"
[ -z "$(ls -A "$root/run/secrets" 2> /dev/null)" ] || fail "secrets of the build are in the image"
[ ! -e "$root/opt/tools" ] && [ ! -e "$root/src" ] || fail "tools of the build are in the image"
[ ! -e "$root/opt/akin/deploy" ] && [ ! -e "$root/opt/akin/tests" ] || fail "more than the product is in the image"
ok "no compiler, no pip, no cache, nothing of the build"
echo "   image $(buildah images --format '{{.Size}}' "$image"), of that packages $(du -sm "$root/opt/venv" | cut -f 1) MB, Akin $(du -sm "$root/opt/akin" | cut -f 1) MB"

# ---- how it is started ----

of_image '{{range .Docker.Config.Env}}{{println .}}{{end}}' > "$work/env"
cat > "$work/enter" << 'END'
set -eu
# $root and $work are given; the rest of the arguments is the command.
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755,size=64k dev "$root/dev"
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm"
mount -t tmpfs -o mode=1777,size=64m shm "$root/dev/shm"
mount -t tmpfs -o mode=1777,size=256m tmp "$root/tmp"
mount --bind "$work/data" "$root/data"
mount -t tmpfs -o mode=755,size=64k run "$root/run"
mkdir "$root/run/secrets"
for secret in akin_admin_key akin_database_url; do
  [ -e "$work/secrets/$secret" ] || continue
  touch "$root/run/secrets/$secret"
  mount --bind "$work/secrets/$secret" "$root/run/secrets/$secret"
done
mount -o remount,bind,ro "$root"
cd "$root"
exec chroot . /bin/sh -c 'cd /data && exec "$@"' sh \
  setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all -- "$@"
END
# in_image NAME=VALUE... COMMAND...: run it to its end.
in_image() {
  set -- OMP_NUM_THREADS="$threads" AKIN_AUTO_MIGRATE=false "$@"
  while read -r setting; do [ -z "$setting" ] || set -- "$setting" "$@"; done < "$work/env"
  unshare --mount --pid --fork --kill-child -- /bin/sh "$work/enter" /usr/bin/env -i "$@"
}
# start NAME NAME=VALUE... COMMAND...: leave it running; $work/NAME.pid is the process as this host sees it.
start() {
  name="$1"
  shift
  in_image "$@" > "$work/$name.log" 2>&1 &
  echo $! > "$work/$name.outer"
  for _ in $(seq 50); do
    inner="$(children_of "$(children_of "$(cat "$work/$name.outer")")")"
    [ -z "$inner" ] || break
    sleep 0.1
  done
  echo "$inner" > "$work/$name.pid"
}
children_of() { [ -z "$1" ] || cat "/proc/$1/task/$1/children" 2> /dev/null | tr -d ' '; }
wait_for() { # NAME SECONDS COMMAND...: ask again until it succeeds
  name="$1" seconds="$2"
  shift 2
  until "$@" > "$work/probe.log" 2>&1; do
    seconds=$((seconds - 1))
    [ "$seconds" -gt 0 ] || fail "$name is not healthy"
    kill -0 "$(cat "$work/$name.outer")" 2> /dev/null || fail "$name has ended"
    sleep 1
  done
}

# ---- secrets and database, as compose has them ----

install -d -o 10001 -g 10001 "$work/data"
sh "$here/make-secrets.sh" "$work/secrets" > /dev/null
key="$(cat "$work/secrets/akin_admin_key")"
bin="$(find /usr/lib/postgresql -path '*/bin/initdb' -exec dirname {} \; 2> /dev/null | sort -V | tail -n 1)"
database_port=$((port + 3))
owner="$(id -u postgres 2> /dev/null || id -u nobody)"
as_database_owner() { setpriv --reuid="$owner" --regid="$(id -g "$owner")" --clear-groups -- "$@"; }
if [ -x "$bin/initdb" ]; then
  install -d -o "$owner" "$work/postgres"
  install -o "$owner" -m 400 "$work/secrets/postgres_password" "$work/postgres/password"
  as_database_owner "$bin/initdb" --pgdata="$work/postgres/data" --username=akin --pwfile="$work/postgres/password" \
    --auth=scram-sha-256 --locale=C.UTF-8 --encoding=UTF8 > "$work/pg.log" 2>&1 || fail "initdb"
  as_database_owner "$bin/pg_ctl" start --wait --pgdata="$work/postgres/data" --log="$work/postgres/log" \
    --options="-p $database_port -h 127.0.0.1 -k $work/postgres" > "$work/pg.log" 2>&1 || fail "PostgreSQL does not start"
  PGPASSWORD="$(cat "$work/secrets/postgres_password")" "$bin/createdb" -h 127.0.0.1 -p "$database_port" -U akin akin
  sed -i "s|@postgres:5432|@127.0.0.1:$database_port|" "$work/secrets/akin_database_url"
  ok "database: $("$bin/postgres" --version) of this host"
else
  rm "$work/secrets/akin_database_url"
  echo "SKIPPED: PostgreSQL (not installed here): SQLite takes its place"
fi

# ---- migrate, sample, two servers, a worker ----

in_image akin migrate > "$work/migrate.log" 2>&1 || fail "akin migrate"
ok "akin migrate: $(cat "$work/migrate.log")"
in_image AKIN_HOST=127.0.0.1 akin demo --check > "$work/demo.log" 2>&1 || fail "akin demo --check"
ok "akin demo --check: $(grep '^recall@1 ' "$work/demo.log")"

buildah inspect --type image "$image" | python3 -c 'import json, sys
print(*json.load(sys.stdin)["Docker"]["config"]["Healthcheck"]["Test"][1:], sep="\n")' > "$work/healthcheck"
healthy() { # PORT: run the image's HEALTHCHECK for the server on that port
  set -- "AKIN_PORT=$1"
  while read -r word; do set -- "$@" "$word"; done < "$work/healthcheck"
  in_image "$@"
}
worker_healthy() { in_image python -m service.web.probe "http://127.0.0.1:$((port + 2))/metrics" "akin_worker_up 1.0"; }
started="$(date +%s)"
for replica in 0 1; do
  start "api$replica" AKIN_PORT=$((port + replica)) AKIN_HOST=127.0.0.1 AKIN_DRAIN_SECONDS=1 AKIN_PUBLIC_SEARCH=false akin serve
done
start worker akin worker --metrics-port $((port + 2))
for replica in 0 1; do wait_for "api$replica" 120 healthy $((port + replica)); done
wait_for worker 120 worker_healthy
for replica in 0 1; do wait_for "api$replica" 120 curl -sf "http://127.0.0.1:$((port + replica))/readyz"; done
ok "HEALTHCHECK of two servers and a worker succeeds, both servers ready: $(($(date +%s) - started)) s after their start"

for name in api0 api1 worker; do
  status="/proc/$(cat "$work/$name.pid")/status"
  [ "$(awk '/^Uid:/ {print $2, $3, $4}' "$status")" = "10001 10001 10001" ] || fail "$name runs as another user"
  [ "$(awk '/^Cap(Prm|Eff|Bnd)/ {print $2}' "$status" | sort -u)" = 0000000000000000 ] || fail "$name has capabilities"
  [ "$(awk '/^NoNewPrivs:/ {print $2}' "$status")" = 1 ] || fail "$name may gain privileges"
  grep -q '^[^ ]* / [^ ]* ro,' "/proc/$(cat "$work/$name.pid")/mounts" || fail "$name has a root that can be written to"
done
ok "user 10001, no capability, no new privileges, root file system read-only"

photo="$work/data/sample/images/sample-0007/query-1.jpg"
search() { curl -s -o "$work/answer" -w '%{http_code}' -F "image=@$photo" "$@"; }
[ "$(search "http://127.0.0.1:$port/search?k=3")" = 401 ] || fail "a search without a key is answered: $(cat "$work/answer")"
for replica in 0 1; do
  [ "$(search -H "Authorization: Bearer $key" "http://127.0.0.1:$((port + replica))/search?k=3")" = 200 ] ||
    fail "search: $(cat "$work/answer")"
done
ok "search: 401 without a key; with it $(python3 -c 'import json, sys
print([(hit["product_id"], round(hit["score"], 3)) for hit in json.load(sys.stdin)["hits"]])' < "$work/answer")"

# The most that the worker and the processes that train for it take together, looked at each half second.
space="$(readlink "/proc/$(cat "$work/worker.pid")/ns/pid")"
(
  most=0
  while sleep 0.5; do
    sum=0
    for process in /proc/[0-9]*; do
      [ "$(readlink "$process/ns/pid" 2> /dev/null)" = "$space" ] || continue
      kilobytes="$(awk '/^RssAnon:|^RssShmem:/ {sum += $2} END {print sum + 0}' "$process/status" 2> /dev/null)"
      sum=$((sum + ${kilobytes:-0}))
    done
    [ "$sum" -le "$most" ] || most="$sum"
    echo "$most" > "$work/training.kilobytes"
  done
) &
echo $! > "$work/sampler.pid"
started="$(date +%s)"
outcome=0
in_image akin retrain --set steps=20 --set augmentation.views=1 --set augmentation.catalogue_views=1 \
  --set augmentation.catalogue_scenes=1 > "$work/retrain.log" 2>&1 || outcome=$?
# 3: the gate found that twenty steps are no improvement, which is a normal end.
case "$outcome" in 0 | 3) ;; *) fail "akin retrain ends with $outcome" ;; esac
ok "retrain in the worker, 20 steps: exit status $outcome after $(($(date +%s) - started)) s"

kill "$(cat "$work/sampler.pid")"
rm "$work/sampler.pid"

# ---- memory, disk, end ----

echo "   memory of the worker and its training together: $(($(cat "$work/training.kilobytes") / 1024)) MB at most (without files)"

for name in api0 worker; do
  awk -v name="$name" '/^VmHWM:/ {most = $2} /^VmRSS:/ {now = $2}
    END {printf "   memory of %s: %d MB now, %d MB at most\n", name, now / 1024, most / 1024}' "/proc/$(cat "$work/$name.pid")/status"
done
(cd "$work/data" && du -sm -- * | awk '{printf "   disk: %s MB %s\n", $1, $2}')
for name in api0 api1 worker; do
  started="$(date +%s%N)"
  kill -TERM "$(cat "$work/$name.pid")"
  outcome=0
  wait "$(cat "$work/$name.outer")" || outcome=$?
  [ "$outcome" = 0 ] || fail "$name ends with $outcome after SIGTERM"
  rm "$work/$name.pid"
  ok "$name: SIGTERM, exit status 0 after $((($(date +%s%N) - started) / 1000000)) ms"
done
echo "proved: $image"
