"""The README files are true: their commands run, their tables match the code, their links lead somewhere."""

import ast
import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from pydantic_settings import BaseSettings

from service.app.settings import Settings
from service.core import errors
from service.telemetry.collector import ServiceCollector
from service.telemetry.gpu import GpuCollector
from service.telemetry.workers import WorkersCollector
from tests.demo import SHOWN
from tests.pictures.make import EMPTY, FILES
from tests.support.gpu import FakeNvml
from tests.support.local_service import local_service
from tests.support.paths import ROOT
from tests.support.processes import clean_environment, run_command, service_process
from training.settings import Settings as TrainingSettings

MAX_README_LINES = 200


def documents() -> list[Path]:
    """Every Markdown file that git tracks, but for the changelog, which speaks of the past."""
    listed = subprocess.run(
        ["/usr/bin/env", "git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [ROOT / line for line in listed if line != "CHANGELOG.md"]


TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in documents()}
EVERYTHING = "\n".join(TEXTS.values())


def table(header: str) -> list[list[str]]:
    """The rows of the table with that first heading, which one document has."""
    (text,) = [text for text in TEXTS.values() if f"| {header} |" in text]
    after = text.split(f"| {header} |", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in after.splitlines()[2:]]


def commands(module: str) -> list[list[str]]:
    """The arguments of every documented `python -m MODULE`, in code blocks and in text."""
    lines = re.findall(
        rf"(?:^\$ .*?|`(?:\.venv/bin/)?)python -m {re.escape(module)}((?: [^`\n]*)?)(?:`|$)", EVERYTHING, re.MULTILINE
    )
    return [shlex.split(line.partition("#")[0].partition("|")[0]) for line in lines]


# --- tables ---


@pytest.mark.parametrize(("header", "kind"), [("service flag", Settings), ("training flag", TrainingSettings)])
def test_the_table_of_flags_has_every_setting_with_its_default_and_help(header: str, kind: type[BaseSettings]) -> None:
    in_code = [
        [f"`--{name.replace('_', '-')}`", f"`{field.default}`", str(field.description)]
        for name, field in kind.model_fields.items()
    ]
    assert table(header) == in_code


def test_the_table_of_metrics_has_every_metric_with_its_help(published: Path, nvml: FakeNvml) -> None:
    assert nvml.devices
    with local_service(published, "aio") as service:
        server = service.server
        collector = ServiceCollector(server.registry, server.handler, server.decoder, "aio")
        exposed = {
            f"`{family.name}{'_total' if family.type == 'counter' else ''}`": family.documentation
            for family in (
                *collector.collect(),
                *GpuCollector(["cuda:0"]).collect(),
                *WorkersCollector(list).own(),
            )
        }
    assert {row[0]: row[1] for row in table("metric")} == exposed


def test_the_table_of_alerts_has_every_alert() -> None:
    alerts = yaml.safe_load((ROOT / "deploy/monitoring/prometheus/alerts.yml").read_text())["groups"]
    assert [row[0].strip("`") for row in table("alert")] == [
        rule["alert"] for group in alerts for rule in group["rules"]
    ]


def test_the_table_of_errors_has_every_status_of_an_error() -> None:
    codes = {
        kind.code.name
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.ServiceError) and hasattr(kind, "code")
    }
    assert set(re.findall(r"`([A-Z_]+)`", "".join(row[1] for row in table("condition")))) == codes


def test_the_table_of_log_events_has_every_event_with_its_level() -> None:
    logged: dict[str, set[str]] = defaultdict(set)
    for path in (ROOT / "service").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=[ast.Constant(value=str(event)), *_]
                ):
                    logged[event].add("error" if level == "exception" else level)
    in_code = {f"`{event}`": ", ".join(sorted(levels)) for event, levels in logged.items()}
    assert {row[0]: row[1] for row in table("event")} == in_code


def test_the_architecture_names_every_package_of_the_service() -> None:
    architecture = TEXTS["README.md"].split("## Architecture", 1)[1].split("\n## ", 1)[0]
    packages = {f"{path.parent.name}/" for path in (ROOT / "service").glob("*/__init__.py")}
    listed = re.findall(r"^    (\w+/) ", architecture.split("training/")[0], re.MULTILINE)
    assert packages - set(listed) == {"client/", "pb/"}
    assert set(listed) <= packages


# --- files and links ---


def test_the_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= MAX_README_LINES


@pytest.mark.parametrize("name", TEXTS)
def test_a_link_leads_to_a_file_and_a_heading_that_exist(name: str) -> None:
    folder = (ROOT / name).parent
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", TEXTS[name]):
        path, _, anchor = target.partition("#")
        file = folder / path if path else ROOT / name
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], target


