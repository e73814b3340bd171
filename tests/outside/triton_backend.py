"""A back end for the real Triton of ../shared/bench, whose wheel has none for ONNX: it stands in under that name.

Triton itself reads our repository, config.pbtxt and labels.txt; this only runs the graph.
"""

import os
import sys

sys.path.insert(0, os.environ["PEER_SITE"])
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    """What Triton's Python back end calls."""

    def initialize(self, args):
        """Open the version's graph where Triton says it is."""
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        """Answer each request."""
        return [
            triton.InferenceResponse(
                [
                    triton.Tensor(output.name, array)
                    for output, array in zip(
                        self.session.get_outputs(),
                        self.session.run(None, {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}),
                        strict=True,
                    )
                ]
            )
            for request in requests
        ]
