"""LitServe over HTTP with its own batching. Arguments: GRAPH PORT IMAGE_SHAPE."""

import base64
import sys

import litserve
import numpy as np
import onnxruntime

graph, port, shape = sys.argv[1], int(sys.argv[2]), [int(size) for size in sys.argv[3].split(",")]


class Network(litserve.LitAPI):
    def setup(self, device):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def decode_request(self, request):
        return np.frombuffer(base64.b64decode(request["images"]), np.uint8).reshape(shape)

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, images):
        return self.session.run(None, {"images": images})[0]

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    api = Network(max_batch_size=64, batch_timeout=0.001)
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(
        host="127.0.0.1", port=port, generate_client_file=False
    )
