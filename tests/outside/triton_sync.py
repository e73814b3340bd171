"""NVIDIA's synchronous client against a running service: ADDRESS IMAGES.npz. Prints what it got as JSON."""

import json
import sys

import numpy as np
import tritonclient.grpc as triton

address, path = sys.argv[1:]
images = np.load(path)["images"]
model = "mnist-simplecnn"
client = triton.InferenceServerClient(address)


def infer(batch: np.ndarray, **options: object) -> np.ndarray:
    """Probabilities of one request."""
    tensor = triton.InferInput("images", list(batch.shape), "UINT8")
    tensor.set_data_from_numpy(batch)
    return client.infer(model, [tensor], **options).as_numpy("probabilities")


one = triton.InferInput("images", [1, 28, 28, 1], "UINT8")
one.set_data_from_numpy(images[:1])
named = client.infer(model, [one], request_id="r-7", outputs=[triton.InferRequestedOutput("probabilities")])
try:
    client.infer("nobody", [one])
    unknown = "no error"
except triton.InferenceServerException as error:
    unknown = str(error.status())
statistics = client.get_inference_statistics(model).model_stats[0]
json.dump(
    {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(model),
        "server": client.get_server_metadata(as_json=True),
        "metadata": client.get_model_metadata(model, as_json=True),
        "config": client.get_model_config(model, as_json=True),
        "index": client.get_model_repository_index(as_json=True),
        "id": named.get_response().id,
        "unknown": unknown,
        "counted": statistics.inference_count > 0 and statistics.inference_stats.success.count > 0,
        "alone": np.concatenate([infer(images[i : i + 1]) for i in range(20)]).tolist(),
        "probabilities": np.concatenate([infer(images[i : i + 50]) for i in range(0, len(images), 50)]).tolist(),
        "timed": infer(images[:1], client_timeout=10.0).tolist(),
    },
    sys.stdout,
)
