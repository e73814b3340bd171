"""MLflow: parameters, metrics of every epoch, results and artifacts, on a tracking server.

A server that does not answer at the start is refused before the first step. One that fails later never ends the
training: its metrics are kept and sent again once, at the end.

Not here: what makes up the metrics and the parameters (tracking.py).
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from training.errors import Interrupted, TrainingError
from training.experiment import Experiment
from training.runs import files
from training.runs.tracking import Results, final_scalars, hyperparameters, scalars
from training.trainer.progress import TrainingProgress

# How long to wait for the server's answer, and how often to ask again. MLflow's own are 120 s and 7 times.
HTTP_SETTINGS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
METRICS_PER_CALL = 1000  # the most that MLflow takes
RUN_TAG = "simplecnn.run"  # the run's ID, by which a resumed run finds its MLflow run


class MlflowTracker:
    """Logs a run to an MLflow server: the experiment is the model's name, the run's name its ID."""

    def __init__(self, experiment: Experiment, folder: Path, uri: str) -> None:
        self._experiment = experiment
        self._folder = folder
        self._uri = uri
        self._client: Any = None
        self._run = ""
        self._unsent: list[tuple[str, float, int, int]] = []  # name, value, time in ms, step
        self._failed = False

    def __enter__(self) -> Self:
        for name, value in HTTP_SETTINGS.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise TrainingError(
                "--mlflow needs the package mlflow-skinny: pip install '.[mlflow]' in a checkout"
            ) from error
        try:
            self._client = MlflowClient(tracking_uri=self._uri)
            self._run = self._open_run()
        except Exception as error:
            raise TrainingError(
                f"--mlflow {self._uri}: {_reason(error)}; nothing was trained. Start the server or leave the flag out"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        status = "FINISHED" if error is None else "KILLED" if stopped else "FAILED"
        self._failed = False  # try again, once
        self._send()
        self._attempt(self._client.set_terminated, self._run, status)
        if self._failed:
            print(f"warning: MLflow misses a part of this run; {self._folder} has all of it", file=sys.stderr)

    def __call__(self, progress: TrainingProgress) -> None:
        if progress.epoch_ended:
            self._log(scalars(progress), progress.step)
            self._send()

    def log_results(self, results: Results) -> None:
        """Log the figures on the test split, the report and the published version."""
        last = int(files.last_metrics(self._folder / files.METRICS).get("step", 0))
        self._log(final_scalars(results.facts), last)
        self._failed = False
        self._send()
        tags = {"commit": results.facts["commit"], "dataset.sha256": results.facts["dataset"]["sha256"]}
        for name, value in (tags | {"published": results.version}).items():
            self._attempt(self._client.set_tag, self._run, name, str(value))
        for name in (files.REPORT, files.FACTS, files.METRICS):
            if (path := self._folder / name).exists():
                self._attempt(self._client.log_artifact, self._run, str(path))
        if version := results.version:
            self._attempt(self._client.log_artifacts, self._run, str(version), "model")

    def _open_run(self) -> str:
        """The MLflow run of this run, or a new one."""
        experiment, run_id = self._client.get_experiment_by_name(self._experiment.name), self._folder.name
        number = experiment.experiment_id if experiment else self._client.create_experiment(self._experiment.name)
        found = self._client.search_runs([number], f"tags.`{RUN_TAG}` = '{run_id}'", max_results=1)
        if found:
            resumed: str = found[0].info.run_id
            self._client.update_run(resumed, status="RUNNING")
            return resumed
        created: str = self._client.create_run(number, run_name=run_id, tags={RUN_TAG: run_id}).info.run_id
        from mlflow.entities import Param

        parameters = hyperparameters(self._experiment)
        self._client.log_batch(created, params=[Param(name, str(value)) for name, value in parameters.items()])
        return created

    def _log(self, values: dict[str, float], step: int) -> None:
        now = int(1000 * time.time())
        self._unsent += [(name, value, now, step) for name, value in values.items()]

    def _send(self) -> None:
        from mlflow.entities import Metric

        while self._unsent and not self._failed:
            part = [Metric(*values) for values in self._unsent[:METRICS_PER_CALL]]
            self._attempt(self._client.log_batch, self._run, part)
            if not self._failed:
                del self._unsent[:METRICS_PER_CALL]

    def _attempt(self, call: Callable[..., object], *arguments: object) -> None:
        """Call the server; after a failure, which is said once, do not call it again."""
        if self._failed:
            return
        try:
            call(*arguments)
        except Exception as error:  # noqa: BLE001 # whatever a server, a proxy or a disk does
            self._failed = True
            print(f"warning: MLflow: {_reason(error)}; training goes on without it", file=sys.stderr, flush=True)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
