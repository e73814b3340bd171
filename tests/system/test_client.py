"""`python -m service.client` as a user types it, on pictures as people have them."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.pictures.make import FOLDER as PICTURES
from tests.support.certificates import Authority
from tests.support.images import big_scan
from tests.support.models import add_version, doubling_model
from tests.support.paths import GRPC_SERVERS, ROOT
from tests.support.processes import ServiceProcess, run_command, service_process
from tests.support.terminator import terminator
from tests.support.tokens import CALLER

TestImages = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@pytest.fixture(scope="module")
def service(published: Path) -> Iterator[ServiceProcess]:
    with service_process(published) as service:
        yield service


def client(service: ServiceProcess, *arguments: str) -> tuple[int, str, str]:
    """Exit status, output and errors of the client."""
    result = run_command("service.client", "--url", service.address, *arguments)
    return result.returncode, result.stdout, result.stderr


def test_pictures_of_any_kind_are_classified(service: ServiceProcess, tmp_path: Path, test_images: TestImages) -> None:
    images, labels = test_images
    first = [int(np.flatnonzero(labels == digit)[3]) for digit in range(10)]
    files = []
    for index in first:
        Image.fromarray(images[index, :, :, 0]).save(tmp_path / f"small-{labels[index]}.png")
        big_scan(images[index]).save(tmp_path / f"scan-{labels[index]}.jpg", quality=80)
        files += [tmp_path / f"small-{labels[index]}.png", tmp_path / f"scan-{labels[index]}.jpg"]
    status, output, _ = client(service, "classify", *map(str, files))
    assert status == 0
    lines = output.splitlines()
    assert len(lines) == 20
    right = sum(line.split()[0].split("-")[-1][0] == line.split()[1] for line in lines)
    assert right >= 18, output
    assert all(line.endswith("%") for line in lines)
    status, output, _ = client(service, "classify", "--top", "3", str(files[0]))
    assert status == 0 and len(output.removesuffix("  unsure\n").split()) == 1 + 2 * 3


def test_a_picture_is_read_from_standard_input(service: ServiceProcess) -> None:
    for name in ("-", "/dev/stdin"):
        command = [sys.executable, "-m", "service.client", "--url", service.address, "classify", name]
        with (PICTURES / "clean-7.png").open("rb") as picture:
            result = subprocess.run(command, cwd=ROOT, stdin=picture, capture_output=True, text=True, check=True)
        assert result.stdout.split()[:2] == [name, "7"]


def test_a_file_larger_than_the_servers_limit_is_named_and_the_others_are_answered(
    published: Path, tmp_path: Path
) -> None:
    large, small = tmp_path / "large.tif", PICTURES / "clean-7.png"
    large.write_bytes(bytes(17 * 2**20))
    for grpc_server in GRPC_SERVERS:
        with service_process(published, "--grpc-server", grpc_server, "--max-message-bytes", "1000000") as service:
            status, output, errors = client(service, "classify", str(large), str(small))
        assert status == 1 and output.startswith(f"{small}")
        assert errors.startswith(f"{large}: the server refuses 17,825,792 bytes: ") and len(errors.splitlines()) == 1


def test_the_fit_can_be_chosen(service: ServiceProcess) -> None:
    status, _, errors = client(service, "classify", "--fit", "none", str(PICTURES / "page-2.jpg"))
    assert status == 1 and "expected 28 × 28 pixels" in errors
    for fit in ("drawing", "resize", "auto"):
        assert client(service, "classify", "--fit", fit, str(PICTURES / "page-2.jpg"))[0] == 0


def test_a_bad_file_is_named_and_the_others_are_answered(
    service: ServiceProcess, tmp_path: Path, test_images: TestImages
) -> None:
    good, bad, blank = (tmp_path / name for name in ("good.png", "bad.png", "blank.png"))
    Image.fromarray(test_images[0][0, :, :, 0]).save(good)
    bad.write_text("no picture")
    Image.new("L", (50, 50), 255).save(blank)
    folder = tmp_path / "folder.png"
    folder.mkdir()
    status, output, errors = client(service, "classify", str(good), str(folder))
    assert status == 1 and str(good) in output and f"{folder}: a folder; name its files" in errors
    status, output, errors = client(service, "classify", *map(str, (bad, blank, good, tmp_path / "missing.png")))
    assert status == 1
    assert len(output.splitlines()) == 1 and str(good) in output
    assert sorted(line.split(":")[0] for line in errors.splitlines()) == [
        str(bad), str(blank), str(tmp_path / "missing.png"),
    ]  # fmt: skip
    assert "Traceback" not in errors


def test_models_are_listed_with_their_states(service: ServiceProcess) -> None:
    assert client(service, "models") == (0, "mnist-simplecnn  1  READY\n", "")


def test_a_model_that_takes_no_images_is_said_to(tmp_path: Path) -> None:
    add_version(tmp_path / "models", "double", doubling_model())
    with service_process(tmp_path / "models") as service:
        Image.new("L", (28, 28)).save(tmp_path / "any.png")
        status, _, errors = client(service, "classify", str(tmp_path / "any.png"), "--model", "double")
    assert status == 1
    assert "'double' takes no images: expected UINT8 [N, height, width, 1 or 3], but it takes FP32 [4]" in errors


def test_health_says_it_with_its_exit_status(service: ServiceProcess) -> None:
    assert client(service, "health") == (0, "SERVING\n", "")
    assert client(service, "health", "--model", "mnist-simplecnn")[0] == 0
    status, _, errors = client(service, "health", "--model", "nobody")
    assert status == 1 and "NOT_FOUND" in errors


def test_no_server_is_one_line_and_status_1() -> None:
    result = run_command("service.client", "--url", "127.0.0.1:1", "--timeout", "3", "health")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1 and "UNAVAILABLE" in result.stderr


@pytest.fixture(scope="module")
def mtls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a service that requires certificates, for classify.example.com, and the folder with the files."""
    folder = tmp_path_factory.mktemp("mtls")
    authority = Authority(folder)
    named = authority.issue("named", "DNS:classify.example.com")
    authority.issue("caller", usage="clientAuth")
    add_version(folder / "models", "double", doubling_model())
    with (
        service_process(folder / "models", "--grpc-server", "aio") as service,
        terminator(folder, service.address, named, authority.ca) as address,
    ):
        yield address, folder


