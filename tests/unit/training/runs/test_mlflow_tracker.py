"""MLflow gets parameters, metrics, results and artifacts; a server that fails never ends a training."""

import sys
from pathlib import Path

import pytest

from tests.support.trackers import FakeServer, install_fake_mlflow, progress, results
from tests.support.training import prepared
from training.errors import Interrupted, TrainingError
from training.experiment import Experiment
from training.runs.mlflow_tracker import MlflowTracker


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    """An experiment on mnist-sample."""
    return prepared(epochs=3)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """A stand-in for the package mlflow."""
    return install_fake_mlflow(monkeypatch)


def sent(server: FakeServer) -> list[tuple[str, float, int]]:
    """Name, value and step of every metric that the server took."""
    batches = [arguments[1] for arguments in server.named("log_batch") if len(arguments[1][0]) == 4]
    return [(name, value, step) for batch in batches for name, value, _, step in batch]


def test_mlflow_gets_parameters_metrics_of_each_epoch_results_and_artifacts(
    experiment: Experiment, tmp_path: Path, server: FakeServer
) -> None:
    folder = tmp_path / "20261129-mnist"
    folder.mkdir()
    (folder / "report.html").write_text("report")
    (folder / "metrics.jsonl").write_text('{"step": 10}\n')
    with MlflowTracker(experiment, folder, "http://server") as tracker:
        tracker(progress(1, epoch_ended=False))
        tracker(progress(1))
        tracker(progress(2))
        tracker.log_results(results(experiment, version=tmp_path / "models" / "m" / "1"))
    assert server.calls[0] == ("connect", "http://server")
    assert server.named("create_experiment") == [["mnist-simplecnn"]]
    assert server.named("create_run") == [["7", "20261129-mnist", {"simplecnn.run": "20261129-mnist"}]]
    assert ("learning_rate", "0.004") in server.named("log_batch")[0][1]
    assert [metric for metric in sent(server) if metric[0] != "images_per_second"] == [
        ("loss", 0.5, 5), ("accuracy", 0.8, 5), ("learning_rate", 0.1, 5), ("validation_accuracy", 0.9, 5),
        ("loss", 0.25, 10), ("accuracy", 0.8, 10), ("learning_rate", 0.1, 10), ("validation_accuracy", 0.9, 10),
        ("test_accuracy", 0.1, 10), ("kept_validation_accuracy", 0.98, 10), ("calibration_error", 0.0123, 10),
        ("training_seconds", 20.0, 10),
    ]  # fmt: skip
    assert ["r1", "commit", "0123"] in server.named("set_tag")
    assert server.named("log_artifact") == [["r1", str(folder / name)] for name in ("report.html", "metrics.jsonl")]
    assert server.named("log_artifacts") == [["r1", str(tmp_path / "models/m/1"), "model"]]
    assert server.named("set_terminated") == [["r1", "FINISHED"]]


def test_a_server_that_fails_in_the_middle_is_said_once_and_gets_everything_at_the_end_if_it_is_back(
    experiment: Experiment, tmp_path: Path, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with MlflowTracker(experiment, tmp_path, "http://server") as tracker:
        tracker(progress(1))
        server.down = True
        calls_before = len(server.calls)
        tracker(progress(2))
        tracker(progress(3))
        assert len(server.calls) == calls_before + 1, "a server that is down is asked once, not at every epoch"
        assert capsys.readouterr().err == (
            "warning: MLflow: connection refused by the server; training goes on without it\n"
        )
        server.down = False
    assert [(name, step) for name, _, step in sent(server) if name == "loss"][-2:] == [("loss", 10), ("loss", 15)]
    assert server.named("set_terminated") == [["r1", "FINISHED"]] and capsys.readouterr().err == ""


def test_a_server_that_stays_down_costs_one_more_call_and_a_warning(
    experiment: Experiment, tmp_path: Path, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with MlflowTracker(experiment, tmp_path, "http://server") as tracker:
        server.down = True
        tracker(progress(1))
    assert len(server.named("log_batch")) == 3 and server.named("set_terminated") == []
    assert f"MLflow misses a part of this run; {tmp_path} has all of it" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "status"), [(Interrupted("stopped"), "KILLED"), (TrainingError("loss"), "FAILED")])
def test_a_run_that_does_not_end_is_marked(
    error: Exception, status: str, experiment: Experiment, tmp_path: Path, server: FakeServer
) -> None:
    with pytest.raises(type(error)), MlflowTracker(experiment, tmp_path, "http://server"):
        raise error
    assert server.named("set_terminated") == [["r1", status]]


def test_a_resumed_run_continues_its_mlflow_run(experiment: Experiment, tmp_path: Path, server: FakeServer) -> None:
    server.known_runs = ["before"]
    with MlflowTracker(experiment, tmp_path, "http://server") as tracker:
        tracker(progress(2))
    assert server.named("search_runs")[0][1] == f"tags.`simplecnn.run` = '{tmp_path.name}'"
    assert server.named("create_run") == [] and server.named("update_run") == [["before", "RUNNING"]]
    assert server.named("set_terminated") == [["before", "FINISHED"]]


def test_a_server_that_does_not_answer_at_the_start_is_refused_before_training(
    experiment: Experiment, tmp_path: Path, server: FakeServer
) -> None:
    server.down = True
    with pytest.raises(TrainingError, match="--mlflow http://server: connection refused by the server; nothing was"):
        MlflowTracker(experiment, tmp_path, "http://server").__enter__()


def test_mlflow_without_its_package_is_a_training_error(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(TrainingError, match=r"pip install '\.\[mlflow\]'"):
        MlflowTracker(experiment, tmp_path, "http://server").__enter__()


def test_a_real_store_holds_what_was_logged(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri, folder = f"file://{tmp_path}/store", tmp_path / "run1"
    folder.mkdir()
    (folder / "report.html").write_text("report")
    with MlflowTracker(experiment, folder, uri) as tracker:
        tracker(progress(1))
    with MlflowTracker(experiment, folder, uri) as tracker:
        tracker(progress(2))
        tracker.log_results(results(experiment))
    client = tracking.MlflowClient(tracking_uri=uri)
    number = client.get_experiment_by_name("mnist-simplecnn").experiment_id
    (run,) = client.search_runs([number])
    assert run.info.run_name == "run1" and run.info.status == "FINISHED"
    assert run.data.params["learning_rate"] == "0.004" and run.data.params["network"] == "mnist-simplecnn"
    assert run.data.metrics["test_accuracy"] == 0.1 and run.data.tags["simplecnn.run"] == "run1"
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [(5, 0.5), (10, 0.25)]
    assert [artifact.path for artifact in client.list_artifacts(run.info.run_id)] == ["report.html"]
