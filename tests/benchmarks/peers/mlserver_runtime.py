"""MLServer with its adaptive batching, for the ONNX file $GRAPH; model-settings.json names the class below."""

import os

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Network(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["GRAPH"], options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload):
        images = NumpyCodec.decode_input(payload.inputs[0]).astype(np.uint8)
        (answer,) = self.session.run(None, {"images": images})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("probabilities", answer)])
