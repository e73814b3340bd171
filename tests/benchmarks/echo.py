"""A bare echo on the native server, for what that server alone costs: `python -m tests.benchmarks.echo ADDRESS MODEL`.

Everything that load generators ask of a server is answered as the service at ADDRESS answered it once; only the count
of inferences moves. Prints its address, and runs until it is killed.
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
    """Learn the answers, then give them."""
    address, model = sys.argv[1:]
    with grpc.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        answers = {
            "ModelInfer": stub.ModelInfer(infer_request(model, images=np.zeros((1, *SHAPES[model]), np.uint8))),
            "ModelStatistics": stub.ModelStatistics(pb.ModelStatisticsRequest(name=model)),
            "ServerLive": stub.ServerLive(pb.ServerLiveRequest()),
            "ServerReady": stub.ServerReady(pb.ServerReadyRequest()),
            "ServerMetadata": stub.ServerMetadata(pb.ServerMetadataRequest()),
            "ModelReady": stub.ModelReady(pb.ModelReadyRequest(name=model)),
            "ModelMetadata": stub.ModelMetadata(pb.ModelMetadataRequest(name=model)),
            "ModelConfig": stub.ModelConfig(pb.ModelConfigRequest(name=model)),
        }
    payloads = [answer.SerializeToString() for answer in answers.values()]
    statistics = answers["ModelStatistics"]
    grpc_server = NativeGrpcFront(
        "127.0.0.1:0", [(f"{SERVICE}/{name}", False) for name in answers], call_details=True, io_threads=1
    )
    grpc_server.start()
    print(f"127.0.0.1:{grpc_server.bound_port}", flush=True)
    count = 0
    while (events := grpc_server.recv_batch_details(256)) is not None:
        for _, call_id, method, payload, _, _ in events:
            if payload is None:
                continue
            reply = payloads[method]
            if method == INFER:
                count += 1
                start, _, end = split_id(payload)
                reply = payload[start:end] + reply  # callers tell answers by the id, whose field has one number in both
            elif method == STATISTICS:
                inference = statistics.model_stats[0]
                inference.inference_count = inference.execution_count = count
                durations = inference.inference_stats
                for field in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
                    getattr(durations, field).count = count
                    getattr(durations, field).ns = count
                reply = statistics.SerializeToString()
            grpc_server.respond(call_id, reply)


if __name__ == "__main__":
    main()
