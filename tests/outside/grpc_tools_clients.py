"""gRPC's own health and reflection clients against a running service: ADDRESS. Prints JSON."""

import json
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

channel = grpc.insecure_channel(sys.argv[1])
health = health_pb2_grpc.HealthStub(channel)
statuses = {
    name: health_pb2.HealthCheckResponse.ServingStatus.Name(
        health.Check(health_pb2.HealthCheckRequest(service=name)).status
    )
    for name in ("", "liveness", "mnist-simplecnn")
}
try:
    health.Check(health_pb2.HealthCheckRequest(service="nobody"))
    unknown = "no error"
except grpc.RpcError as error:
    unknown = error.code().name
watch = health.Watch(health_pb2.HealthCheckRequest(service="nobody"))
watched = health_pb2.HealthCheckResponse.ServingStatus.Name(next(watch).status)
watch.cancel()
database = ProtoReflectionDescriptorDatabase(channel)
services = sorted(database.get_services())
described = {
    f"{file.package}.{service.name}": [method.name for method in service.method]
    for file in {file.name: file for file in map(database.FindFileContainingSymbol, services)}.values()
    for service in file.service
}
json.dump(
    {
        "statuses": statuses,
        "unknown": unknown,
        "watched": watched,
        "services": services,
        "methods": described["inference.GRPCInferenceService"],
        "described": described,
    },
    sys.stdout,
)
