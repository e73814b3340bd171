# The training job. From the repository's root:
#   docker build -f deploy/docker/training.Dockerfile -t simplecnn-training .
# PyPI's PyTorch for Linux includes CUDA and trains with or without a GPU.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
COPY deploy/locks/build.txt deploy/locks/training.txt ./
RUN python -m venv tools \
 && tools/bin/pip install --no-cache-dir --require-hashes --no-deps -r build.txt \
 && python -m venv --without-pip /opt/venv \
 && tools/bin/pip --python /opt/venv/bin/python install --no-cache-dir --require-hashes --no-deps -r training.txt
# The project's code is a layer of its own (3 MB), so that a change rebuilds only that. Of the service package it keeps
# pictures/, with which the job decodes and fits pictures as the service does, models/repository/, with which it tells as
# the service does whether a version is taken, and core/ and pb/, of which these need some modules.
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY service service
COPY training training
RUN tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir wheels . \
 && tools/bin/pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --prefix /opt/app wheels/*.whl \
 && rm -r /opt/app/bin/cnn-serve /opt/app/bin/cnn-client \
 && find /opt/app/lib/python*/site-packages/service -mindepth 1 -maxdepth 1 ! -name __init__.py ! -name pictures ! -name models ! -name core ! -name pb -exec rm -r {} + \
 && find /opt/app/lib/python*/site-packages/service/models -mindepth 1 -maxdepth 1 ! -name __init__.py ! -name repository -exec rm -r {} +

FROM ${PYTHON_IMAGE}
ARG PYTHON_IMAGE VERSION=0.1.0 REVISION=
LABEL org.opencontainers.image.title="simplecnn-training" \
      org.opencontainers.image.description="Trains small convolutional networks and publishes them as ONNX" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
# A new volume takes the owner of the folder it is mounted over. Kubernetes' runAsNonRoot needs a numeric user.
RUN groupadd --gid 10001 simplecnn \
 && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /tmp --shell /usr/sbin/nologin simplecnn \
 && install -d -o 10001 -g 10001 /models /data /runs
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/app /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MPLCONFIGDIR=/tmp \
    GOMP_SPINCOUNT=1000 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SIMPLECNN_COMMIT=${REVISION} \
    TRAINING_DATA_DIR=/data \
    TRAINING_REPOSITORY=/models \
    TRAINING_RUNS_DIR=/runs
USER 10001:10001
# The exit status of the job gives its result; a running job has nothing to probe.
HEALTHCHECK NONE
ENTRYPOINT ["cnn-train"]
