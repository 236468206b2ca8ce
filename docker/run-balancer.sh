#!/usr/bin/env bash
# Runs HAProxy on docker/haproxy.cfg: `run`, `validate` the configuration, or `check` that it answers.
# Variables: TRITONE_REPLICAS (a name whose addresses are the replicas; needed), TRITONE_TLS_PEM (certificate and key
# in one file, absolute path; adds TLS), TRITONE_GATEWAYS (a name whose addresses are the gateways; adds REST), TRITONE_DNS
# and those at the head of haproxy.cfg, haproxy-tls.cfg and haproxy-gateway.cfg.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

: "${TRITONE_REPLICAS:?a host name whose addresses are the Triton replicas, server or tritone-replicas.NAMESPACE.svc.cluster.local say}"
# HAProxy asks the name server itself, again and again, so that replicas come and go without a restart.
if [ -z "${TRITONE_DNS:-}" ]; then
    TRITONE_DNS=$(awk '/^nameserver/ && $2 !~ /:/ {print $2 ":53"; exit}' /etc/resolv.conf)
fi
export TRITONE_REPLICAS TRITONE_DNS="${TRITONE_DNS:-127.0.0.1:53}" TRITONE_BALANCER_FOLDER="$here"
files=(-f "$here/haproxy.cfg")
if [ -n "${TRITONE_TLS_PEM:-}" ]; then
    [ "${TRITONE_TLS_PEM#/}" != "$TRITONE_TLS_PEM" ] ||
        { echo "TRITONE_TLS_PEM: expected an absolute path, got $TRITONE_TLS_PEM" >&2; exit 2; }
    export TRITONE_TLS_TRIAL="abns@tritone-certificate-$$"  # for renew_certificate.lua
    files+=(-f "$here/haproxy-tls.cfg")
else
    unset TRITONE_TLS_PEM  # empty is the same as not set
fi
if [ -n "${TRITONE_GATEWAYS:-}" ]; then
    files+=(-f "$here/haproxy-gateway.cfg")
fi

case "${1:-run}" in
run) exec haproxy -W -db "${files[@]}" ;;
validate) exec haproxy -c "${files[@]}" ;;
check) exec bash -c "exec 3<>/dev/tcp/127.0.0.1/${TRITONE_STATS_PORT:-8404} && printf 'GET /alive HTTP/1.0\r\n\r\n' >&3 && grep -q '200 OK' <&3" ;;
*) echo "usage: run-balancer.sh [run|validate|check]" >&2; exit 2 ;;
esac
