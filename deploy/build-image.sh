#!/bin/sh
# Build the image without a Docker engine, with buildah, and prove that it works (deploy/prove-image.sh):
#
#   sh deploy/build-image.sh [--target cpu|gpu] [--tag NAME] [--no-proof]
#
# Environment: BASE_IMAGE, TORCH_INDEX_URL and EXTRA_PACKAGES, as for `docker build`. Where no image registry answers, a
# base is made from Debian's packages (mmdebstrap). pip's configuration, the local folders that it names and the
# certificates of this host are mounted for the build.
#
# Exit status: 0 built and proved, 1 something failed, 2 wrong arguments, 3 nothing proved, as something is missing here.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
target=cpu tag="" proof=yes
while [ $# -gt 0 ]; do
  case "$1" in
    --target) target="${2:?--target needs cpu or gpu}"; shift 2 ;;
    --tag) tag="${2:?--tag needs a name}"; shift 2 ;;
    --no-proof) proof=no; shift ;;
    *) echo "unknown argument: $1" >&2; exit 2 ;;
  esac
done
case "$target" in cpu | gpu) ;; *) echo "--target is cpu or gpu, not $target" >&2; exit 2 ;; esac
version="$(sed -n 's/^version = "\(.*\)"/\1/p' "$here/../pyproject.toml")"
tag="${tag:-akin:$version-$target}"

skip() {
  echo "SKIPPED: $1" >&2
  exit 3
}

command -v buildah > /dev/null || skip "buildah is not installed (Debian: apt-get install buildah): nothing was built"
[ "$(id -u)" = 0 ] || skip "not root: building with --isolation chroot and starting the image need it; nothing was built"

setup="$(mktemp -d)"
trap 'rm -rf "$setup"' EXIT

# ---- a base with Python ----

base="${BASE_IMAGE:-}"
if [ -z "$base" ]; then
  base="$(sed -n 's/^ARG BASE_IMAGE=//p' "$here/../Dockerfile")"
  if ! timeout 120 buildah pull --quiet "$base" > /dev/null 2>&1; then
    echo "no image registry gives $base: a base is made from Debian's packages"
    base=localhost/akin-base:bookworm
    if ! buildah inspect --type image "$base" > /dev/null 2>&1; then
      command -v mmdebstrap > /dev/null || skip "no base: no image registry answers, and mmdebstrap is not installed"
      packages=python3,python3-venv,ca-certificates
      mmdebstrap --quiet --variant=minbase --include="$packages" bookworm "$setup/base.tar"
      container="$(buildah from scratch)"
      buildah add --quiet "$container" "$setup/base.tar" /
      buildah commit --quiet --rm "$container" "$base" > /dev/null
    fi
  fi
fi

# ---- the image ----

python3 "$here/host_pip.py" "$setup"
set -- --secret "id=pip_conf,src=$setup/pip.conf"
if [ -e "$setup/ca_bundle" ]; then set -- "$@" --secret "id=ca_bundle,src=$setup/ca_bundle"; fi
while read -r path; do set -- "$@" --volume "$path:$path:ro"; done < "$setup/mounts"
revision="$(git -C "$here" rev-parse --short HEAD 2> /dev/null || echo unknown)"
started="$(date +%s)"
# HEALTHCHECK is a word of Docker's format alone.
buildah build --isolation chroot --format docker --layers --target "$target" --tag "$tag" \
  --build-arg BASE_IMAGE="$base" --build-arg TORCH_INDEX_URL="${TORCH_INDEX_URL:-}" \
  --build-arg EXTRA_PACKAGES="${EXTRA_PACKAGES:-}" \
  --build-arg VERSION="$version" --build-arg REVISION="$revision" "$@" "$here/.." > "$setup/log" 2>&1 || {
  tail -n 40 "$setup/log" >&2
  echo "FAILED: the image could not be built" >&2
  exit 1
}
echo "built $tag from $base in $(($(date +%s) - started)) s: $(buildah images --format '{{.Size}}' "$tag")"

if [ "$proof" = yes ]; then sh "$here/prove-image.sh" "$tag"; fi
