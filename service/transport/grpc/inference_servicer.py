"""inference.GRPCInferenceService, except inference: health, metadata, statistics, model control and logging.

A method takes its request message and returns its response message, or raises a ServiceError. Methods that wait are
coroutines. Not here: ModelInfer and ModelStreamInfer (inference/handler.py, streaming.py), statuses (aio_server.py).
"""

import asyncio
import functools
from collections.abc import Callable

from service.batching.statistics import Histogram
from service.core import logs
from service.core.errors import MAX_METADATA_BYTES, InvalidArgument, NotReady, Unimplemented
from service.core.lifecycle import Lifecycle
from service.core.texts import bounded, quoted
from service.core.version import VERSION
from service.models.loader import LoadedModel
from service.models.reconciler import Reconciler
from service.models.registry import Registry, State
from service.models.repository_thread import RepositoryThread
from service.pb import inference_pb2 as pb

SERVER_NAME = "simplecnn"
# The extensions of the protocol that the service supports, by Triton's names.
EXTENSIONS = (
    "classification",
    "model_repository",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "logging",
)


class InferenceServicer:
    """The methods, named as in the protocol."""

    def __init__(
        self,
        registry: Registry,
        reconciler: Reconciler,
        changes: RepositoryThread,
        lifecycle: Lifecycle,
        *,
        enable_control: bool,
    ) -> None:
        self._registry = registry
        self._reconciler = reconciler
        self._changes = changes
        self._lifecycle = lifecycle
        self._control_enabled = enable_control

    def ServerLive(self, _: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        """The process answers."""
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        """Whether the server should get traffic, as /readyz."""
        return pb.ServerReadyResponse(ready=not (self._lifecycle.unready_reason or self._registry.unready_reason()))

    def ModelReady(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        """Whether the version answers. Raises NotFound if it does not exist."""
        try:
            model = self._registry.get(request.name, request.version)
        except NotReady:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not (model.batcher.broken or self._lifecycle.stopping))

    def ServerMetadata(self, _: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        """The server's name, version and extensions."""
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=VERSION, extensions=EXTENSIONS)

    def ModelMetadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        """The model's versions, inputs and outputs; the batch axis is -1 in their shapes."""
        snapshot = self._registry.snapshot
        spec = snapshot.get(request.name, request.version).spec
        versions = [str(number) for number in sorted(snapshot.versions(spec.name))]
        response = pb.ModelMetadataResponse(name=spec.name, versions=versions, platform=spec.config.platform)
        batch_axis = [-1] if spec.batches else []
        for tensors, field in ((spec.inputs, response.inputs), (spec.outputs, response.outputs)):
            for tensor in tensors:
                field.add(name=tensor.name, datatype=tensor.data_type.name, shape=[*batch_axis, *tensor.shape])
        return response

    def ModelConfig(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        """The model's configuration, with every derived field."""
        return pb.ModelConfigResponse(config=self._registry.get(request.name, request.version).spec.config)

    def ModelStatistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        """The statistics of one version, of all versions of a model, or of all models."""
        snapshot = self._registry.snapshot
        models = snapshot.models()
        if request.name:
            named = snapshot.get(request.name, request.version)
            models = [named] if request.version else list(snapshot.versions(request.name).values())
        return pb.ModelStatisticsResponse(model_stats=[_statistics(model) for model in models])

    def RepositoryIndex(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """Every version, its state and, if its files are refused, the reason."""
        response = pb.RepositoryIndexResponse()
        for status in self._registry.index():
            if status.state is State.READY or not request.ready:
                number = str(status.version) if status.version else ""
                reason = bounded(status.reason, MAX_METADATA_BYTES)
                response.models.add(name=status.name, version=number, state=status.state, reason=reason)
        return response

    # --- model control and logging ---

    async def RepositoryModelLoad(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        """Load the model's versions that the repository holds now."""
        name = self._controlled(request)
        for parameter in request.parameters:
            raise Unimplemented(
                f"the parameter {quoted(parameter)} is not supported: the service serves only what the repository "
                "holds; write the files there, each by a rename, and load without parameters"
            )
        await self._change(functools.partial(self._reconciler.load, name))
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: pb.RepositoryModelUnloadRequest) -> pb.RepositoryModelUnloadResponse:
        """Answer the model's pending requests and unload it. Models have no dependents here."""
        await self._change(functools.partial(self._reconciler.unload, self._controlled(request)))
        return pb.RepositoryModelUnloadResponse()

    def LogSettings(self, request: pb.LogSettingsRequest) -> pb.LogSettingsResponse:
        """The levels that are logged, after the changes that the request asks for."""
        changes: dict[str, bool] = {}
        for name, setting in request.settings.items():
            if name not in logs.LEVELS:
                raise Unimplemented(
                    f"the setting {quoted(name)} cannot be changed; the settings that can are {list(logs.LEVELS)}"
                )
            if setting.WhichOneof("parameter_choice") != "bool_param":
                raise InvalidArgument(f"settings.{name}", f"the setting {name!r} expected a bool_param")
            changes[name] = setting.bool_param
        if changes:
            self._check_control("changing LogSettings")
        for name, on in changes.items():
            logs.enable(name, on)
        response = pb.LogSettingsResponse()
        for name in logs.LEVELS:
            response.settings[name].bool_param = logs.enabled(name)
        return response

    def _controlled(self, request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> str:
        """The model's name, if model control is turned on."""
        self._check_control(request.DESCRIPTOR.name.removesuffix("Request"))
        if not request.model_name:
            raise InvalidArgument(
                "model_name", "model_name expected a model's name, got nothing; it is field 2, as in Triton"
            )
        return str(request.model_name)

    async def _change(self, change: Callable[[], None]) -> None:
        """Run a change of the loaded models; a caller that hangs up takes a change that still waits with it."""
        await asyncio.wrap_future(self._changes.submit(change))

    def _check_control(self, what: str) -> None:
        if not self._control_enabled:
            raise Unimplemented(f"{what} is turned off; start the service with --enable-model-control to turn it on")

    # --- not supported ---

    def TraceSetting(self, _: pb.TraceSettingRequest) -> pb.TraceSettingResponse:
        """Not supported."""
        raise Unimplemented("tracing is not supported; ModelStatistics and /metrics show where time is spent")

    def _no_shared_memory(self, _: object) -> object:
        raise Unimplemented("shared memory is not supported; send tensors in raw_input_contents")

    SystemSharedMemoryStatus = SystemSharedMemoryRegister = SystemSharedMemoryUnregister = _no_shared_memory
    CudaSharedMemoryStatus = CudaSharedMemoryRegister = CudaSharedMemoryUnregister = _no_shared_memory


def _statistics(model: LoadedModel) -> pb.ModelStatistics:
    statistics = model.statistics
    with statistics.reading():
        succeeded = statistics.codes["OK"]
        failed = statistics.codes.total() - succeeded
        result = pb.ModelStatistics(
            name=model.spec.name,
            version=str(model.spec.version),
            last_inference=int(statistics.last_inference * 1e3),
            inference_count=statistics.rows,
            execution_count=statistics.executions,
            inference_stats=pb.InferStatistics(
                success=_duration(succeeded, statistics.duration.sum),
                fail=_duration(failed, statistics.failed_seconds),
                queue=_histogram(statistics.queue),
                compute_input=_duration(succeeded, statistics.gather_seconds),
                compute_infer=_duration(succeeded, statistics.compute_seconds),
                compute_output=_duration(succeeded, statistics.scatter_seconds),
            ),
        )
        for rows, size in sorted(statistics.by_size.items()):
            result.batch_stats.add(
                batch_size=rows,
                compute_input=_duration(size.executions, size.gather),
                compute_infer=_duration(size.executions, size.compute),
                compute_output=_duration(size.executions, size.scatter),
            )
    return result


def _histogram(histogram: Histogram) -> pb.StatisticDuration:
    return _duration(sum(histogram.counts), histogram.sum)


def _duration(count: int, seconds: float) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=int(seconds * 1e9))
