#!/usr/bin/env bash
# Installs the CPU server into /opt/tritone: on a Python image, or on a bare Debian 12.
#   install-server-cpu.sh dependencies SOURCE        SOURCE has pyproject.toml, constraints.txt and docker/
#   install-server-cpu.sh application SOURCE         SOURCE is a checkout of this repository
source "$(dirname "$0")/common.sh"
source_folder=${2:?usage: install-server-cpu.sh dependencies|application SOURCE}

dependencies() {
    require_python
    compile_standard_library
    add_user
    install_requirements serve
    # No server runs these.
    find /opt/tritone -depth -type d \( -name tests -o -name test \) -exec rm -rf {} +
    mkdir -p /models
}

application() {
    install_project
    # Fails here rather than at the first start.
    /opt/tritone/bin/python -B -c 'from tritone_serving.server.installation import find_installation, find_libpython
print(find_installation().binary, find_libpython())'
    PYTHONDONTWRITEBYTECODE=1 /opt/tritone/bin/tritone --help >/dev/null
}

run_step "$1"
