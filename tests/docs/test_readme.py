"""The README is true: its commands run, its tables are the code's."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

from service.app import settings
from service.core import errors
from service.telemetry import collector
from service.telemetry.gpu import GpuCollector
from tests.support.gpu import FakeNvml
from tests.support.local_service import local_service
from tests.support.paths import ROOT
from tests.support.processes import clean_environment, run_command, service_process
from training.settings import Settings as TrainingSettings

README = (ROOT / "README.md").read_text()


def table(header: str) -> list[list[str]]:
    """The rows of the table whose first heading is `header`."""
    after = README.split(f"| {header} |", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in after.splitlines()[2:]]


@pytest.mark.parametrize(("header", "kind"), [("service flag", settings.Settings), ("training flag", TrainingSettings)])
def test_every_setting_stands_in_the_table_with_its_default_and_text(header: str, kind: type[BaseSettings]) -> None:
    in_code = [
        [f"`--{name.replace('_', '-')}`", f"`{field.default}`", str(field.description)]
        for name, field in kind.model_fields.items()
    ]
    assert table(header) == in_code


def test_every_metric_stands_in_the_table_with_its_help(published: Path, nvml: FakeNvml) -> None:
    assert nvml.devices
    with local_service(published, "aio") as service:
        metrics = collector.ServiceCollector(service.server.registry, service.server.handler, "aio")
        exposed = {
            f"`{family.name}{'_total' if family.type == 'counter' else ''}`": family.documentation
            for family in (*metrics.collect(), *GpuCollector(["cuda:0"]).collect())
        }
    assert {row[0]: row[1] for row in table("metric")} == exposed


def test_every_alert_stands_in_the_table() -> None:
    alerts = yaml.safe_load((ROOT / "deploy/monitoring/prometheus/alerts.yml").read_text())["groups"]
    assert [row[0].strip("`") for row in table("alert")] == [
        rule["alert"] for group in alerts for rule in group["rules"]
    ]


def test_every_status_that_a_caller_can_meet_stands_in_the_table() -> None:
    codes = {
        kind.code.name
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.ServiceError) and hasattr(kind, "code")
    }
    assert set(re.findall(r"`([A-Z_]+)`", "".join(row[1] for row in table("condition")))) == codes


def test_every_make_target_that_is_named_exists_and_make_lists_them_all() -> None:
    listed = subprocess.run(["/usr/bin/env", "make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = set(re.findall(r"^  make ([a-z-]+) ", listed, re.MULTILINE))
    assert {"demo", "test", "lint", "train", "serve", "bench", "clean"} <= targets
    assert set(re.findall(r"make ([a-z-]+)", "\n".join(re.findall(r"`[^`]+`|^\$.*$", README, re.MULTILINE)))) <= targets
    assert targets | {"help"} == set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_layout_names_every_file() -> None:
    layout = README.split("## Layout", 1)[1]
    for package in ("service", "training"):
        for path in (ROOT / package).glob("*.py"):
            assert path.name in layout or path.name in ("__init__.py", "__main__.py"), path


def test_the_demo_runs_and_reuses_what_is_there(published: Path) -> None:
    if not (ROOT / ".venv" / "installed").exists():
        pytest.skip("the environment was not made by make")
    command = ["/usr/bin/env", "make", "demo", f"REPOSITORY={published}"]
    result = subprocess.run(
        command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "epoch" not in result.stdout, "it trained again"
    assert len(re.findall(r"^ +\d+ +\d +\d +[\d.]+%", result.stdout, re.MULTILINE)) == 20
    assert re.search(r"accuracy as answered by the service: 9\d\.\d\d%", result.stdout)
    assert "/metrics while it runs" in result.stdout
    assert "service stopped, exit status 0" in result.stdout


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_a_python_example_runs(published: Path, code: str) -> None:
    with service_process(published) as service:
        code = code.replace("127.0.0.1:8001", service.address)
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_the_clients_commands_run(published: Path, tmp_path: Path, test_images: Any) -> None:
    from PIL import Image

    commands = re.findall(r"^\$ \.venv/bin/python -m (service\.client .*?)(?:  +#.*)?$", README, re.MULTILINE)
    assert len(commands) == 3
    for name in ("seven.png", "photo-of-a-three.jpg"):
        Image.fromarray(test_images[0][0, :, :, 0]).save(tmp_path / name)
    with service_process(published) as service:
        for command in commands:
            module, *arguments = command.split()
            arguments = [str(tmp_path / part) if (tmp_path / part).exists() else part for part in arguments]
            result = run_command(module, "--url", service.address, *arguments)
            assert result.returncode == 0, result.stderr
            assert result.stdout


def test_the_training_commands_exist() -> None:
    for command in re.findall(r"`python -m training ([^`]*)`", README):
        assert run_command("training", *command.split(), "--epochs", "-1").returncode == 2, "an unknown flag?"


def test_the_console_scripts_are_installed() -> None:
    folder = Path(sys.executable).parent
    for script in ("cnn-train", "cnn-serve", "cnn-client"):
        path = shutil.which(script, path=str(folder))
        assert path is not None
        done = subprocess.run([path, "--help"], capture_output=True, text=True, check=True)
        assert "usage:" in done.stdout
