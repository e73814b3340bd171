"""Our client, NVIDIA's and gRPC's health stub in one process: ADDRESS MODULES in the order of import. Prints JSON."""

import importlib
import io
import json
import sys

MODEL = "mnist-simplecnn"


def compare(address: str) -> dict[str, object]:
    """Make the same calls with each client."""
    import grpc
    import numpy as np
    import tritonclient.grpc as triton
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from PIL import Image

    from service.client import Client
    from service.pb import POOL, inference_pb2

    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    tensor = triton.InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images)
    file = io.BytesIO()
    Image.fromarray(images[0, :, :, 0]).save(file, "PNG")
    theirs = triton.InferenceServerClient(address)
    health = health_pb2_grpc.HealthStub(grpc.insecure_channel(address))
    with Client(address) as ours:
        expected = theirs.infer(MODEL, [tensor]).as_numpy("probabilities")
        probabilities = ours.predict(MODEL, images)
        results = ours.classify(MODEL, [file.getvalue(), b"no picture"])
        indexes = ours.models(), theirs.get_model_repository_index().models
        status = health.Check(health_pb2.HealthCheckRequest()).status
        serving = [ours.serving(), health_pb2.HealthCheckResponse.ServingStatus.Name(status)]
    codes = {code.value[0]: code.name for code in grpc.StatusCode}
    return {
        "pools": [inference_pb2.DESCRIPTOR.pool is POOL, triton.service_pb2.DESCRIPTOR.pool is POOL],
        "health": serving,
        "models": [[(model.name, model.version, model.state) for model in index] for index in indexes],
        "shape": probabilities.shape,
        "largest difference": float(np.abs(probabilities - expected).max()),
        "classified": [codes[result.error.code] for result in results],
    }


for module in sys.argv[2].split(","):
    importlib.import_module(module)
json.dump(compare(sys.argv[1]), sys.stdout)
