"""What several tests need: toy models whose answers are known, repositories of them, and running services."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from service.pb import inference_pb2 as pb
from service.pb import inference_pb2_grpc
from service.server import Server
from service.settings import Settings

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
FRONTS = ("native", "grpcio")
RUNS = Path(tempfile.gettempdir()) / f"simplecnn-test-runs-{os.getpid()}"
WAIT = 30.0  # seconds after which something that should happen never will


# --- models ------------------------------------------------------------------------------------------------------


def doubling_model(width: int = 4) -> bytes:
    """`x` FP32 [N, width] → `y` = 2x: every row's answer depends on that row alone and is exact."""
    two = helper.make_tensor("two", TensorProto.FLOAT, [], [2.0])
    return _model(
        [helper.make_node("Mul", ["x", "two"], ["y"])],
        inputs=[("x", TensorProto.FLOAT, ["N", width])],
        outputs=[("y", TensorProto.FLOAT, ["N", width])],
        constants=[two],
    )


def lookup_model() -> bytes:
    """`index` INT64 [N, 1] → `value` FP32 [N, 1] = 10·index; an index over 9 makes ONNX Runtime fail."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [10], [10.0 * index for index in range(10)])
    return _model(
        [helper.make_node("Gather", ["table", "index"], ["value"])],
        inputs=[("index", TensorProto.INT64, ["N", 1])],
        outputs=[("value", TensorProto.FLOAT, ["N", 1])],
        constants=[table],
    )


def adding_model() -> bytes:
    """`a` and `b` INT32 [N, 2] → `sum` and `difference`."""
    return _model(
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])],
        inputs=[(name, TensorProto.INT32, ["N", 2]) for name in ("a", "b")],
        outputs=[(name, TensorProto.INT32, ["N", 2]) for name in ("sum", "difference")],
    )


def size_dependent_model() -> bytes:
    """`x` FP32 [N, 4] → `y` = x + N/1000: answers differ with the rows of the run, as those of real kernels may."""
    constants = [
        helper.make_tensor("first", TensorProto.INT64, [], [0]),
        helper.make_tensor("thousandth", TensorProto.FLOAT, [], [0.001]),
    ]
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["rows"]),
        helper.make_node("Cast", ["rows"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["count", "thousandth"], ["trace"]),
        helper.make_node("Add", ["x", "trace"], ["y"]),
    ]
    return _model(
        nodes,
        inputs=[("x", TensorProto.FLOAT, ["N", 4])],
        outputs=[("y", TensorProto.FLOAT, ["N", 4])],
        constants=constants,
    )


def identity_model(element: int, shape: Sequence[int | str]) -> bytes:
    """`x` → `y` = x, of any element type and shape."""
    return _model(
        [helper.make_node("Identity", ["x"], ["y"])], inputs=[("x", element, shape)], outputs=[("y", element, shape)]
    )


def _model(
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: Sequence[tuple[str, int, Sequence[int | str]]],
    outputs: Sequence[tuple[str, int, Sequence[int | str]]],
    constants: Sequence[onnx.TensorProto] = (),
) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "toy",
        [helper.make_tensor_value_info(*tensor) for tensor in inputs],
        [helper.make_tensor_value_info(*tensor) for tensor in outputs],
        list(constants),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def add_version(repository: Path, name: str, model: bytes, *, version: int = 1, config: str | None = None) -> Path:
    """Put a model that somebody else made, without a manifest, into a repository."""
    folder = repository / name / str(version)
    folder.mkdir(parents=True)
    if config is not None:
        (folder.parent / "config.pbtxt").write_text(config)
    (folder / "model.onnx").write_bytes(model)
    return folder


# --- a service in this process -----------------------------------------------------------------------------------


class LocalService:
    """A whole service in this process, fronts and all, on a thread of its own and free loopback ports."""

    def __init__(self, repository: Path, front: str, **settings: Any) -> None:
        options: dict[str, Any] = {"grpc_port": 0, "metrics_port": 0, "device": "cpu", "drain_seconds": 0.0} | settings
        self.server = Server(make_settings(repository=repository, front=front, **options))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="service", daemon=True)
        self._thread.start()
        self._call(self.server.start())
        self.address = self.server.grpc_address
        self.channel = grpc.insecure_channel(self.address)
        self.stub = inference_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def ready(self) -> "LocalService":
        """Wait until the server is ready."""
        wait_until(lambda: not self.server.not_ready_because(), "the service is ready")
        return self

    def loaded(self) -> "LocalService":
        """Wait until the repository has been gone through, whatever came of it."""
        wait_until(lambda: "still loading" not in self.server.not_ready_because(), "the repository is loaded")
        return self

    def stop(self, *, lame_duck: float = 0.0) -> None:
        """Shut down as on SIGTERM."""
        self.channel.close()
        self._call(self.server.shut_down(lame_duck=lame_duck))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT)
        self._loop.close()

    def begin_shut_down(self, *, lame_duck: float = 0.0) -> Callable[[], None]:
        """Start to shut down; the function that is returned waits for the end of it."""
        future = asyncio.run_coroutine_threadsafe(self.server.shut_down(lame_duck=lame_duck), self._loop)

        def finish() -> None:
            future.result(WAIT)
            self.channel.close()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(WAIT)
            self._loop.close()

        return finish

    def _call(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WAIT)


def make_settings(**values: Any) -> Settings:
    """Settings from these values alone, whatever the environment and the command line say."""
    return Settings(_cli_parse_args=[], **values)  # type: ignore[call-arg]


@contextmanager
def local_service(repository: Path, front: str, **settings: Any) -> Iterator[LocalService]:
    """A LocalService that has gone through its repository, stopped at the end."""
    service = LocalService(repository, front, **settings)
    try:
        yield service.loaded()
    finally:
        service.stop()


class Gate:
    """Stands before every engine of the process, open at first. Held, a run waits until it is let through."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run
        self._permits = threading.Semaphore(0)
        self._held = False
        self.sizes: list[int] = []  # rows of each run that began since `hold`

    def run(self, engine: Any, inputs: tuple[NDArray[Any], ...]) -> Any:
        """Stands in for Engine.run."""
        self.sizes.append(len(inputs[0]))
        while self._held and not self._permits.acquire(timeout=0.01):
            pass
        return self._run(engine, inputs)

    def hold(self) -> None:
        """From now on, runs wait."""
        self.sizes.clear()
        self._held = True

    def let_through(self, runs: int = 1) -> None:
        """Let that many runs go on."""
        self._permits.release(runs)

    def open(self) -> None:
        """Hold nothing any more."""
        self._held = False

    def wait_for(self, runs: int) -> None:
        """Wait until that many runs have begun."""
        wait_until(lambda: len(self.sizes) >= runs, f"{runs} runs have begun")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that another thread or process does."""
    limit = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < limit, f"never happened: {what}"
        time.sleep(0.005)


# --- a service of its own ----------------------------------------------------------------------------------------


class ServiceProcess:
    """`python -m service` as a user runs it, on free ports; its log lines are in `events`."""

    def __init__(self, repository: Path, *flags: str, ready: bool = True) -> None:
        command = [sys.executable, "-m", "service", "--repository", str(repository), "--log-format", "json"]
        command += ["--grpc-port", "0", "--metrics-port", "0", "--drain-seconds", "0", *flags]  # the last one counts
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=clean_environment())
        self.events: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            wait_until(lambda: self._settled, "it started")
            assert not ready or self.has("ready"), self.events
        except BaseException:
            self.process.kill()  # nobody else will
            self.wait()
            raise
        self.address = str(self.event("listening")["grpc"]) if self.has("listening") else ""
        self.metrics = str(self.event("metrics")["url"])

    @property
    def _settled(self) -> bool:
        return self.has("ready") or self.has("not ready") or self.process.poll() is not None

    def has(self, event: str) -> bool:
        """Whether a line of the log says so."""
        return any(line["event"] == event for line in self.events)

    def event(self, name: str) -> dict[str, Any]:
        """The first line of the log with that event."""
        return next(line for line in self.events if line["event"] == name)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal, wait for the end and return the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end and return the exit status; `events` is complete then."""
        status = self.process.wait(WAIT)
        self._reader.join(WAIT)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.events.append(json.loads(line) if line.startswith("{") else {"event": line.rstrip()})


