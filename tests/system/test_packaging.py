"""What a user installs: extras, the wheel's contents and types, versions and locks."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.paths import ROOT
from tests.support.processes import run_command

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION = PROJECT["version"]
LOCKS = ROOT / "deploy" / "locks"
RUNTIMES = {"onnxruntime", "onnxruntime-gpu"}
# Distributions whose modules have another name.
DISTRIBUTIONS = {
    "PIL": "pillow", "google.protobuf": "protobuf", "google.rpc": "googleapis-common-protos", "grpc": "grpcio",
    "grpc_reflection": "grpcio-reflection", "pi_heif": "pi-heif", "prometheus_client": "prometheus-client",
    "pydantic_settings": "pydantic-settings", "pygrpc_native": "pygrpc-native", "pynvml": "nvidia-ml-py",
}  # fmt: skip


# --- extras ------------------------------------------------------------------------------------------------------


def requirements(extra: str) -> dict[str, Requirement]:
    """What an extra installs, by name, with the extras of ours that it names in place of these."""
    found: dict[str, Requirement] = {}
    for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
        if requirement.name == PROJECT["name"]:
            for other in requirement.extras:
                found |= requirements(other)
        else:
            found[requirement.name] = requirement
    return found


def imported(files: Iterable[Path]) -> set[str]:
    """The distributions that the files import, wherever in a file the import is."""
    modules = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module)
    parts = (module.split(".") for module in modules)
    names = {".".join(part[:2]) if part[0] == "google" else part[0] for part in parts}
    ours = set(sys.stdlib_module_names) | {"service", "training"}
    return {DISTRIBUTIONS.get(name, name) for name in names - ours}


def test_base_dependencies_are_none() -> None:
    assert PROJECT["dependencies"] == []


def test_the_client_installs_what_it_imports_and_nothing_else() -> None:
    files = [*(ROOT / "service/client").glob("*.py"), *(ROOT / "service/pb").glob("*.py"), ROOT / "service/__init__.py"]
    assert requirements("client").keys() == {"grpcio", "numpy", "protobuf"} == imported(files)


@pytest.mark.parametrize("half", ["service", "training"])
def test_every_package_that_is_imported_is_declared(half: str) -> None:
    """A fresh install of one half must run: it may not rely on a dependency of a dependency."""
    optional = {"onnxruntime", "mlflow"}  # of the extras cpu, gpu and mlflow, and missed with a message
    missing = imported((ROOT / half).rglob("*.py")) - requirements(half).keys() - optional
    assert not missing


def test_the_user_chooses_which_onnx_runtime() -> None:
    for extra in ("client", "service", "training", "tensorboard", "mlflow"):
        assert not RUNTIMES & requirements(extra).keys(), extra
    cpu, gpu = requirements("cpu"), requirements("gpu")
    assert cpu.keys() == {"onnxruntime"} and cpu["onnxruntime"].marker is None
    assert gpu.keys() == {"onnxruntime-gpu"} and gpu["onnxruntime-gpu"].extras == {"cuda", "cudnn"}
    assert "torch" not in requirements("service") and "grpcio" not in requirements("training")


def test_the_range_of_the_native_server_is_open_upwards() -> None:
    assert str(requirements("service")["pygrpc-native"].specifier) == ">=0.5.0"


def test_importing_the_client_loads_grpc_and_protobuf_only() -> None:
    code = (
        "import sys; before = set(sys.modules); import service.client, service.client.command\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    # grpc imports its other parts (grpc_health, grpc_tools …) if they happen to be installed.
    packages = {name for name in loaded.stdout.split() if not re.search("^grpc_|cython", name)}
    assert packages - sys.stdlib_module_names - {"typing_extensions"} == {"grpc", "google", "service"}


@pytest.mark.parametrize("command", [["service"], ["service", "check", "models/any"], ["training"]], ids=" ".join)
def test_a_missing_onnx_runtime_is_one_line_that_says_what_to_install(command: list[str]) -> None:
    code = (
        "import runpy, sys; sys.modules['onnxruntime'] = None\n"
        f"sys.argv[1:] = {command[1:]}; runpy.run_module({command[0]!r}, run_name='__main__', alter_sys=True)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "error: ONNX Runtime is not installed: "
        f"pip install '.[{command[0]},cpu]' or '.[{command[0]},gpu]' in a checkout"
    ]


# --- the wheel ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that nothing is left in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in ("service", "training", "tests", "proto"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", PROJECT["readme"], "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(source / "wheels")]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *flags, str(source)], check=True)
    return next((source / "wheels").glob("*.whl"))


def test_the_wheel_holds_every_package_and_its_data_and_no_test(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = f"simplecnn-{VERSION}.dist-info"
    assert {name.split("/")[0] for name in names} == {"service", "training", info}
    data = {"*.py", "py.typed", "*.pyi", "*.j2", "samples/*"}
    expected = {
        str(path.relative_to(ROOT))
        for half in ("service", "training")
        for pattern in data
        for path in (ROOT / half).rglob(pattern)
    }
    assert {name for name in names if not name.startswith(info)} == expected
    assert {"service/py.typed", "service/pb/inference_pb2.pyi", "training/data/samples/mnist-sample.npz"} <= names
    assert {f"{info}/licenses/{name}" for name in PROJECT["license-files"]} <= names


def test_commands_name_functions_that_exist() -> None:
    for target in PROJECT["scripts"].values():
        module, function = target.split(":")
        tree = ast.parse((ROOT / module.replace(".", "/")).with_suffix(".py").read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, target


USER = """\
import numpy as np
from numpy.typing import NDArray

