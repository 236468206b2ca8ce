#!/usr/bin/env bash
# Installs training and export into /opt/tritone.
#   install-train.sh dependencies SOURCE        SOURCE has pyproject.toml, constraints.txt and docker/
#   install-train.sh application SOURCE         SOURCE is a checkout of this repository
# PIP_ARGS: further arguments for pip (the index of torch's CPU wheels, for example).
source "$(dirname "$0")/common.sh"
source_folder=${2:?usage: install-train.sh dependencies|application SOURCE}

dependencies() {
    require_python
    add_user
    install_requirements train export
    install -d -o "$TRITONE_UID" -g "$TRITONE_UID" /work
}

application() {
    install_project
    /opt/tritone/bin/tritone --help >/dev/null
}

run_step "$1"
