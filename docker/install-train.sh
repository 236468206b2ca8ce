#!/usr/bin/env bash
# Installs training and export into /opt/tritone.
#   install-train.sh dependencies SOURCE        SOURCE has pyproject.toml, constraints.txt and docker/
#   install-train.sh application SOURCE         SOURCE is a checkout of this repository
# PIP_ARGS: further arguments for pip (the index of torch's CPU wheels, for example).
# EXTRAS: of pyproject.toml, "train export" if empty. With ray or spark, the versions of constraints-engines.txt go first.
source "$(dirname "$0")/common.sh"
source_folder=${2:?usage: install-train.sh dependencies|application SOURCE}

dependencies() {
    read -r -a extras <<<"${EXTRAS:-train export}"
    require_python
    add_user
    if [[ " ${extras[*]} " == *" ray "* || " ${extras[*]} " == *" spark "* ]]; then
        prefer_engine_versions
    fi
    install_requirements "${extras[@]}"
    # KubeRay starts Ray in a login shell, for which Debian's /etc/profile sets another PATH.
    install -d /etc/profile.d
    echo "export PATH=/opt/tritone/bin:\$PATH" >/etc/profile.d/tritone.sh
    install -d -o "$TRITONE_UID" -g "$TRITONE_UID" /work
}

# Puts the versions of constraints-engines.txt in place of those of the same packages in constraints.txt.
prefer_engine_versions() {
    awk -F == 'NR == FNR {own[tolower($1)] = 1; print; next} !(tolower($1) in own)' \
        "$source_folder/constraints-engines.txt" "$source_folder/constraints.txt" >/tmp/constraints.txt
    mv /tmp/constraints.txt "$source_folder/constraints.txt"
}

application() {
    install_project
    /opt/tritone/bin/tritone --help >/dev/null
}

run_step "$1"
