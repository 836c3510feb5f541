#!/bin/sh
# Install the locked dependencies into the image's environment: install-dependencies.sh cpu|gpu. Used by the Dockerfile.
set -eu
if [ -n "${TORCH_INDEX_URL:-}" ]; then
  # The same versions from another index: its wheels are other builds, so the hashes of the lock file do not apply.
  versions="$(sed -n 's/^\(torch\(vision\)\{0,1\}==[^ ]*\).*/\1/p' requirements/torch.txt)"
  # shellcheck disable=SC2086 # two requirements
  pip install --no-deps --index-url "$TORCH_INDEX_URL" $versions
else
  pip install --no-deps --require-hashes --requirement requirements/torch.txt
fi
pip install --no-deps --require-hashes --requirement "requirements/$1.txt"
# shellcheck disable=SC2086 # a list of packages; they are not locked
if [ -n "${EXTRA_PACKAGES:-}" ]; then pip install $EXTRA_PACKAGES; fi
# The image has no compiler, so it needs neither torch's headers nor the programs that test torch.
torch="$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch"
rm -rf "$torch/include" "$torch/test" "$torch"/bin/test_*
