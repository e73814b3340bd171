"""KServe's Python SDK with its gRPC server. Arguments: GRAPH PORT."""

import sys

import onnxruntime
from kserve import InferOutput, InferResponse, Model, ModelServer

graph, port = sys.argv[1], int(sys.argv[2])


class Network(Model):
    def __init__(self):
        super().__init__("mnist-simplecnn")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        images = payload.inputs[0].as_numpy()
        (answer,) = self.session.run(None, {"images": images})
        output = InferOutput(name="probabilities", shape=list(answer.shape), datatype="FP32")
        output.set_data_from_numpy(answer, binary_data=True)
        return InferResponse(response_id=payload.id, model_name=self.name, infer_outputs=[output])


if __name__ == "__main__":
    ModelServer(http_port=port + 1, grpc_port=port, workers=1).start([Network()])
