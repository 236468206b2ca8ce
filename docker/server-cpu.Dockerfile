# syntax=docker/dockerfile:1
# Triton on CPUs: the server of the nvidia-pytriton wheel on a slim Python image, without torch.
#   docker build -f docker/server-cpu.Dockerfile -t tritone/server-cpu:0.2.0 .
# Give BASE a digest (python:...@sha256:...) where builds must be the same to the byte.
ARG BASE=python:3.11.14-slim-bookworm
FROM ${BASE}

# The dependencies are a layer of their own, which an edit of the source leaves as it is.
COPY pyproject.toml constraints.txt /src/
COPY docker/common.sh docker/requirements.py docker/install-server-cpu.sh /src/docker/
RUN bash /src/docker/install-server-cpu.sh dependencies /src

COPY . /src
RUN bash /src/docker/install-server-cpu.sh application /src && rm -rf /src

ENV PATH=/opt/tritone/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    XDG_STATE_HOME=/tmp/state \
    TRITONE_EVENTS=off
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000 8001 8002 8003
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=2 \
    CMD ["python3", "-I", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8003/ready', timeout=8)"]
ENTRYPOINT ["tritone"]
CMD ["serve", "--repository", "/models", "--host", "0.0.0.0", "--log-format", "json"]
