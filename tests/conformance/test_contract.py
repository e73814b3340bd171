"""The contract between training and service: the service and Triton read the repository that the job publishes."""

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from service.client import Client
from service.models.engine_settings import EngineOptions
from service.models.loader import load
from service.models.repository.labels import read_labels
from service.models.repository.scan import scan
from service.models.repository.version_files import read_version
from service.pictures.fit import DRAWING, Fit
from tests.conftest import outside
from tests.support.local_service import local_service
from tests.support.models import copy_repository
from tests.support.paths import ROOT
from tests.support.processes import run_command
from tests.support.publishing import publish_brightness
from tests.support.waiting import wait_until
from training.data import datasets
from training.networks.registry import NETWORKS

MODEL = "mnist-simplecnn"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
TRITON = CACHE / "serving-bench" / "triton"


@pytest.mark.slow
def test_a_second_training_publishes_the_next_version_and_the_service_loads_it(published: Path, tmp_path: Path) -> None:
    repository = copy_repository(published, tmp_path / "models")
    flags = ["--dataset", "mnist-sample", "--epochs", "1", "--min-accuracy", "0", "--device", "cpu", "--seed", "9"]
    result = run_command("training", *flags, "--repository", str(repository))
    assert result.returncode == 0, result.stderr
    (folder,) = scan(repository).models
    assert list(folder.versions) == [2, 1]
    for version in (1, 2):
        model = load(folder, version, EngineOptions(["cpu"], 1))
        assert model.verified
        model.batcher.close()


def test_the_service_reads_every_file_that_the_job_writes(published: Path) -> None:
    (folder,) = scan(published).models
    files = read_version(folder, 1)
    assert files.manifest is not None and files.manifest.model == MODEL
    samples = len(files.golden["images"])
    assert 10 <= samples <= 20, "one or two of each class"
    assert files.golden["images"].shape == (samples, 28, 28, 1)
    assert files.golden["probabilities"].shape == (samples, 10)
    assert 0 < files.golden_tolerance < 1e-2
    assert files.pictures is not None and len(files.pictures.files) == 4 and files.pictures.answers.shape == (4, 10)
    assert files.manifest.fit == Fit(DRAWING).record()
    assert sorted(path.name for path in folder.version_path(1).iterdir()) == [
        "README.md", "golden.npz", "manifest.json", "model.onnx",
    ]  # fmt: skip


def test_the_service_reads_the_labels_that_the_job_writes_from_the_manifest_and_from_labels_txt(tmp_path: Path) -> None:
    labels = (" große Katze", "犬, (b)\t")
    publish_brightness(tmp_path, labels)
    (folder,) = scan(tmp_path).models
    model = load(folder, 1, EngineOptions(["cpu"], 1))
    model.batcher.close()
    assert model.verified and model.spec.outputs[0].labels == labels == read_labels(folder, "labels.txt")


def shape_picture(shape: str, kind: int, random: np.random.Generator) -> Image.Image:
    """A disc or a bar as people have pictures: dark on a white page, a transparent cut-out, or grey with 16 bits."""
    dark = int(random.integers(0, 120))
    x, y = random.integers(10, 50, 2).tolist()
    cut_out = Image.new("RGBA", (90, 70), (0, 0, 0, 0))
    if shape == "disc":
        ImageDraw.Draw(cut_out).ellipse((x, y, x + 30, y + 20), (dark, dark, 40, 255))
    else:
        ImageDraw.Draw(cut_out).rectangle((x, y, x + 6, y + 20), (dark, dark, 40, 255))
    page = Image.alpha_composite(Image.new("RGBA", cut_out.size, "white"), cut_out).convert("RGB")
    if kind == 2:
        return Image.fromarray(np.asarray(page.convert("L")).astype(np.uint16) * 257)
    return cut_out if kind == 1 else page


