# The inference service. From the repository's root:
#   docker build -f deploy/docker/service.Dockerfile -t simplecnn-service .                          for the CPU
#   docker build -f deploy/docker/service.Dockerfile -t simplecnn-service --build-arg RUNTIME=gpu .  with CUDA 13 and cuDNN
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
ARG RUNTIME=cpu
WORKDIR /build
COPY deploy/locks/build.txt deploy/locks/service-${RUNTIME}.txt ./
RUN python -m venv tools \
 && tools/bin/pip install --no-cache-dir --require-hashes --no-deps -r build.txt \
 && python -m venv --without-pip /opt/venv \
 && tools/bin/pip --python /opt/venv/bin/python install --no-cache-dir --require-hashes --no-deps -r service-${RUNTIME}.txt
# The project's code is a layer of its own (1 MB), so that a change rebuilds only that. The training package is removed.
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY service service
COPY training training
RUN tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir wheels . \
 && tools/bin/pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --prefix /opt/app wheels/*.whl \
 && rm -r /opt/app/bin/cnn-train /opt/app/lib/python*/site-packages/training

FROM ${PYTHON_IMAGE}
ARG PYTHON_IMAGE RUNTIME=cpu VERSION=0.1.0 REVISION=
LABEL org.opencontainers.image.title="simplecnn-service" \
      org.opencontainers.image.description="gRPC inference for small convolutional networks, on ONNX Runtime (${RUNTIME})" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
# A new volume takes the owner of the folder it is mounted over. Kubernetes' runAsNonRoot needs a numeric user.
RUN groupadd --gid 10001 simplecnn \
 && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /tmp --shell /usr/sbin/nologin simplecnn \
 && install -d -o 10001 -g 10001 /models
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/app /opt/venv
# The container's own loopback address could not be published, so the service listens on all addresses. It starts only if told
# how strangers are kept out: -e SERVICE_BEHIND_EDGE=true, SERVICE_TLS_CERTIFICATE and SERVICE_TLS_KEY, or SERVICE_INSECURE=true.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SIMPLECNN_COMMIT=${REVISION} \
    SERVICE_HOST=0.0.0.0 \
    SERVICE_MODEL_REPOSITORY=/models
USER 10001:10001
EXPOSE 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s CMD ["cnn-client", "health"]
ENTRYPOINT ["cnn-serve"]
