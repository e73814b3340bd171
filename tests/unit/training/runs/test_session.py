"""What surrounds a run: the message of its failure, and the trackers that the settings ask for."""

from pathlib import Path

import pytest

from tests.support.trackers import install_fake_mlflow
from tests.support.training import prepared
from training.errors import Interrupted, TrainingError
from training.runs.mlflow_tracker import MlflowTracker
from training.runs.run_folder import create_run_folder
from training.runs.session import run_session
from training.runs.tensorboard_tracker import TensorBoardTracker
from training.runs.tracking import Tracker


def test_a_failure_leaves_its_message_until_the_run_is_resumed(tmp_path: Path) -> None:
    experiment, folder = prepared(), create_run_folder(tmp_path, "m", {"seed": 1})
    with pytest.raises(TrainingError), run_session(experiment, folder):
        raise TrainingError("the loss is not finite")
    assert (folder.path / "error.txt").read_text() == "the loss is not finite\n"
    with pytest.raises(Interrupted), run_session(experiment, folder):
        raise Interrupted("stopped at step 1 of 2")
    assert not (folder.path / "error.txt").exists()


def test_only_what_the_settings_ask_for_tracks_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    server = install_fake_mlflow(monkeypatch)
    folder = create_run_folder(tmp_path, "m", {"seed": 1})
    with run_session(prepared(), folder) as opened:
        assert list(opened) == []
    with run_session(prepared(tensorboard=True, mlflow="http://server"), folder) as opened:
        trackers: list[Tracker] = list(opened)
    assert [type(tracker) for tracker in trackers] == [TensorBoardTracker, MlflowTracker]
    assert server.named("set_terminated") == [["r1", "FINISHED"]]
