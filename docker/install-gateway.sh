#!/usr/bin/env bash
# Builds the studio page, and installs the gateway with it into /opt/tritone.
#   install-gateway.sh packages SOURCE            SOURCE has studio/package.json and studio/package-lock.json; needs npm
#   install-gateway.sh page SOURCE                SOURCE has studio/ and those packages; needs npm
#   install-gateway.sh dependencies SOURCE        SOURCE has pyproject.toml, constraints.txt and docker/
#   install-gateway.sh application SOURCE         SOURCE is a checkout of this repository, with the page
source "$(dirname "$0")/common.sh"
source_folder=${2:?usage: install-gateway.sh packages|page|dependencies|application SOURCE}
page="$source_folder/gateway/tritone_gateway/static"

packages() {
    # The versions of the lock file; no package may run a script.
    npm --prefix "$source_folder/studio" ci --ignore-scripts --no-audit --no-fund
}

page() {
    npm --prefix "$source_folder/studio" run build
    test -f "$page/index.html"
}

dependencies() {
    require_python
    compile_standard_library
    add_user
    install_requirements gateway
}

application() {
    test -f "$page/index.html" || { echo "the page is not built: expected $page/index.html; run the step page" >&2; exit 1; }
    install_project
    # Fails here rather than at the first start.
    /opt/tritone/bin/python -B -c 'from tritone_gateway.routers.studio import PAGE
assert (PAGE / "index.html").is_file(), PAGE'
    PYTHONDONTWRITEBYTECODE=1 /opt/tritone/bin/tritone gateway --print-openapi >/dev/null
}

case "$1" in
packages | page) "$1" ;;
*) run_step "$1" ;;
esac