from service.client import SERVICE_CONFIG, Client

with Client("127.0.0.1:8001", timeout=5.0, token="secret") as client:
    probabilities: NDArray[np.float32] = client.predict("mnist-simplecnn", np.zeros((2, 28, 28, 1), np.uint8))
    for result in client.classify("mnist-simplecnn", [b"a file"], top_k=3):
        labels: list[str] = [found.label for found in result.classes]
    names: list[str] = [model.name for model in client.models() if client.serving(model.name)]
"""
WRONG = """\
from service.client import Client

best: str = Client("127.0.0.1:8001").classify("mnist-simplecnn", [b"a file"])[0].classes[0].probability
"""


def test_a_users_code_is_type_checked_against_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    """In a folder elsewhere, with an environment in which the wheel is installed as any package is."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv/bin/python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")}))
    install = ["install", "--no-deps", "--no-index", "--quiet", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    # gRPC and NumPy come from this environment; a path in a .pth file does not bring its editable installs.
    (site / "shared.pth").write_text(sysconfig.get_path("purelib"))
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "wrong.py").write_text(WRONG)
    environment = {name: value for name, value in os.environ.items() if name != "MYPYPATH"}
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--python-executable={python}"]
    result = subprocess.run(
        [*command, f"--cache-dir={tmp_path / 'cache'}", "user.py", "wrong.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = [line for line in result.stdout.splitlines() if ": error: " in line]
    assert len(found) == 1 and found[0].startswith("wrong.py:3: error: Incompatible types"), result.stdout
    assert '(expression has type "float", variable has type "str")' in found[0]


# --- versions ----------------------------------------------------------------------------------------------------


def test_the_version_stands_in_pyproject_and_the_others_agree() -> None:
    assert version("simplecnn") == VERSION, "the environment was not reinstalled"
    for half in ("service", "training"):
        for path in (ROOT / half).rglob("*.py"):
            assert f'"{VERSION}"' not in path.read_text(), f"{path}: read it with importlib.metadata"
    assert run_command("service.client", "--version").stdout == f"simplecnn {VERSION}\n"
    dockerfiles = list((ROOT / "deploy").rglob("*.Dockerfile"))
    assert len(dockerfiles) == 3
    for path in dockerfiles:
        assert re.findall(r"\bVERSION=([\w.]+)", path.read_text()) == [VERSION], path
    tags = {
        (path.name, tag)
        for path in (ROOT / "deploy").rglob("*.yaml")
        for tag in re.findall(r"(?:newTag: |simplecnn-\w+:)([\w.]+)", path.read_text())
    }
    assert len(tags) >= 4 and {tag for _, tag in tags} == {VERSION}, tags


def test_the_changelogs_newest_release_is_this_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [heading for heading in headings if heading != "Unreleased"]
    assert headings and released[:1] in ([], [VERSION])


def test_images_run_the_onnx_runtime_that_the_tests_run() -> None:
    def locked(lock: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for name, pin in re.findall(
            r"^(onnxruntime[a-z-]*)==([^ ]+)", (LOCKS / f"{lock}.txt").read_text(), re.MULTILINE
        ):
            found.setdefault(name, set()).add(pin)
        return found

    tested = locked("dev")
    pin = tested["onnxruntime-gpu"]
    assert tested == {"onnxruntime": pin, "onnxruntime-gpu": pin} and len(pin) == 1
    assert locked("service-cpu") == {"onnxruntime": pin}
    assert locked("service-gpu") == {"onnxruntime-gpu": pin}
    assert locked("training") == {"onnxruntime": pin}
