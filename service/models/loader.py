"""Loads one model version: every check between the files and the first request.

Owns the order: read the files and compare the hash, open the graph, compare files and configuration with it
(repository/acceptance.py), verify the golden answers in every batch size or compare rows alone and in batches, verify
the golden pictures, then start a batcher. Not here: the checks themselves (repository/, verification/), devices and
batching policy (engine_settings.py), the choice of versions (reconciler.py).
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import structlog

from service.batching.batcher import Batcher
from service.batching.predictions import Predictions, predictions_for
from service.batching.scheduler import BatchingPolicy
from service.batching.statistics import Statistics
from service.core.batch_sizes import batch_sizes
from service.core.load_errors import GraphError
from service.core.spec import ModelSpec
from service.models.engine_settings import EngineOptions, batching_policy, engine_devices
from service.models.repository.acceptance import accept, read_files
from service.models.repository.config import read_config
from service.models.repository.engine_fields import is_strict
from service.models.repository.graph_files import open_weights
from service.models.repository.labels import miscounted
from service.models.repository.manifest import ReportedMetrics
from service.models.repository.unsupported import ignored_fields
from service.models.repository.version_files import ModelFolder, VersionFiles, given_folders
from service.models.verification.opened_version import OpenedVersion
from service.models.verification.verifier import Verifier
from service.pb.model_config_pb2 import ModelConfig
from service.pictures.fit import Fit
from service.runtime.session import Engine

log = structlog.get_logger(__name__)

# nice(1) value of the thread that verifies a version while other versions serve.
NICENESS = 15
# Tolerance of golden answers if TensorRT computes in half precision, whose spacing at 1 is 1e-3.
FP16_TOLERANCE = 1e-2


@dataclass(frozen=True)
class LoadedModel:
    """A version that is ready for requests."""

    spec: ModelSpec
    batcher: Batcher
    statistics: Statistics
    predictions: Predictions | None  # None if the classes have no labels
    reported: ReportedMetrics  # test-set metrics from the manifest; empty without one
    sha256: str
    verified: bool  # it has a manifest, and its hash and golden answers were checked
    batch_max_abs_diff: float | None  # as Verifier.verify() returns it
    device: str  # of every engine, joined with commas
    provider: str
    load_seconds: float = field(compare=False)
    warnings: tuple[str, ...] = ()  # what an operator may expect of the version and does not get
    fit: Fit | None = None  # how pictures become images of the model; None if the version does not record it
    pictures_verified: int = 0  # golden pictures whose answers hold


def load(
    folder: ModelFolder,
    version: int,
    options: EngineOptions,
    *,
    require_manifest: bool = False,
    on_broken: Callable[[], None] = lambda: None,
) -> LoadedModel:
    """Load and verify a version. `on_broken` is called if one of its engines breaks later.

    Raises:
        LoadError: the version cannot be served; the message says why.
    """
    started = time.perf_counter()
    opened = open_version(folder, version, options, require_manifest=require_manifest)
    # On a separate thread: threads started by a low-priority thread, such as the batcher's, inherit its priority.
    with ThreadPoolExecutor(1, thread_name_prefix="verify", initializer=_lower_priority) as executor:
        verified = executor.submit(opened.verify).result()
    for warning in verified.warnings:
        log.warning("model warning", model=folder.name, version=version, reason=warning)
    statistics = Statistics()
    predictions = predictions_for(verified.spec)
    batcher = Batcher(
        verified.engines,
        verified.policy,
        statistics,
        name=folder.name,
        fixed_shapes=all(-1 not in tensor.shape for tensor in verified.spec.inputs),
        predictions=predictions,
        probe=verified.verifier.probe,
        on_broken=on_broken,
    )
    return LoadedModel(
        spec=verified.spec,
        batcher=batcher,
        statistics=statistics,
        predictions=predictions,
        reported=verified.files.manifest.metrics if verified.files.manifest else ReportedMetrics(),
        sha256=verified.files.sha256,
        verified=verified.files.manifest is not None,
        batch_max_abs_diff=verified.batch_max_abs_diff,
        device=",".join(engine.device for engine in verified.engines),
        provider=verified.engines[0].provider,
        load_seconds=time.perf_counter() - started,
        warnings=verified.warnings,
        fit=verified.fit,
        pictures_verified=verified.pictures_verified,
    )


def open_version(
    folder: ModelFolder, version: int, options: EngineOptions, *, require_manifest: bool = False
) -> OpenedVersion:
    """Read a version's files, open its graph on every device, and complete the configuration from the graph.

    Raises:
        LoadError: as load().
    """
    config = read_config(folder)
    files = read_files(folder, version, config, require_manifest=require_manifest)
    devices = engine_devices(config.instance_group, options)
    engines = _open_engines(folder, version, files, devices, options)
    accepted = accept(folder, version, config, files, engines[0].signature)
    spec = accepted.spec
    for output, classes in miscounted(spec):
        facts = {"model": spec.name, "version": version, "output": output.name}
        log.warning("label count mismatch", **facts, labels=len(output.labels), classes=classes)
    for engine in engines:
        engine.serve(spec)
    batch_rows = max(spec.max_batch_size, 1)
    strict = is_strict(spec)
    sizes = [batch_rows] if strict else batch_sizes(batch_rows)
    bound = [engine.bind(spec, sizes) for engine in engines]
    inline_below_seconds = BatchingPolicy.inline_below_seconds if devices == ["cpu"] else 0.0
    tolerance = max(files.golden_tolerance, FP16_TOLERANCE) if options.gpu.fp16 else files.golden_tolerance
    unbatched_policy = batching_policy(accepted.unbatched_spec, sizes=[], inline_below_seconds=inline_below_seconds)
    return OpenedVersion(
        spec=spec,
        files=files,
        engines=engines,
        verifier=Verifier(spec, files.golden, tolerance, sizes=sizes, strict=strict),
        policy=batching_policy(
            spec, sizes=sizes if strict or any(bound) else [], inline_below_seconds=inline_below_seconds
        ),
        warnings=_warnings(config),
        unbatched_spec=accepted.unbatched_spec,
        unbatched_policy=replace(unbatched_policy, max_batch_size=1, preferred=frozenset()),
        fit=accepted.fit,
    )


def _warnings(config: ModelConfig) -> tuple[str, ...]:
    ignored = ignored_fields(config)
    return (f"config.pbtxt sets {', '.join(ignored)}, which this service ignores",) if ignored else ()


def _lower_priority() -> None:
    """Lower this thread's priority below that of the serving threads; only Linux has a nice value per thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _open_engines(
    folder: ModelFolder, version: int, files: VersionFiles, devices: Sequence[str], options: EngineOptions
) -> list[Engine]:
    """Open the graph on every device."""
    weights = open_weights(files.folder / files.name, files.model, given_folders(folder, version))
    try:
        return [
            Engine(
                files.model,
                device=device,
                intra_op_threads=options.intra_op_threads,
                folder=files.folder,
                weights=weights,
                gpu=options.gpu,
            )
            for device in devices
        ]
    except Exception as error:  # ONNX Runtime's errors have no common base class
        if type(error).__module__.startswith("onnxruntime"):
            raise GraphError(f"{files.name} cannot be opened: {error}") from error
        raise