def test_every_make_target_that_is_named_exists_and_make_lists_all_of_them() -> None:
    listed = subprocess.run(["/usr/bin/env", "make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = set(re.findall(r"^  make ([a-z-]+) ", listed, re.MULTILINE))
    assert {"demo", "test", "lint", "train", "serve", "bench", "clean"} <= targets
    code = "\n".join(re.findall(r"`[^`\n]+`|^\$.*$", EVERYTHING, re.MULTILINE))
    assert set(re.findall(r"make ([a-z][a-z-]+)", code)) <= targets
    assert targets | {"help"} == set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


# --- commands ---


def test_the_demo_runs_and_uses_a_version_that_is_there(published: Path) -> None:
    if not (ROOT / ".venv" / "installed").exists():
        pytest.skip("the environment was not made by make")
    command = ["/usr/bin/env", "make", "--no-print-directory", "demo", f"REPOSITORY={published}"]  # under make test
    # As behind a company's proxy, which is never asked: all that the demonstration calls is on this machine.
    environment = {key: value for key, value in clean_environment().items() if "proxy" not in key.lower()}
    environment["http_proxy"] = "http://127.0.0.1:9"
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "epoch" not in result.stdout, "it trained again"
    assert len(re.findall(r"^ +\d+ +\d +\d +[\d.]+%", result.stdout, re.MULTILINE)) == SHOWN
    assert re.search(r"accuracy as answered by the service: 9\d\.\d\d%", result.stdout)
    assert "/metrics while it runs" in result.stdout
    assert "service stopped, exit status 0" in result.stdout
    assert len(re.findall(r"^  tests/pictures/[a-z]+-(\d)\.\w+ +\1 +[\d.]+%", result.stdout, re.MULTILINE)) >= 4
    *_, serve, classify = result.stdout.splitlines()
    assert "make serve" in serve and f"$ {classify.strip()}\n" in TEXTS["README.md"]


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", EVERYTHING, re.DOTALL))
def test_a_python_example_runs(published: Path, code: str) -> None:
    with service_process(published) as service:
        code = code.replace("127.0.0.1:8001", service.address)
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_the_clients_commands_run(published: Path) -> None:
    documented = re.findall(r"^\$ \.venv/bin/python -m service\.client (.*?)(?:  +#.*)?$", EVERYTHING, re.MULTILINE)
    assert len(documented) == 6
    with service_process(published) as service:
        for command in documented:
            files = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob(command.split()[-1]))]
            arguments = command.split()[:-1] + files if "*" in command else command.split()
            result = run_command("service.client", "--url", service.address, *arguments)
            assert result.returncode == int(EMPTY in result.stderr), result.stderr
            assert result.stdout


def test_the_readme_shows_what_the_client_prints(published: Path) -> None:
    """Files, labels, marks and errors; probabilities and the second choice differ from model to model."""
    shown = re.search(r"classify tests/pictures/\*\.jpg\n(.*?)\n\$", TEXTS["README.md"], re.DOTALL)
    assert shown
    files = [str(path.relative_to(ROOT)) for path in FILES if path.suffix == ".jpg"]
    with service_process(published) as service:
        result = run_command("service.client", "--url", service.address, "classify", *files)
    differing = r"(or \d)? +[\d.]+%"
    assert re.sub(differing, "", result.stderr + result.stdout) == re.sub(differing, "", f"{shown[1]}\n")
    assert shown[1].count("unsure: or") == 1


@pytest.mark.parametrize(
    ("module", "kind", "least"),
    [("training", TrainingSettings, 5), ("service", Settings, 1)],
    ids=["training", "service"],
)
def test_a_documented_command_has_flags_and_values_that_exist(
    module: str, kind: type[BaseSettings], least: int
) -> None:
    checked = 0
    for arguments in commands(module):
        if arguments[:1] in (["check"], ["runs"]) or "…" in arguments:
            continue
        stand_ins = {"NAME": "mnist-cnn", "S": "1", "SEED": "1"}
        try:
            kind(_cli_parse_args=[stand_ins.get(argument, argument) for argument in arguments])
        except SystemExit as refused:
            raise AssertionError(f"python -m {module} {shlex.join(arguments)} is refused") from refused
        checked += len(arguments) > 0
    assert checked >= least


def test_the_console_scripts_are_installed() -> None:
    folder = Path(sys.executable).parent
    for script in ("cnn-train", "cnn-serve", "cnn-client"):
        path = shutil.which(script, path=str(folder))
        assert path is not None
        done = subprocess.run([path, "--help"], capture_output=True, text=True, check=True)
        assert "usage:" in done.stdout
