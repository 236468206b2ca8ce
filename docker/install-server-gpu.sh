#!/usr/bin/env bash
# Installs Tritone into NVIDIA's Triton image, beside its server and its native onnxruntime backend.
#   install-server-gpu.sh dependencies SOURCE        SOURCE has pyproject.toml, constraints.txt and docker/
#   install-server-gpu.sh application SOURCE         SOURCE is a checkout of this repository
# Into the image's own Python, not into an environment: that is where its python backend's stub imports from.
source "$(dirname "$0")/common.sh"
source_folder=${2:?usage: install-server-gpu.sh dependencies|application SOURCE}

dependencies() {
    test -x /opt/tritonserver/bin/tritonserver || { echo "this is not NVIDIA's image: no /opt/tritonserver" >&2; exit 1; }
    test -d /opt/tritonserver/backends/onnxruntime || { echo "this image has no native onnxruntime backend" >&2; exit 1; }
    python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' ||
        { echo "Tritone needs Python 3.11 or 3.12; this image has $(python3 -V)" >&2; exit 1; }
    add_user
    # `backends` is `serve` without the wheel's server. Its onnxruntime runs composer, which is on the CPU in the gpu profile.
    requirements_of backends >/tmp/requirements.txt
    # shellcheck disable=SC2086  # PIP_ARGS is a list of words
    python3 -m pip install --break-system-packages --ignore-installed ${PIP_ARGS:-} \
        --constraint "$source_folder/constraints.txt" --requirement /tmp/requirements.txt
    rm /tmp/requirements.txt
    mkdir -p /models
}

application() {
    # shellcheck disable=SC2086
    python3 -m pip install --break-system-packages --no-deps ${PIP_ARGS:-} "$source_folder"
    python3 -B -c 'from tritone_serving.server.installation import find_installation
found = find_installation()
assert found.stub is None, found
print(found.binary)'
    tritone --help >/dev/null
}

run_step "$1"
