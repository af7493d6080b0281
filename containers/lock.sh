#!/bin/bash
# Write containers/requirements.lock anew: every package of the image with its hashes.
#
#   containers/lock.sh [--upgrade]
#
# Needs Python 3.11 (the image's; PYTHON=... to name it) on Linux x86_64. Without --upgrade, versions
# that are in the lock file stay. The file names no registry: pip uses the one that it is set up with.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3.11}
TOOLS=$(mktemp -d)
trap 'rm -rf "$TOOLS"' EXIT
"$PYTHON" -m venv "$TOOLS"
"$TOOLS/bin/pip" install --quiet pip-tools
# packages that only this machine has must not get in
export PIP_EXTRA_INDEX_URL= PIP_FIND_LINKS=
export CUSTOM_COMPILE_COMMAND=containers/lock.sh
"$TOOLS/bin/pip-compile" --quiet --generate-hashes --strip-extras --allow-unsafe --annotation-style=line \
    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options \
    --output-file=containers/requirements.lock "$@" pyproject.toml containers/requirements.in
