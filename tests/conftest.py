"""Fixtures that all tests share: a training run and its model, test images, toy models, tokens, a gate, NVML."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pynvml
import pytest
from numpy.typing import NDArray

from service.runtime.session import Engine
from tests.support.gpu import FakeNvml
from tests.support.local_service import Gate
from tests.support.models import add_version, doubling_model, lookup_model
from tests.support.paths import GRPC_SERVERS, ROOT
from tests.support.processes import RUNS, clean_environment, run_command
from tests.support.tokens import CALLER, EXPIRED, LIMITED, OPERATOR, token_line
from training.__main__ import main
from training.processors import wait_passively

# Before a test imports PyTorch, which nothing above does, and for the processes that tests start.
wait_passively()


@pytest.fixture(scope="session", autouse=True)
def delete_runs() -> Iterator[None]:
    """Delete the training runs of the tests at the end."""
    yield
    shutil.rmtree(RUNS, ignore_errors=True)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The repository and the run folder of a job of four epochs on the bundled digits, through the command.

    The processes of `make test` share them: no test may change them.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trained"
    folder.mkdir(exist_ok=True)
    repository, runs = folder / "models", folder / "runs"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first process trains, the others wait
        if not repository.exists():
            flags = ["--dataset", "mnist-sample", "--epochs", "4", "--min-accuracy", "0.9", "--device", "cpu"]
            result = run_command("training", *flags, "--repository", str(repository), "--runs-dir", str(runs))
            assert result.returncode == 0, result.stderr
    (run,) = runs.glob("*-mnist-simplecnn-seed0")
    return repository, run


@pytest.fixture(scope="session")
def published(trained: tuple[Path, Path]) -> Path:
    """A repository with version 1 of mnist-simplecnn."""
    return trained[0]


@pytest.fixture
def job(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., "subprocess.CompletedProcess[str]"]]:
    """`python -m training` in this process, which imports torch once: for calls that do not train."""
    for name in [name for name in os.environ if name.startswith("TRAINING_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRAINING_RUNS_DIR", str(RUNS))
    monkeypatch.chdir(ROOT)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        monkeypatch.setattr(sys, "argv", ["training", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert isinstance(end.value.code, int)
        return subprocess.CompletedProcess(arguments, end.value.code, *capsys.readouterr())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def test_images() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The 1,000 held-out images (N, 28, 28, 1) and labels (N,) of mnist-sample."""
    with np.load(ROOT / "training/data/samples/mnist-sample.npz") as arrays:
        return arrays["test_images"][..., None], arrays["test_labels"]


@pytest.fixture(params=GRPC_SERVERS)
def grpc_server(request: pytest.FixtureRequest) -> str:
    """Each gRPC server in turn."""
    return str(request.param)


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    """A repository of toy models: `double`, with batches of up to 8 rows and a queue of 16 rows, and `lookup`."""
    config = "max_batch_size: 8 dynamic_batching { default_queue_policy { max_queue_size: 16 } }"
    add_version(tmp_path / "toys", "double", doubling_model(), config=config)
    add_version(tmp_path / "toys", "lookup", lookup_model(), config="max_batch_size: 8 dynamic_batching { }")
    return tmp_path / "toys"


@pytest.fixture
def three_versions(tmp_path: Path) -> Path:
    """A repository of the toy model `double` in versions 1 to 3."""
    for version in (1, 2, 3):
        add_version(tmp_path, "double", doubling_model(), version=version)
    return tmp_path


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    """A tokens file with the tokens of a caller, of one for `double` alone, of an operator, and an expired one."""
    path = tmp_path / "tokens"
    path.write_text(
        "# who may call\n\n"
        + token_line(CALLER, "infer", "2999-12-31")
        + token_line(OPERATOR, "infer,control")
        + token_line(LIMITED, "infer:double,control:double")
        + token_line(EXPIRED, "infer,control", "2020-01-01")
    )
    return path


@pytest.fixture
def own_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty temporary folder of the processes that the test starts; its path is short enough for Unix sockets.

    ONNX Runtime leaves a hidden file there.
    """
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """A gate in front of the engines of services that start in this process after it."""
    gate = Gate(Engine.run)
    monkeypatch.setattr(Engine, "run", lambda engine, inputs: gate.run(engine, inputs))
    yield gate
    gate.open()


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """A stand-in for NVIDIA's management library."""
    fake = FakeNvml()
    for name in [name for name in dir(fake) if name.startswith("nvml")]:
        monkeypatch.setattr(pynvml, name, getattr(fake, name))
    return fake


def outside(script: str, *arguments: str) -> dict[str, object]:
    """Run a script of tests/outside, whose libraries cannot be imported here, and return the JSON that it prints."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "outside" / script), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=clean_environment(),
        check=False,
    )
    assert result.returncode == 0, result.stderr
    parsed: dict[str, object] = json.loads(result.stdout)
    return parsed