def test_health_over_tls_is_told_the_files_by_flags_or_by_the_environment(
    mtls: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = mtls
    values = {
        "ca": str(folder / "named.crt"),  # the server's own certificate
        "certificate": str(folder / "caller.crt"),
        "key": str(folder / "caller.key"),
        "server-name": "classify.example.com",
    }
    flags = [word for name, value in values.items() for word in (f"--tls-{name}", value)]
    assert run_command("service.client", "--url", address, *flags, "health").stdout == "SERVING\n"
    monkeypatch.setenv("CNN_URL", address)
    for name, value in values.items():
        monkeypatch.setenv(f"CNN_TLS_{name.upper().replace('-', '_')}", value)
    assert run_command("service.client", "health").stdout == "SERVING\n"


def test_what_is_wrong_with_tls_is_said_with_status_1(mtls: tuple[str, Path]) -> None:
    address, folder = mtls
    trusted = ["--tls-ca", str(folder / "ca.crt"), "--tls-server-name", "classify.example.com"]
    for flags, reason in (
        ([], f"error: {address}: UNAVAILABLE: the server closed the connection: if it uses TLS, connect with --tls"),
        (["--tls"], f"error: {address}: UNAVAILABLE: the server's certificate is of an unknown authority"),
        (trusted[:2], f"error: {address}: UNAVAILABLE: the server's certificate is for another name"),
        (
            trusted,
            f"error: {address}: UNAVAILABLE: the server closed the connection: it may ask for",
        ),
        (["--tls-ca", "/none"], "error: /none: No such file or directory"),
        (["--tls-ca", str(folder / "ca.key")], f"error: {folder / 'ca.key'}: no certificates in PEM"),
    ):
        result = run_command("service.client", "--url", address, *flags, "health")
        *_, line = result.stderr.splitlines()  # gRPC may log lines of its own before
        assert result.returncode == 1 and line.startswith(reason), result.stderr


def test_a_token_comes_from_a_file_and_is_warned_of_if_it_is_sent_in_the_clear(toys: Path, tokens_file: Path) -> None:
    (tokens_file.parent / "token").write_text(f"{CALLER}\n")
    token = ["--token-file", str(tokens_file.parent / "token")]
    with service_process(toys, "--tokens-file", str(tokens_file)) as service:
        assert "UNAUTHENTICATED" in client(service, "models")[2]
        assert client(service, *token, "models") == (0, "double  1  READY\nlookup  1  READY\n", "")
    result = run_command("service.client", "--url", "192.0.2.1:1", "--timeout", "0.1", *token, "models")  # RFC 5737
    warning, error = result.stderr.splitlines()
    assert warning == "warning: the token goes to 192.0.2.1:1 unencrypted, because TLS is off"
    assert error.startswith("error: 192.0.2.1:1: ") and CALLER not in result.stderr and result.returncode == 1


def test_health_is_not_misled_by_a_proxy(toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container where Docker set both cases of the variables; so the image's HEALTHCHECK fails for ever."""
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with service_process(toys) as service:
        assert client(service, "health") == (0, "SERVING\n", "")


def test_version_is_the_packages() -> None:
    result = run_command("service.client", "--version")
    assert (result.returncode, result.stdout) == (0, f"simplecnn {version('simplecnn')}\n")


def test_health_imports_nothing_heavy(service: ServiceProcess) -> None:
    """What keeps it fast; the figure itself is in `make bench`."""
    code = (
        "import sys; from service.client import command\n"
        "try:\n    command.main()\nexcept SystemExit as end:\n    status = end.code\n"
        "heavy = {'numpy', 'PIL', 'onnxruntime', 'pydantic', 'structlog'} & set(sys.modules)\n"
        "sys.exit(status or (repr(heavy) if heavy else 0))"
    )
    command = [sys.executable, "-c", code, "--url", service.address, "health"]
    started = time.perf_counter()
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert result.returncode == 0, result.stderr
    assert time.perf_counter() - started < 10
