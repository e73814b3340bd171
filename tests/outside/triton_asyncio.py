"""NVIDIA's asyncio client against a running service, 64 calls in flight: ADDRESS IMAGES.npz. Prints JSON."""

import asyncio
import json
import sys

import numpy as np
import tritonclient.grpc.aio as triton


async def main(address: str, path: str) -> None:
    """Send every image as its own request, all at once, and some of several rows."""
    images = np.load(path)["images"]
    client = triton.InferenceServerClient(address)

    async def infer(batch: np.ndarray) -> list[list[float]]:
        tensor = triton.InferInput("images", list(batch.shape), "UINT8")
        tensor.set_data_from_numpy(batch)
        result = await client.infer("mnist-simplecnn", [tensor])
        return result.as_numpy("probabilities").tolist()

    limit = asyncio.Semaphore(64)

    async def limited(batch: np.ndarray) -> list[list[float]]:
        async with limit:
            return await infer(batch)

    sizes = [1, 3, 1, 2, 5, 1, 7] * 1000
    batches, start = [], 0
    for size in sizes:
        if start >= len(images):
            break
        batches.append(images[start : start + size])
        start += size
    answers = await asyncio.gather(*(limited(batch) for batch in batches))
    ready = await client.is_model_ready("mnist-simplecnn")
    await client.close()
    json.dump({"ready": ready, "probabilities": [row for answer in answers for row in answer]}, sys.stdout)


asyncio.run(main(*sys.argv[1:]))
