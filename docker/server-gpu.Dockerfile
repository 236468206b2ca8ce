# syntax=docker/dockerfile:1
# Triton on NVIDIA GPUs: NVIDIA's image with its native onnxruntime backend, and our cf_ensemble, composer, recordings and renderer beside it.
#   docker build -f docker/server-gpu.Dockerfile -t tritone/server-gpu:0.2.0 .
# 24.11 is the first release with Python 3.12; before, it has 3.10, which is too old for our backends.
ARG BASE=nvcr.io/nvidia/tritonserver:24.12-py3
FROM ${BASE}

# The dependencies are a layer of their own, which an edit of the source leaves as it is.
COPY pyproject.toml constraints.txt /src/
COPY docker/common.sh docker/requirements.py docker/install-server-gpu.sh /src/docker/
RUN bash /src/docker/install-server-gpu.sh dependencies /src

COPY . /src
RUN bash /src/docker/install-server-gpu.sh application /src && rm -rf /src

ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    XDG_STATE_HOME=/tmp/state \
    TRITONE_EVENTS=off
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000 8001 8002 8003
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=180s --retries=2 \
    CMD ["python3", "-I", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8003/ready', timeout=8)"]
# NVIDIA's own entry point prints a banner and checks the driver, then runs what follows.
ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh", "tritone"]
CMD ["serve", "--profile", "gpu", "--repository", "/models", "--host", "0.0.0.0", "--startup-timeout", "180", \
     "--log-format", "json"]
