# The edge: Envoy and the program that runs it. From the repository's root:
#   docker build -f deploy/docker/edge.Dockerfile -t simplecnn-edge .
# Envoy's own image has no shell and no Python, so nothing in it could check the edge's health or drain it.
ARG ENVOY_IMAGE=envoyproxy/envoy:distroless-v1.40.0
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${ENVOY_IMAGE} AS envoy

FROM ${PYTHON_IMAGE}
ARG PYTHON_IMAGE VERSION=0.1.0 REVISION=
LABEL org.opencontainers.image.title="simplecnn-edge" \
      org.opencontainers.image.description="Envoy before the inference service: TLS, limits, gRPC-Web and JSON" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
COPY --from=envoy /usr/local/bin/envoy /usr/local/bin/envoy
COPY deploy/edge /opt/edge
WORKDIR /opt
ENV PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8001 8003
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s CMD ["python", "-m", "edge", "health"]
ENTRYPOINT ["python", "-m", "edge"]
