"""NVIDIA's clients over TLS, synchronous and asyncio: ADDRESS MODEL CA [CERTIFICATE KEY]. Prints JSON.

Sends one zero per element to every input of the model. CNN_TOKEN, if set, is the bearer token.
"""

import asyncio
import json
import os
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import triton_to_np_dtype

address, model, authority, *pair = sys.argv[1:]
certificate, key = pair or (None, None)
options = {"ssl": True, "root_certificates": authority, "private_key": key, "certificate_chain": certificate}
token = os.environ.get("CNN_TOKEN")
headers = {"authorization": f"Bearer {token}"} if token else None


def inputs(module, metadata):
    """A request of one row."""
    tensors = []
    for described in metadata.inputs:
        shape = [max(int(size), 1) for size in described.shape]
        tensors.append(module.InferInput(described.name, shape, described.datatype))
        tensors[-1].set_data_from_numpy(np.zeros(shape, triton_to_np_dtype(described.datatype)))
    return tensors


def synchronous():
    with triton.InferenceServerClient(address, **options) as client:
        metadata = client.get_model_metadata(model, headers=headers)
        result = client.infer(model, inputs(triton, metadata), headers=headers)
        ready = client.is_server_ready(headers=headers)
    return {"ready": ready, "shapes": [list(output.shape) for output in result.get_response().outputs]}


async def asynchronous():
    async with triton_aio.InferenceServerClient(address, **options) as client:
        metadata = await client.get_model_metadata(model, headers=headers)
        result = await client.infer(model, inputs(triton_aio, metadata), headers=headers)
        ready = await client.is_server_ready(headers=headers)
    return {"ready": ready, "shapes": [list(output.shape) for output in result.get_response().outputs]}


def refusal():
    """The status of a call without TLS."""
    try:
        triton.InferenceServerClient(address).is_server_live(client_timeout=5)
    except triton.InferenceServerException as error:
        return str(error.status()).removeprefix("StatusCode.")
    return "OK"


json.dump({"sync": synchronous(), "aio": asyncio.run(asynchronous()), "plain": refusal()}, sys.stdout)
