#!/bin/sh
# Install what pyproject.toml asks for, and nothing of Akin itself: install-dependencies.sh cpu|gpu. Used by the Dockerfile.
set -eu
tools="$(dirname "$0")"
python3 "$tools/requirements.py" pyproject.toml "$1" offline > /tmp/requirements.txt
for package in ${EXTRA_PACKAGES:-}; do echo "$package" >> /tmp/requirements.txt; done
if [ -n "${TORCH_INDEX_URL:-}" ]; then
  # From that index alone: elsewhere a newer torch would win that was built for something else.
  grep '^torch' /tmp/requirements.txt > /tmp/torch.txt
  sh "$tools/pip-install.sh" --index-url "$TORCH_INDEX_URL" --requirement /tmp/torch.txt
fi
sh "$tools/pip-install.sh" --requirement /tmp/requirements.txt
# Headers and the programs that test torch: nothing can be compiled in an image without a compiler.
torch="$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch"
rm -rf "$torch/include" "$torch/test" "$torch"/bin/test_*
