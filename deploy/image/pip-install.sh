#!/bin/sh
# pip install into the image's environment, with the build secrets where they are given. Used by the Dockerfile.
set -eu
if [ -e /run/secrets/pip_conf ]; then export PIP_CONFIG_FILE=/run/secrets/pip_conf; fi
if [ -e /run/secrets/ca_bundle ]; then export PIP_CERT=/run/secrets/ca_bundle; fi
exec /opt/tools/bin/pip --disable-pip-version-check --no-input --python /opt/venv/bin/python install "$@"
