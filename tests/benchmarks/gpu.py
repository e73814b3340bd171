"""GPU throughput, alone and through the service: `make bench-gpu`, on a machine with an NVIDIA GPU.

Images per second of each network, measured three times: ONNX Runtime's run_with_iobinding on tensors that stay on the
GPU (the limit), the same with copies from page-locked memory (PCIe), and through the service. Prints a table.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from service.core.spec import ModelSpec
from service.models.engine_settings import EngineOptions
from service.models.loader import load
from service.models.repository.scan import scan
from service.runtime import cuda
from service.runtime.cuda import CudaBinding, GpuOptions
from service.runtime.io_binding import BatchBindings
from tests.benchmarks.load import HAS_PERF_ANALYZER, Load, generate
from tests.benchmarks.models import MAX_BATCH_SIZE, SHAPES, graph_of, repository_with
from tests.support.paths import ROOT, SHARED
from tests.support.processes import service_process

LOADS = (Load(8, 1), Load(32, 1), Load(128, 1), Load(8, 32), Load(8, 64))
SECONDS = 1.0


def rate(run: Callable[[], object], units: int) -> float:
    """Units per second of `run`, which processes `units` of them, after a warm-up."""
    for _ in range(10):
        run()
    started, runs = time.perf_counter(), 0
    while (seconds := time.perf_counter() - started) < SECONDS:
        run()
        runs += 1
    return runs * units / seconds


def engine_rates(graph: Path, spec: ModelSpec, rows: int, options: GpuOptions) -> tuple[float, float]:
    """Images per second of ONNX Runtime alone, without and with the copies over PCIe."""
    onnxruntime.preload_dlls()
    session = onnxruntime.InferenceSession(graph, providers=cuda.providers("cuda:0", options))
    binding = CudaBinding(session, spec.inputs, spec.outputs, rows, device="cuda:0", graph=options.graphs)
    on_device = rate(lambda: session.run_with_iobinding(binding._binding, binding._options), rows)
    buffers = BatchBindings([rows], lambda _: binding)
    inputs = buffers.input_buffers(rows)
    assert inputs is not None
    return on_device, rate(lambda: buffers.run(inputs), rows)


def bandwidth(megabytes: int = 64) -> tuple[float, float]:
    """GB/s to the GPU from page-locked and from pageable memory."""
    size = megabytes * 2**20
    target = onnxruntime.OrtValue.ortvalue_from_shape_and_type((size,), np.uint8, "cuda", 0)
    result = []
    for locked in (True, False):
        array = np.ones(size, np.uint8)
        if locked:
            cuda.pin(array)
        result.append(rate(lambda array=array: target.update_inplace(array), size) / 1e9)  # type: ignore[misc]
    return result[0], result[1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, default=ROOT / "models", help="repository with mnist-simplecnn")
    parser.add_argument("--models", nargs="+", choices=list(SHAPES), default=list(SHAPES), help="default: all")
    arguments = parser.parse_args()
    if not cuda.device_count():
        sys.exit("no NVIDIA GPU found: nothing was measured")
    print("| network | batch | CUDA graphs | on the GPU, img/s | with PCIe, img/s | service, img/s | service / GPU |")
    print("|---|---|---|---|---|---|---|")
    for model in arguments.models:
        repository = repository_with(model, arguments.repository, ROOT / "build/bench")
        (folder,) = scan(repository).models
        for graphs in (False, True):
            loaded = load(folder, max(folder.versions), EngineOptions(["cuda:0"], 1, GpuOptions(graphs=graphs)))
            loaded.batcher.close()
            served = _service_rate(repository, model, graphs=graphs) if HAS_PERF_ANALYZER else float("nan")
            graph = graph_of(repository, model)
            for rows in (1, 8, MAX_BATCH_SIZE):
                on_device, with_copies = engine_rates(graph, loaded.spec, rows, GpuOptions(graphs=graphs))
                line = f"| {model} | {rows} | {'yes' if graphs else 'no'} | {on_device:,.0f} | {with_copies:,.0f} |"
                print(f"{line} {served:,.0f} | {served / on_device:.2f} |" if rows == MAX_BATCH_SIZE else f"{line} | |")
    locked, pageable = bandwidth()
    print(f"\nto the GPU: {locked:.1f} GB/s from page-locked memory, {pageable:.1f} from pageable memory")
    if not HAS_PERF_ANALYZER:
        print(f"the service was not measured: {SHARED / 'bench' / 'setup'} installs perf_analyzer")


def _service_rate(repository: Path, model: str, *, graphs: bool) -> float:
    """The highest throughput of the service over all loads, in images per second."""
    flags = ["--device", "cuda:0", "--cuda-graphs" if graphs else "--no-cuda-graphs"]
    with service_process(repository, *flags) as service:
        return max(generate(service.address, model, load, SECONDS).throughput for load in LOADS)


if __name__ == "__main__":
    main()
