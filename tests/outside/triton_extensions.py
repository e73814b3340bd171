"""All that NVIDIA's clients can ask beside plain inference, synchronous and asyncio: ADDRESS TOKEN. Prints JSON.

The server has the models `text` and `half` (identities of strings and 16-bit brain floats), `adding` and `classes`.
"""

import asyncio
import json
import queue
import sys

import ml_dtypes
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

address, token = sys.argv[1:]
headers = {"authorization": f"Bearer {token}"}


def tensor(module, name, values, datatype):
    """An input of either client."""
    result = module.InferInput(name, list(values.shape), datatype)
    result.set_data_from_numpy(values)
    return result


def status(call):
    """The status that the call is refused with."""
    try:
        call()
    except triton.InferenceServerException as error:
        return str(error.status()).removeprefix("StatusCode.")
    return "OK"


def synchronous():
    client = triton.InferenceServerClient(address)
    words = np.array([["snow", "ü", ""]], np.object_)
    text = client.infer("text", [tensor(triton, "x", words, "BYTES")], headers=headers).as_numpy("y")
    halves = np.array([[1.5, -2.0, 0.25]], ml_dtypes.bfloat16)
    half = client.infer("half", [tensor(triton, "x", halves, "BF16")], headers=headers).as_numpy("y")
    numbers = np.array([[1, 2]], np.int32)
    pair = [tensor(triton, "a", numbers, "INT32"), tensor(triton, "b", numbers, "INT32")]
    both = client.infer("adding", pair, headers=headers, priority=2, timeout=1_000_000, parameters={"mine": "yes"})
    scores = tensor(triton, "x", np.array([[0.1, 0.7, 0.2, 0.0]], np.float32), "FP32")
    wanted = triton.InferRequestedOutput("y", class_count=2)
    classes = client.infer("classes", [scores], outputs=[wanted], headers=headers).as_numpy("y")

    done = queue.Queue()
    client.async_infer("classes", [scores], lambda result, error: done.put((result, error)), headers=headers)
    result, error = done.get(timeout=30)

    streamed = queue.Queue()
    client.start_stream(lambda result, error: streamed.put((result, error)), headers=headers)
    for index in range(20):
        client.async_stream_infer("classes" if index % 5 else "nobody", [scores], request_id=str(index))
    answers = [streamed.get(timeout=30) for _ in range(20)]
    client.stop_stream()

    client.unload_model("classes", headers=headers)
    unloaded = client.is_model_ready("classes", headers=headers)
    client.load_model("classes", headers=headers)
    settings = client.update_log_settings({"log_info": True}, headers=headers, as_json=True)
    return {
        "text": [word.decode() for word in text.ravel()],
        "half": half.astype(np.float32).ravel().tolist(),
        "sum": both.as_numpy("sum").tolist(),
        "classes": [text.decode() for text in classes.ravel()],
        "async": error is None and result.as_numpy("y").shape == (1, 4),
        "streamed": sorted(int(result.get_response().id) for result, error in answers if error is None),
        "stream errors": sum("nobody" in str(error) for _, error in answers if error is not None),
        "unloaded": not unloaded,
        "loaded": client.is_model_ready("classes", headers=headers),
        "log settings": client.get_log_settings(headers=headers, as_json=True) == settings,
        "statistics": client.get_inference_statistics("classes", headers=headers).model_stats[0].name,
        "no token": status(lambda: client.infer("classes", [scores])),
        "trace": status(lambda: client.get_trace_settings(headers=headers)),
        "shared memory": status(lambda: client.get_system_shared_memory_status(headers=headers)),
        "cuda memory": status(lambda: client.get_cuda_shared_memory_status(headers=headers)),
        "override": status(lambda: client.load_model("classes", config="{}", headers=headers)),
    }


async def asynchronous():
    client = triton_aio.InferenceServerClient(address)
    scores = tensor(triton_aio, "x", np.array([[0.1, 0.7, 0.2, 0.0]], np.float32), "FP32")

    async def requests():
        for index in range(20):
            yield {
                "model_name": "classes" if index % 5 else "nobody",
                "inputs": [scores],
                "request_id": str(index),
            }

    answers = [answer async for answer in client.stream_infer(requests(), headers=headers)]
    wanted = triton_aio.InferRequestedOutput("y", class_count=1)
    result = await client.infer("classes", [scores], outputs=[wanted], headers=headers)
    await client.unload_model("classes", headers=headers)
    unloaded = await client.is_model_ready("classes", headers=headers)
    await client.load_model("classes", headers=headers)
    loaded = await client.is_model_ready("classes", headers=headers)
    index = await client.get_model_repository_index(headers=headers)
    await client.close()
    return {
        "streamed": sorted(int(result.get_response().id) for result, error in answers if error is None),
        "stream errors": sum("nobody" in str(error) for _, error in answers if error is not None),
        "classes": result.as_numpy("y").ravel().tolist()[0].decode(),
        "unloaded": not unloaded,
        "loaded": loaded,
        "index": sorted(model.name for model in index.models),
    }


json.dump({"sync": synchronous(), "aio": asyncio.run(asynchronous())}, sys.stdout)
