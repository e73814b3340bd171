"""Measures Classify: pictures a second and latency, by kind of picture and number of callers.

Each caller sends one picture a call, the next one when it has the answer. Several `--address` are measured in turns,
round by round, and the table ends with the ratio of each to the first: start the service of two commits, and compare.
"""

import argparse
import asyncio
import contextlib
import io
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import grpc
import numpy as np
from PIL import Image

from service.pb import classifier_pb2 as pb
from tests.support.images import big_scan
from tests.support.paths import ROOT
from tests.support.processes import service_process

METHOD = "/simplecnn.v1.ImageClassifier/Classify"
CALLERS = (1, 8)


def pictures() -> dict[str, bytes]:
    """One digit as small and large files, as people have them."""
    with np.load(ROOT / "training/data/samples/mnist-sample.npz") as arrays:
        digit = arrays["test_images"][3]
    scan = big_scan(digit[:, :, None])
    page = np.asarray(scan.resize((4032, 3024), Image.Resampling.BICUBIC)).astype(np.int16)
    noise = np.random.default_rng(0).normal(0, 3, page.shape)  # a sensor's, so that the file has a photograph's size
    photograph = Image.fromarray((page + noise).clip(0, 255).astype(np.uint8))
    return {
        "PNG 28 × 28": encoded(Image.fromarray(digit), "PNG"),
        "PNG 400 × 300": encoded(scan, "PNG"),
        "JPEG 12 MP": encoded(photograph, "JPEG"),
    }


def encoded(image: Image.Image, file_format: str) -> bytes:
    """The image as a file."""
    file = io.BytesIO()
    image.save(file, file_format, quality=85)
    return file.getvalue()


def measure(address: str, model: str, picture: bytes, callers: int, seconds: float) -> list[float]:
    """The latencies of the calls of a closed loop, in seconds. Every picture must be classified."""
    request = pb.ClassifyRequest(model_name=model, images=[pb.Image(encoded=picture)]).SerializeToString()
    latencies: list[float] = []

    async def caller(channel: grpc.aio.Channel, end: float) -> None:
        classify = channel.unary_unary(METHOD, response_deserializer=pb.ClassifyResponse.FromString)  # type: ignore[var-annotated]
        while (started := time.perf_counter()) < end:
            (result,) = (await classify(request)).results
            assert result.classes, result.error.message
            latencies.append(time.perf_counter() - started)

    async def main() -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            await asyncio.gather(*(caller(channel, time.perf_counter() + seconds) for _ in range(callers)))

    asyncio.run(main())
    return latencies


@contextlib.contextmanager
def addresses(given: list[str], repository: Path) -> Iterator[list[str]]:
    """The addresses to measure; without any, that of a service of this checkout."""
    if given:
        yield given
        return
    with service_process(repository, "--device", "cpu") as service:
        yield [service.address]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", action="append", default=[], help="a running service; may be repeated")
    parser.add_argument("--repository", type=Path, default=ROOT / "models", help="without an address: what to serve")
    parser.add_argument("--model", default="mnist-simplecnn", help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement (%(default)s)")
    arguments = parser.parse_args()
    heads = ("pictures/s", "p50 ms", "p99 ms", "ratio/s", "ratio p50")
    print(f"{'picture':16}{'callers':>8}  {'service':24}" + "".join(f"{head:>12}" for head in heads))
    with addresses(arguments.address, arguments.repository) as servers:
        for name, picture in pictures().items():
            for callers in CALLERS:
                runs: dict[str, list[tuple[float, float, float]]] = {server: [] for server in servers}
                for number in range(arguments.rounds + 1):  # the first round warms up
                    for server in servers:
                        seconds = arguments.seconds if number else 0.2
                        latencies = measure(server, arguments.model, picture, callers, seconds)
                        p50, p99 = np.percentile(latencies, [50, 99]) * 1e3
                        if number:
                            runs[server].append((len(latencies) / seconds, float(p50), float(p99)))
                for server in servers:
                    pairs = list(zip(runs[server], runs[servers[0]], strict=True))
                    columns = [median(run[index] for run in runs[server]) for index in range(3)]
                    columns += [median(run[index] / first[index] for run, first in pairs) for index in (0, 1)]
                    print(f"{name:16}{callers:8}  {server:24}" + "".join(f"{column:12.2f}" for column in columns))


if __name__ == "__main__":
    main()
