"""NVIDIA's client over TLS with a client certificate: ADDRESS CA KEY CERTIFICATE TOKEN. Prints JSON."""

import json
import sys

import numpy as np
import tritonclient.grpc as triton

address, ca, key, certificate, token = sys.argv[1:]
client = triton.InferenceServerClient(
    address, ssl=True, root_certificates=ca, private_key=key, certificate_chain=certificate
)
headers = {"authorization": f"Bearer {token}"}
tensor = triton.InferInput("x", [1, 4], "FP32")
tensor.set_data_from_numpy(np.ones((1, 4), np.float32))
answer = client.infer("double", [tensor], headers=headers).as_numpy("y")
try:
    client.infer("double", [tensor])
    without = "no error"
except triton.InferenceServerException as error:
    without = str(error.status())
json.dump({"ready": client.is_server_ready(headers=headers), "answer": answer.tolist(), "without": without}, sys.stdout)
