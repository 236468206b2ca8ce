#!/usr/bin/env bash
# Runs HAProxy on docker/haproxy.cfg: `run`, `validate` the configuration, or `check` that it answers.
# Variables: TRITONE_REPLICAS (a name whose addresses are the replicas; needed), TRITONE_TLS_PEM (certificate and key
# in one file; adds TLS), TRITONE_TLS_RELOAD_S (seconds between checks of that file, default 10), TRITONE_DNS and those at
# the head of haproxy.cfg.
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
    files+=(-f "$here/haproxy-tls.cfg")
fi

# Runs HAProxy, and reloads it when the certificate's file has changed and the configuration is valid with it. New
# connections get the new certificate; the old worker finishes the requests that it has. A file that is half written, or
# whose key does not fit, fails the validation: the certificate in use stays until the file changes again.
run_with_certificate() {
    local haproxy timer signal seen now status
    haproxy -W -db "${files[@]}" &
    haproxy=$!
    for signal in TERM HUP USR1 USR2; do
        # shellcheck disable=SC2064  # the number is known now
        trap "kill -$signal $haproxy 2>/dev/null || true" "$signal"
    done
    # shellcheck disable=SC2064
    trap "kill -TERM $haproxy 2>/dev/null || true" INT
    seen=$(cksum 2>/dev/null <"$TRITONE_TLS_PEM" || true)
    while true; do
        sleep "${TRITONE_TLS_RELOAD_S:-10}" &
        timer=$!
        status=0
        wait -n "$haproxy" "$timer" || status=$?  # a signal ends it too
        kill "$timer" 2>/dev/null || true
        kill -0 "$haproxy" 2>/dev/null || exit "$status"
        now=$(cksum 2>/dev/null <"$TRITONE_TLS_PEM" || true)
        if [ -z "$now" ] || [ "$now" = "$seen" ]; then continue; fi
        seen=$now
        if haproxy -c "${files[@]}" >/dev/null; then
            echo "certificate $TRITONE_TLS_PEM was renewed: reloading" >&2
            kill -USR2 "$haproxy"
        else
            echo "certificate $TRITONE_TLS_PEM cannot be used (see above): the one before stays" >&2
        fi
    done
}

case "${1:-run}" in
run)
    if [ -n "${TRITONE_TLS_PEM:-}" ]; then run_with_certificate; fi
    exec haproxy -W -db "${files[@]}"
    ;;
validate) exec haproxy -c "${files[@]}" ;;
check) exec bash -c "exec 3<>/dev/tcp/127.0.0.1/${TRITONE_STATS_PORT:-8404} && printf 'GET /alive HTTP/1.0\r\n\r\n' >&3 && grep -q '200 OK' <&3" ;;
*) echo "usage: run-balancer.sh [run|validate|check]" >&2; exit 2 ;;
esac
