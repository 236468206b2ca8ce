#!/usr/bin/env bash
# Installs the CPU server into /opt/tritone: on a Python image, or on a bare Debian 12.
#   install-server-cpu.sh SOURCE        SOURCE is a checkout of this repository
# PIP_ARGS: further arguments for pip (an index, say).
source "$(dirname "$0")/common.sh"
source_folder=${1:?usage: install-server-cpu.sh SOURCE}

require_python
add_user
python3 -m venv /opt/tritone
# shellcheck disable=SC2086  # PIP_ARGS is a list of words
/opt/tritone/bin/python -m pip install ${PIP_ARGS:-} \
    --constraint "$source_folder/constraints.txt" "${source_folder}[serve]"

# Nothing below is run by a server. pip goes too: an image is replaced, not changed.
/opt/tritone/bin/python -m pip uninstall --quiet --yes pip setuptools
find /opt/tritone -depth -type d \( -name tests -o -name test -o -name __pycache__ \) -exec rm -rf {} +
mkdir -p /models
# Fails here rather than at the first start.
/opt/tritone/bin/python -B -c 'from tritone_serving.installation import find_installation, find_libpython
print(find_installation().binary, find_libpython())'
/opt/tritone/bin/tritone --help >/dev/null
