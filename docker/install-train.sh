#!/usr/bin/env bash
# Installs training and export into /opt/tritone.
#   install-train.sh SOURCE        SOURCE is a checkout of this repository
# PIP_ARGS: further arguments for pip (the index of torch's CPU wheels, say).
source "$(dirname "$0")/common.sh"
source_folder=${1:?usage: install-train.sh SOURCE}

require_python
add_user
python3 -m venv /opt/tritone
# shellcheck disable=SC2086
/opt/tritone/bin/python -m pip install ${PIP_ARGS:-} \
    --constraint "$source_folder/constraints.txt" "${source_folder}[train,export]"
install -d -o "$TRITONE_UID" -g "$TRITONE_UID" /work
/opt/tritone/bin/tritone --help >/dev/null