@contextmanager
def service_process(repository: Path, *flags: str, ready: bool = True) -> Iterator[ServiceProcess]:
    """A ServiceProcess that is ended whatever happens."""
    service = ServiceProcess(repository, *flags, ready=ready)
    try:
        yield service
    finally:
        service.process.kill()
        service.wait()


def run_command(*arguments: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run `python -m …` as a user does and return what it printed."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def clean_environment() -> dict[str, str]:
    """This process's environment without settings of ours, but that training leaves its runs outside the checkout."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SERVICE_", "TRAINING_"))}
    return kept | {"TRAINING_RUNS_DIR": str(RUNS)}


# --- requests ----------------------------------------------------------------------------------------------------


def infer_request(model: str, request_id: str = "", **inputs: NDArray[Any]) -> pb.ModelInferRequest:
    """A raw request; datatypes follow the arrays, and object arrays of str are BYTES."""
    request = pb.ModelInferRequest(model_name=model, id=request_id)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape)
        request.raw_input_contents.append(raw_bytes(array))
    return request


def raw_bytes(array: NDArray[Any]) -> bytes:
    """The array as it travels."""
    if array.dtype != np.object_:
        return array.tobytes()
    return b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in array.ravel())


def outputs_of(response: pb.ModelInferResponse) -> dict[str, NDArray[Any]]:
    """The response's tensors by name."""
    names = {name: dtype for dtype, name in DATATYPES.items()} | {"BF16": "uint16"}
    return {
        tensor.name: (
            _texts(raw) if tensor.datatype == "BYTES" else np.frombuffer(raw, names[tensor.datatype])
        ).reshape(tensor.shape)
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def _texts(raw: bytes) -> NDArray[Any]:
    texts = []
    while raw:
        end = 4 + int.from_bytes(raw[:4], "little")
        texts.append(raw[4:end].decode())
        raw = raw[end:]
    return np.array(texts, np.object_)


DATATYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    "object": "BYTES",
}  # fmt: skip


def big_scan(digit: NDArray[np.uint8]) -> Image.Image:
    """The digit (H, W, 1) as a person would photograph it: large, dark on light, off centre."""
    ink = Image.fromarray(255 - digit[:, :, 0]).resize((140, 140), Image.Resampling.BICUBIC)
    page = Image.new("RGB", (400, 300), (250, 250, 245))
    page.paste(ink.convert("RGB"), (210, 30))
    return page


def free_port() -> int:
    """A port of the loopback interface that nobody has at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def copy_repository(source: Path, target: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(source, target)
    return target
