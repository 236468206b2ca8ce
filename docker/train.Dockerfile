# syntax=docker/dockerfile:1
# Training, evaluation and export, with the CUDA build of torch that PyPI has.
#   docker build -f docker/train.Dockerfile -t tritone/train:0.2.0 .
#   docker run --rm --gpus all --shm-size 2g -v "$PWD:/work" tritone/train:0.2.0 train genre_cnn --data my_music
# Without a GPU, 4 GB less: --build-arg PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
# For deploy/kubernetes/refit: --build-arg EXTRAS="train export serve" -t tritone/refit:0.2.0
# For deploy/kubernetes/ray, which needs NumPy 2: --build-arg EXTRAS="train ray batch" -t tritone/train-ray:0.2.0
ARG BASE=python:3.11.14-slim-bookworm
FROM ${BASE}
ARG PIP_ARGS=""
ARG EXTRAS="train export"

# The dependencies are a layer of their own, which an edit of the source leaves as it is.
COPY pyproject.toml constraints.txt constraints-engines.txt /src/
COPY docker/common.sh docker/requirements.py docker/install-train.sh /src/docker/
RUN PIP_ARGS="${PIP_ARGS}" EXTRAS="${EXTRAS}" bash /src/docker/install-train.sh dependencies /src

COPY . /src
RUN PIP_ARGS="${PIP_ARGS}" bash /src/docker/install-train.sh application /src && rm -rf /src

ENV PATH=/opt/tritone/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp
USER 10001:10001
WORKDIR /work
# Batch container: no health check; use the exit status.
HEALTHCHECK NONE
ENTRYPOINT ["tritone"]
CMD ["--help"]
