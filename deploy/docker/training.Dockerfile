# The training job. From the repository's root:
#   docker build -f deploy/docker/training.Dockerfile -t simplecnn-training .
# PyTorch as PyPI has it for Linux brings CUDA, and trains with or without a GPU.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
COPY deploy/locks/build.txt deploy/locks/training.txt ./
RUN python -m venv tools \
 && tools/bin/pip install --no-cache-dir --require-hashes --no-deps -r build.txt \
 && python -m venv --without-pip /opt/venv \
 && tools/bin/pip --python /opt/venv/bin/python install --no-cache-dir --require-hashes --no-deps -r training.txt
# Our own code apart from that, so that a change of it is a layer of 3 MB; the service's stays out.
COPY pyproject.toml README.md LICENSE ./
COPY service service
COPY training training
RUN tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir wheels . \
 && tools/bin/pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --prefix /opt/app wheels/*.whl \
 && rm -r /opt/app/bin/cnn-serve /opt/app/bin/cnn-client /opt/app/lib/python*/site-packages/service

FROM ${PYTHON_IMAGE}
ARG PYTHON_IMAGE VERSION=0.1.0 REVISION=
LABEL org.opencontainers.image.title="simplecnn-training" \
      org.opencontainers.image.description="Trains small convolutional networks and publishes them as ONNX" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
# Mounted volumes take the owner of the folder that they cover, and a number is what Kubernetes can check.
RUN groupadd --gid 10001 simplecnn \
 && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /tmp --shell /usr/sbin/nologin simplecnn \
 && install -d -o 10001 -g 10001 /models /data /runs
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/app /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SIMPLECNN_COMMIT=${REVISION} \
    TRAINING_DATA_DIR=/data \
    TRAINING_REPOSITORY=/models \
    TRAINING_RUNS=/runs
USER 10001:10001
# A job says by its exit status how it went; there is nothing to ask meanwhile.
HEALTHCHECK NONE
ENTRYPOINT ["cnn-train"]
