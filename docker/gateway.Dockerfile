# syntax=docker/dockerfile:1
# The REST gateway with the studio page, in front of servers in other containers.
#   docker build -f docker/gateway.Dockerfile -t tritone/gateway:0.2.0 .
# Node 22 for its npm 10: npm 11 refuses the lock file, because vite names an optional package that the registry does not have.
# For reproducible builds, set NODE and BASE to digests (python:...@sha256:...).
ARG NODE=node:22.14.0-bookworm-slim
ARG BASE=python:3.11.14-slim-bookworm

# The page is built here because git ignores it: a checkout may have no page, or one of another version.
FROM ${NODE} AS page
COPY studio/package.json studio/package-lock.json /src/studio/
COPY docker/common.sh docker/install-gateway.sh /src/docker/
RUN bash /src/docker/install-gateway.sh packages /src
COPY studio /src/studio
RUN bash /src/docker/install-gateway.sh page /src

FROM ${BASE}

# The dependencies are a separate layer, which changes of the source do not invalidate.
COPY pyproject.toml constraints.txt /src/
COPY docker/common.sh docker/requirements.py docker/install-gateway.sh /src/docker/
RUN bash /src/docker/install-gateway.sh dependencies /src

COPY . /src
COPY --from=page /src/gateway/tritone_gateway/static /src/gateway/tritone_gateway/static
RUN bash /src/docker/install-gateway.sh application /src && rm -rf /src

ENV PATH=/opt/tritone/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    XDG_STATE_HOME=/tmp/state \
    TRITONE_GATEWAY_KEYS=/run/tritone/gateway/keys.json
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=2 \
    CMD ["python3", "-I", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/readyz', timeout=4)"]
ENTRYPOINT ["tritone"]
CMD ["gateway", "--host", "0.0.0.0", "--server", "balancer:8001", "--drain", "8", "--log-format", "json"]
