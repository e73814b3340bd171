"""A job in this process, on few digits."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.training import SAMPLE
from training import pipeline
from training.data.dataset import Dataset
from training.settings import Settings
from training.signals import SignalHandler

# Runs the job with these settings, in folders below the test's, and returns the lines that it printed.
RunJob = Callable[..., list[str]]


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """600 digits to train on, and 200 to test, in place of any data set."""
    digits = Dataset("mnist-sample", SAMPLE.train[:600], SAMPLE.test[::5], SAMPLE.label_names)
    monkeypatch.setattr("training.data.datasets.load", lambda *_, **__: digits)
    return digits


@pytest.fixture
def run_job(
    few_digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> RunJob:
    """A training job on the few digits."""
    monkeypatch.setattr("signal.signal", lambda *_: None)  # pytest keeps its own

    def run(**values: object) -> list[str]:
        places = {"repository": tmp_path / "models", "runs_dir": tmp_path / "runs", "device": "cpu"}
        settings = Settings(_cli_parse_args=[], **places | values)  # type: ignore[arg-type, call-arg]
        capsys.readouterr()
        pipeline.run(settings, SignalHandler())
        return capsys.readouterr().out.splitlines()

    return run
