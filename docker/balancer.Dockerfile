# syntax=docker/dockerfile:1
# The load balancer: Debian's HAProxy, the version that the tests run, with docker/haproxy.cfg.
ARG BASE=debian:12.11-slim
FROM ${BASE}

# HAProxy is a layer of its own, which an edit of its configuration leaves as it is.
COPY docker/common.sh docker/install-balancer.sh /src/docker/
RUN bash /src/docker/install-balancer.sh dependencies /src

COPY docker/run-balancer.sh docker/haproxy.cfg docker/haproxy-tls.cfg docker/haproxy-gateway.cfg \
    docker/inspect_requests.lua docker/renew_certificate.lua /src/docker/
RUN bash /src/docker/install-balancer.sh application /src && rm -rf /src

USER 10001:10001
EXPOSE 8000 8001 8080 8404 8443 8444 8445
STOPSIGNAL SIGUSR1
HEALTHCHECK --interval=10s --timeout=3s --retries=2 CMD ["/opt/tritone/run-balancer.sh", "check"]
ENTRYPOINT ["/opt/tritone/run-balancer.sh"]
CMD ["run"]