@pytest.mark.parametrize("model", ["mnist-simplecnn", pytest.param("cifar10-lenet", marks=pytest.mark.slow)])
def test_a_folders_own_pictures_are_answered_by_default_as_in_the_job(tmp_path: Path, model: str) -> None:
    """Drawings on white pages, transparent cut-outs and 16-bit grey reach the network as they did in training."""
    random, folder = np.random.default_rng(0), tmp_path / "shapes"
    for label in ("bar", "disc"):
        (folder / label).mkdir(parents=True)
        for number in range(36):
            shape_picture(label, number % 3, random).save(folder / label / f"{number}.png")
    flags = ["--model", model, "--dataset", f"folder:{folder}", "--epochs", "3", "--device", "cpu"]
    flags += ["--min-accuracy", "0", "--repository", str(tmp_path / "models"), "--runs-dir", str(tmp_path / "runs")]
    result = run_command("training", *flags)
    assert result.returncode == 0, result.stderr
    (predictions,) = (tmp_path / "runs").glob("*/test.npz")
    in_the_job = np.load(predictions)["probabilities"]
    files = datasets.load(f"folder:{folder}", tmp_path, NETWORKS[model].image_shape).test_files
    assert f"files: {len(files)} test files get the same labels as their images did" in result.stdout
    with local_service(tmp_path / "models", "aio") as service, Client(service.address) as client:
        answers = client.classify(f"{model}-shapes", [file.read_bytes() for file in files], top_k=2)
    served = np.zeros_like(in_the_job)
    for row, answer in enumerate(answers):
        for found in answer.classes:
            served[row, found.class_id] = found.probability
    np.testing.assert_allclose(served, in_the_job, atol=1e-4)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_graph(tmp_path: Path) -> None:
    digests = []
    for name in ("first", "second"):
        flags = ["--dataset", "mnist-sample", "--epochs", "1", "--min-accuracy", "0", "--device", "cpu"]
        assert run_command("training", *flags, "--repository", str(tmp_path / name)).returncode == 0
        manifest = tmp_path / name / "mnist-simplecnn" / "1" / "manifest.json"
        digests.append(json.loads(manifest.read_text())["graph_sha256"])  # the file also names the run
    assert digests[0] == digests[1]


@pytest.fixture
def triton(published: Path, tmp_path: Path) -> Iterator[str]:
    """The gRPC address of a real Triton that serves the published repository."""
    if not (TRITON / "bin" / "python").exists():
        pytest.skip("Triton is not installed: ../shared/bench/setup installs it")
    (site,) = TRITON.glob("lib/python3*/site-packages")
    server = site / "pytriton" / "tritonserver"
    python = site.parent.name.removeprefix("python")
    if python != sysconfig.get_python_version():
        pytest.skip("Triton is installed for another Python version")
    shutil.copytree(server / "backends", tmp_path / "backends")
    shutil.copy(
        server / "python_backend_stubs" / python / "triton_python_backend_stub", tmp_path / "backends" / "python"
    )
    (tmp_path / "backends" / "onnxruntime").mkdir()
    shutil.copy(ROOT / "tests" / "outside" / "triton_backend.py", tmp_path / "backends" / "onnxruntime" / "model.py")
    ports = []
    for _ in range(3):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    flags = [f"--model-repository={published}", f"--backend-directory={tmp_path / 'backends'}"]
    for name, port in zip(("grpc", "http", "metrics"), ports, strict=True):
        flags += [f"--{name}-address=127.0.0.1", f"--{name}-port={port}"]
    libraries = [str(site / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
    with (tmp_path / "triton.log").open("w") as log:
        process = subprocess.Popen(
            [str(server / "bin" / "tritonserver"), *flags],
            env=os.environ | {"LD_LIBRARY_PATH": ":".join(libraries), "PEER_SITE": str(site)},
            stdout=log,
            stderr=log,
        )

    def is_ready() -> bool:
        assert process.poll() is None, (tmp_path / "triton.log").read_text()[-3000:]
        try:
            with urlopen(f"http://127.0.0.1:{ports[1]}/v2/health/ready", timeout=1) as response:
                return bool(response.status == 200)
        except (URLError, OSError):
            return False

    try:
        wait_until(is_ready, "Triton is ready")
        yield f"127.0.0.1:{ports[0]}"
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.peer
def test_a_real_triton_serves_the_published_repository_with_the_same_answers(
    triton: str, published: Path, tmp_path: Path, test_images: tuple[NDArray[np.uint8], NDArray[np.uint8]]
) -> None:
    np.savez(tmp_path / "images.npz", images=test_images[0])
    seen: dict[str, Any] = outside("triton_sync.py", triton, str(tmp_path / "images.npz"))
    config = seen["config"]["config"]
    assert (config["name"], config["max_batch_size"], config["platform"]) == (MODEL, 64, "onnxruntime_onnx")
    assert config["output"][0]["label_filename"] == "labels.txt"
    (folder,) = scan(published).models
    files = read_version(folder, 1)
    indices = [int((test_images[0] == sample).all((1, 2, 3)).argmax()) for sample in files.golden["images"]]
    np.testing.assert_allclose(
        np.array(seen["probabilities"])[indices], files.golden["probabilities"], atol=files.golden_tolerance
    )


def test_service_and_training_import_without_each_others_libraries() -> None:
    for module, absent in (("service.app.server", "torch"), ("training.publishing.publish", "grpc")):
        code = f"import sys; sys.modules[{absent!r}] = None; import {module}"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
