# What the install scripts share; sourced, not run.
set -euo pipefail

# The same number everywhere, so that volumes and Kubernetes' runAsUser agree with the images.
readonly TRITONE_UID=10001
export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# Makes the user that the servers run as; it owns nothing and cannot log in.
add_user() {
    if ! getent passwd "$TRITONE_UID" >/dev/null; then
        groupadd --gid "$TRITONE_UID" tritone
        useradd --uid "$TRITONE_UID" --gid "$TRITONE_UID" --no-create-home --home-dir /tmp --shell /usr/sbin/nologin tritone
    fi
}

# Installs Debian packages and leaves no lists behind.
install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -q -y --no-install-recommends "$@"
    rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb
}

# A Python 3.11 or 3.12 with venv and its shared library: the image's own, else Debian's.
require_python() {
    if ! python3 -c '
import ensurepip, pathlib, sys, sysconfig
places = [sysconfig.get_config_var("LIBDIR"), "/usr/lib/" + (sysconfig.get_config_var("MULTIARCH") or "")]
sys.exit(not any(list(pathlib.Path(place).glob("libpython3.*.so.1.0")) for place in places))' 2>/dev/null; then
        install_packages python3 python3-venv libpython3.11
    fi
    python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' ||
        { echo "Tritone needs Python 3.11 or 3.12; this image has $(python3 -V)" >&2; exit 1; }
}

# Compiles the standard library, which official Python images leave out; pip compiles what it installs. Otherwise every
# process would compile what it imports each time, and a server has a process for each instance of a model.
compile_standard_library() {
    python3 -m compileall -q -x '/(site-packages|dist-packages|test|tests|idlelib|lib2to3|tkinter|turtledemo)/' \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" ||
        echo "warning: a part of the standard library could not be compiled; processes start more slowly" >&2
}

# Runs a script's function `dependencies` or `application`, as its first argument says. Each is a layer of the image: the
# first needs only pyproject.toml, constraints.txt and docker/, so that an edit of the source does not run it again.
run_step() {
    case "${1:-}" in
    dependencies | application) "$1" ;;
    *) echo "usage: $(basename "$0") dependencies|application SOURCE" >&2; exit 2 ;;
    esac
}

# Prints the requirements of extras.
requirements_of() {
    python3 "$source_folder/docker/requirements.py" "$source_folder/pyproject.toml" "$@"
}

# Runs pip on /opt/tritone from a temporary environment: no layer of the image keeps pip, which a server does not need.
pip_for_tritone() {
    if [ ! -x /tmp/pip/bin/pip ]; then
        python3 -m venv /tmp/pip
    fi
    /tmp/pip/bin/pip --python /opt/tritone/bin/python "$@"
}

# Creates /opt/tritone with the requirements of extras at the versions of constraints.txt. PIP_ARGS: further arguments for
# pip (an index, for example).
install_requirements() {
    python3 -m venv --without-pip /opt/tritone
    requirements_of "$@" >/tmp/requirements.txt
    # shellcheck disable=SC2086  # PIP_ARGS is a list of words
    pip_for_tritone install ${PIP_ARGS:-} --constraint "$source_folder/constraints.txt" --requirement /tmp/requirements.txt
    rm -rf /tmp/pip /tmp/requirements.txt
}

# Installs the project into /opt/tritone, and fails if a dependency is missing or of another version than it allows.
install_project() {
    # shellcheck disable=SC2086
    pip_for_tritone install ${PIP_ARGS:-} --no-deps "$source_folder"
    pip_for_tritone check
    rm -rf /tmp/pip
}
