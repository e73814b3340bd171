"""The structure of the code: top-level files, layers, imports, package docstrings and lists of errors."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

TOP = {
    "pyproject.toml", "README.md", "service", "training", "proto", "deploy", "tests", "docker-compose.yml",
    "Makefile", "LICENSE", "CHANGELOG.md", ".ci", ".gitignore", ".pre-commit-config.yaml", ".dockerignore",
    ".env.example", "CONTRIBUTING.md", "NOTICE", "SECURITY.md", ".github",
}  # fmt: skip


def tracked() -> list[Path]:
    """Every file that git tracks."""
    listed = subprocess.run(
        ["/usr/bin/env", "git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [Path(line) for line in listed.splitlines()]


def test_only_known_files_are_at_the_top_level() -> None:
    assert {path.parts[0] for path in tracked()} <= TOP


def test_imports_follow_the_layers() -> None:
    result = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("service.app.server", ["torch", "torchvision", "onnx", "training", "matplotlib"]),
        ("service.client", ["torch", "onnxruntime", "numpy", "PIL", "training"]),
        ("service.models.repository.acceptance", ["grpc", "google.rpc", "structlog", "onnxruntime", "PIL", "training"]),
        ("training.publishing.publish", ["grpc", "google.rpc", "structlog", "prometheus_client"]),
        ("training.settings", ["torch", "grpc"]),
        ("training.runs_command", ["torch", "matplotlib", "numpy", "PIL"]),
    ],
)
def test_a_module_does_not_load_forbidden_packages(module: str, forbidden: list[str]) -> None:
    code = f"import sys, {module}; print(sorted(set({forbidden!r}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


PACKAGES = sorted(
    str(path.parent.relative_to(ROOT))
    for half in ("service", "training")
    for path in (ROOT / half).rglob("__init__.py")
    if path.parent.name != "pb"
)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_docstring_of_a_package_lists_its_modules(package: str) -> None:
    folder = ROOT / package
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    modules = {path.name for path in folder.glob("*.py")} - {"__init__.py", "__main__.py"}
    packages = {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}
    listed = set(re.findall(r"^ +(\w+(?:\.py|/))", text, re.MULTILINE)) - {"__main__.py"}
    assert (modules | packages) - {"errors.py"} <= set(re.findall(r"\w+(?:\.py|/)", text))
    assert listed <= modules | packages


def test_the_error_tree_in_the_docstring_matches_the_classes() -> None:
    from service.core import errors, load_errors

    text = errors.__doc__ or ""
    documented = dict(re.findall(r"[├└]── (\w+) +([A-Z_]+)", text))
    actual = {
        name: kind.code.name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.ServiceError) and hasattr(kind, "code")
    }
    assert documented == actual
    text = load_errors.__doc__ or ""
    reasons = dict(re.findall(r"^[ │]*(?:[├└]── )?(\w+) +([a-z]+) {2,}", text, re.MULTILINE))
    assert reasons == {
        name: kind.code
        for name, kind in vars(load_errors).items()
        if isinstance(kind, type) and issubclass(kind, load_errors.LoadError)
    }


def test_the_help_of_the_refused_metric_lists_every_reason() -> None:
    from service.core.load_errors import LoadError
    from service.telemetry import collector

    (text,) = re.findall(r"The reason is one of ([\w, ]+?);", re.sub(r'"\s+"', "", inspect.getsource(collector)))
    kinds: list[type[LoadError]] = [LoadError, *LoadError.__subclasses__()]
    codes = {kind.code for kind in kinds}
    assert set(re.findall(r"\w+", text)) - {"and"} == codes | {"engine"}
