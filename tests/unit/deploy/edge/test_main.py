"""`python -m edge`: exit statuses of the commands that start nothing."""

from pathlib import Path

import pytest

from deploy.edge.__main__ import main
from tests.unit.deploy.edge.test_configuration import ENVOY, needs_envoy


@needs_envoy
def test_check_says_whether_the_configuration_is_right(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(ENVOY.parent))
    assert main(["check"]) == 0 and capsys.readouterr() == ("", "")
    monkeypatch.setenv("EDGE_ALLOWED_ORIGINS", "(?!x)y")
    assert main(["check"]) == 2
    assert capsys.readouterr().err.startswith("error: Envoy refuses the configuration: ")


def test_without_envoy_or_with_wrong_arguments_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([]) == 2 and capsys.readouterr().err == "error: no program `envoy` on the PATH\n"
    assert main(["serve"]) == 2 and "python -m edge health" in capsys.readouterr().err
    monkeypatch.setenv("EDGE_PORT", "none")
    assert main(["health"]) == 2 and capsys.readouterr().err == "error: EDGE_PORT: expected a number, got 'none'\n"
