"""From a version on disk to one that answers: every check that stands between a file and traffic.

Owns the order of them: read the files, compare the hash, open the graph, complete and compare the configuration, prove
the golden answers in every batch size (which also warms each up), and only then put a batcher before the engines.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.batcher import Batcher, Policy
from service.engine import Engine
from service.model import ModelSpec
from service.repository import LoadError, ModelFolder, VersionFiles, label_names, read_config, read_version
from service.spec import complete_spec
from service.statistics import Statistics

# Batches that may wait where the configuration sets no limit.
DEFAULT_QUEUE_BATCHES = 16


@dataclass(frozen=True)
class Runtime:
    """How engines are made: the devices, one engine each, and the threads of each."""

    devices: Sequence[str]
    threads: int


@dataclass(frozen=True)
class LoadedModel:
    """A version that answers."""

    spec: ModelSpec
    batcher: Batcher
    statistics: Statistics
    labels: dict[str, tuple[str, ...]]  # by output
    sha256: str
    verified: bool  # made by our training job: hash and golden answers hold
    device: str
    provider: str
    load_seconds: float = field(compare=False)


def load(folder: ModelFolder, version: int, runtime: Runtime) -> LoadedModel:
    """Load a version and prove it.

    Raises:
        LoadError: it cannot be served; the message says why.
        engine.DeviceUnavailable: the device could not be had.
    """
    started = time.perf_counter()
    config = read_config(folder)
    files = read_version(folder, version)
    engines = [_open(files.model, device, runtime.threads) for device in runtime.devices]
    spec = complete_spec(folder.name, version, config, engines[0])
    labels = {
        output.name: label_names(folder, output.label_filename)
        for output in spec.config.output
        if output.label_filename
    }
    for engine in engines:
        if files.golden:
            prove(engine, spec, files)
        else:
            warm_up(engine, spec)
    statistics = Statistics()
    batcher = Batcher(
        [engine.run for engine in engines],
        _policy(spec, lend_below=Policy.lend_below if runtime.devices == ["cpu"] else 0.0),
        statistics,
        name=spec.name,
        same_shape=all(-1 not in tensor.shape for tensor in spec.inputs),
    )
    return LoadedModel(
        spec=spec,
        batcher=batcher,
        statistics=statistics,
        labels=labels,
        sha256=files.sha256,
        verified=files.manifest is not None,
        device=",".join(engine.device for engine in engines),
        provider=engines[0].provider,
        load_seconds=time.perf_counter() - started,
    )


def _open(model: bytes, device: str, threads: int) -> Engine:
    try:
        return Engine(model, device=device, threads=threads)
    except Exception as error:  # ONNX Runtime's errors share no narrower base
        if type(error).__module__.startswith("onnxruntime"):
            raise LoadError(f"model.onnx cannot be opened: {error}") from error
        raise


def _policy(spec: ModelSpec, *, lend_below: float) -> Policy:
    limit = max(spec.max_batch_size, 1)
    batching = spec.config.dynamic_batching  # all zeros where there is none
    return Policy(
        max_batch_size=limit,
        # Never less than a batch: a request of that size must be able to wait.
        max_queue_rows=max(limit, batching.default_queue_policy.max_queue_size or DEFAULT_QUEUE_BATCHES * limit),
        max_delay=batching.max_queue_delay_microseconds * 1e-6,
        lend_below=lend_below,
    )


def batch_sizes(limit: int) -> list[int]:
    """1, 2, 4 … and the limit itself."""
    return sorted({*(2**power for power in range(limit.bit_length())), limit})


def prove(engine: Engine, spec: ModelSpec, files: VersionFiles) -> None:
    """Answer the golden inputs in every batch size and compare; this also warms each size up.

    Raises:
        LoadError: an answer differs by more than the tolerance, or in its label.
    """
    names = [tensor.name for tensor in (*spec.inputs, *spec.outputs)]
    absent = [name for name in names if name not in files.golden]
    if absent:
        raise LoadError(f"golden.npz holds {sorted(files.golden)}, but not {absent[0]!r}")
    samples = min(len(files.golden[name]) for name in names)
    if samples == 0:
        raise LoadError("golden.npz holds no samples")
    for size in batch_sizes(max(spec.max_batch_size, 1)):
        pick = np.arange(max(size, samples)) % samples  # every sample in every size
        for start in range(0, len(pick) - size + 1, size):
            rows = pick[start : start + size]
            answers = _run(engine, [files.golden[tensor.name][rows] for tensor in spec.inputs])
            for tensor, answer in zip(spec.outputs, answers, strict=True):
                _compare(tensor.name, files.golden[tensor.name][rows], answer, rows, files.golden_tolerance)


def _compare(
    name: str, expected: NDArray[np.generic], answer: NDArray[np.generic], rows: NDArray[np.int64], tolerance: float
) -> None:
    if expected.shape != answer.shape:
        raise LoadError(f"golden {name!r} has shape {list(expected.shape)}, the engine gives {list(answer.shape)}")
    gap = np.abs(expected.astype(np.float64) - answer.astype(np.float64)).reshape(len(rows), -1)
    flips = expected.reshape(len(rows), -1).argmax(1) != answer.reshape(len(rows), -1).argmax(1)
    worst = int(gap.max(1).argmax())
    if not gap.max() <= tolerance or flips.any():  # "not <=" so that NaN fails
        sample = int(rows[int(flips.argmax()) if flips.any() else worst])
        raise LoadError(
            f"the golden answers do not hold at batch size {len(rows)}: {name!r} differs by {gap.max():.2e}, allowed "
            f"{tolerance:.0e}, and {int(flips.sum())} of {len(rows)} labels differ, first at sample {sample}"
        )


def warm_up(engine: Engine, spec: ModelSpec) -> None:
    """Run zeros in every batch size, so that no request is the first; free axes get size 1.

    Raises:
        LoadError: the graph cannot be run, or does not answer a row for a row.
    """
    for size in batch_sizes(max(spec.max_batch_size, 1)):
        lead = (size,) if spec.batches else ()
        zeros = [
            np.zeros((*lead, *(max(axis, 1) for axis in tensor.shape)), tensor.data_type.dtype)
            for tensor in spec.inputs
        ]
        answers = _run(engine, zeros)
        for tensor, answer in zip(spec.outputs, answers, strict=True):
            if spec.batches and (answer.ndim == 0 or len(answer) != size):
                raise LoadError(
                    f"output {tensor.name!r} has shape {list(answer.shape)} for {size} rows; "
                    "a model that batches answers a row for a row: set max_batch_size to 0"
                )


def _run(engine: Engine, inputs: Sequence[NDArray[np.generic]]) -> Sequence[NDArray[np.generic]]:
    try:
        return engine.run(tuple(inputs))
    except Exception as error:
        shapes = ", ".join(str(list(array.shape)) for array in inputs)
        raise LoadError(f"the graph cannot be run on inputs of shape {shapes}: {error}") from error
