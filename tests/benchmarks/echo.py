"""An echo on the native server's library, the cost of gRPC alone: `python -m tests.benchmarks.echo ADDRESS MODEL`.

It answers each method that load generators call with one recorded response of the service at ADDRESS; only the
inference count changes. It prints its address and runs until it is killed.
"""

import sys

import grpc
import numpy as np
from pygrpc_native import NativeGrpcFront

from service.inference.decode_cache import split_id
from service.pb import inference_pb2 as pb
from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.benchmarks.models import SHAPES
from tests.support.requests import infer_request

SERVICE = "/inference.GRPCInferenceService"
INFER, STATISTICS = 0, 1


def main() -> None:
    """Record the responses, then serve them."""
    address, model = sys.argv[1:]
    with grpc.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        responses = {
            "ModelInfer": stub.ModelInfer(infer_request(model, images=np.zeros((1, *SHAPES[model]), np.uint8))),
            "ModelStatistics": stub.ModelStatistics(pb.ModelStatisticsRequest(name=model)),
            "ServerLive": stub.ServerLive(pb.ServerLiveRequest()),
            "ServerReady": stub.ServerReady(pb.ServerReadyRequest()),
            "ServerMetadata": stub.ServerMetadata(pb.ServerMetadataRequest()),
            "ModelReady": stub.ModelReady(pb.ModelReadyRequest(name=model)),
            "ModelMetadata": stub.ModelMetadata(pb.ModelMetadataRequest(name=model)),
            "ModelConfig": stub.ModelConfig(pb.ModelConfigRequest(name=model)),
        }
    payloads = [response.SerializeToString() for response in responses.values()]
    statistics = responses["ModelStatistics"]
    server = NativeGrpcFront(
        "127.0.0.1:0", [(f"{SERVICE}/{name}", False) for name in responses], call_details=True, io_threads=1
    )
    server.start()
    print(f"127.0.0.1:{server.bound_port}", flush=True)
    count = 0
    while (events := server.recv_batch_details(256)) is not None:
        for _, call_id, method, payload, _, _ in events:
            if payload is None:
                continue
            reply = payloads[method]
            if method == INFER:
                count += 1
                start, _, end = split_id(payload)
                reply = payload[start:end] + reply  # the id field has the same number in both
            elif method == STATISTICS:
                inference = statistics.model_stats[0]
                inference.inference_count = inference.execution_count = count
                durations = inference.inference_stats
                for field in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
                    getattr(durations, field).count = count
                    getattr(durations, field).ns = count
                reply = statistics.SerializeToString()
            server.respond(call_id, reply)


if __name__ == "__main__":
    main()
