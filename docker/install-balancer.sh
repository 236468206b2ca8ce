#!/usr/bin/env bash
# Installs Debian 12's HAProxy and the balancer's configuration into /opt/tritone.
#   install-balancer.sh dependencies SOURCE        SOURCE has docker/common.sh and this script
#   install-balancer.sh application SOURCE         SOURCE is a checkout of this repository
source "$(dirname "$0")/common.sh"
source_folder=${2:?usage: install-balancer.sh dependencies|application SOURCE}

dependencies() {
    # The series, not the build: Debian's archive drops a build as soon as its security team replaces it.
    install_packages "haproxy=2.6.*" ca-certificates
    add_user
}

application() {
    install -d /opt/tritone
    install -m 755 "$source_folder/docker/run-balancer.sh" /opt/tritone/
    install -m 644 "$source_folder/docker/haproxy.cfg" "$source_folder/docker/haproxy-tls.cfg" \
        "$source_folder/docker/haproxy-gateway.cfg" "$source_folder/docker/inspect_requests.lua" "$source_folder/docker/renew_certificate.lua" /opt/tritone/
    TRITONE_REPLICAS=localhost TRITONE_GATEWAYS=localhost /opt/tritone/run-balancer.sh validate
}

run_step "$1"
