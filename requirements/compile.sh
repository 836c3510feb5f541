#!/bin/sh
# Compile the lock files beside this script from pyproject.toml: sh requirements/compile.sh [--upgrade]
#
# Needs uv and the public package index. Pinned versions are kept unless --upgrade is given.
# Why torch has a file of its own: docs/decisions/0012-torch-has-a-lock-file-of-its-own.md.
set -eu
cd "$(dirname "$0")/.."
command -v uv > /dev/null || {
  echo "uv is not installed; install it with: pip install uv" >&2
  exit 1
}
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
for name in torch dev gpu build; do
  if [ -e "requirements/$name.txt" ]; then cp "requirements/$name.txt" "$work/"; fi
done
cat "$work/torch.txt" "$work/dev.txt" > "$work/all.txt" 2> /dev/null || true

# compile FILE ARGUMENT...: one resolution for every Python and platform that pyproject.toml supports.
compile() {
  file="$1"
  shift
  uv pip compile --no-config --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
    --output-file "$work/$file" "$@" > /dev/null
}

# The extra `dev` includes every other one but `gpu`, so this resolution fixes the versions in all files.
compile all.txt pyproject.toml --extra cpu --extra dev "$@"
sed -n 's/^\([a-z0-9._-]*\).*==.*/--no-emit-package=\1/p' "$work/all.txt" | sort -u > "$work/names"
is_torch='=(torch|torchvision|triton|cuda-.*|nvidia-.*)$'
torch="$(grep -E "$is_torch" "$work/names")"
others="$(grep -vE "$is_torch" "$work/names")"
set -- --constraint "$work/all.txt" "$@"
# shellcheck disable=SC2086 # $torch and $others are lists of words
{
  compile torch.txt pyproject.toml --extra cpu $others "$@"
  compile cpu.txt pyproject.toml --extra cpu --extra offline $torch "$@"
  compile gpu.txt pyproject.toml --extra gpu --extra offline $torch "$@"
  compile dev.txt pyproject.toml --extra cpu --extra dev $torch "$@"
}
sed -n '/^requires = /s/.*"\(setuptools[^"]*\)".*/\1/p' pyproject.toml > "$work/build.in"
compile build.txt "$work/build.in" "$@"

heading() {
  echo "# Compiled from pyproject.toml by \`make lock\`; edit neither versions nor hashes by hand."
  case "$1" in
    torch) echo "# torch, torchvision and the CUDA packages that the default wheels for Linux need." ;;
    cpu) echo "# The extras cpu and offline. Install torch.txt, or CPU builds of the same versions, first." ;;
    gpu) echo "# The extras gpu and offline. Install torch.txt first." ;;
    dev) echo "# The extras cpu and dev. Install torch.txt, or CPU builds of the same versions, first." ;;
    build) echo "# The build backend, for pip install --no-build-isolation." ;;
  esac
  echo "# pip install --no-deps --require-hashes --requirement requirements/$1.txt"
}
for name in torch cpu gpu dev build; do
  { heading "$name"; grep -v '^#' "$work/$name.txt"; } > "requirements/$name.txt"
done
