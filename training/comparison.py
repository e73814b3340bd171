"""Several runs under one command, `--seeds N` and `--pooling all`, and the folder that compares them.

    RUNS_DIR/ID-comparison/settings.json     the settings, for --resume
                           comparison.json   the runs, and what each kind of pooling does
                           feature_maps.npz  the inputs of those pictures
                           comparison.html   the page

The runs are ordinary ones with folders of their own, trained one after the other in this process; ID is that of the
first. Only the first seed's model is published: to publish the best of several would be to choose it on
the test split. `--pooling all` publishes nothing.

Not here: the stages of one run (pipeline.py), the means (runs/groups.py), the page (report/comparison_page.py).
"""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training import pipeline
from training.errors import Interrupted, OutOfMemory, TrainingError
from training.experiment import repeat_command
from training.networks.pooling import KINDS
from training.report.comparison_page import Comparison, render_comparison
from training.report.pooling_pictures import input_maps, map_pictures, pooled_pictures
from training.runs import files
from training.runs.groups import Group, summary_lines
from training.runs.record import RunRecord, read_run
from training.runs.run_folder import RunFolder
from training.runs.table import runs_table, terminal_width
from training.settings import Settings
from training.signals import SignalHandler

INPUT = "input"  # the name of the pictures of what the pooling layers get


@dataclass(frozen=True)
class Member:
    """A run of the comparison: what it differs in."""

    pooling: str
    seed: int
    publish: bool


def is_comparison(settings: Settings) -> bool:
    """Whether the settings ask for several runs."""
    return settings.seeds > 1 or settings.pooling == "all"


def members(settings: Settings) -> list[Member]:
    """The runs, in the order of training: every kind of pooling with one seed, then with the next."""
    every_kind = settings.pooling == "all"
    return [
        Member(kind, seed, publish=settings.publish and not every_kind and seed == settings.seed)
        for seed in range(settings.seed, settings.seed + settings.seeds)
        for kind in (KINDS if every_kind else (settings.pooling,))
    ]


def run(settings: Settings, signals: SignalHandler) -> None:
    """Train all runs that are not finished, print their table and means, and write the page.

    Raises:
        TrainingError: a run failed; those after it were trained all the same.
        Interrupted: a signal came; finished runs are kept, and `--resume` continues.
        OSError: a file cannot be written.
    """
    if "WORLD_SIZE" in os.environ:
        raise TrainingError("--seeds and --pooling all train in one process: start them without torchrun")
    job = ComparisonJob(settings, signals)
    try:
        job.train_all()
    except (Interrupted, KeyboardInterrupt) as stop:
        if job.folder is None:
            raise
        raise Interrupted(
            f"stopped; {len(job.finished())} of {len(job.members)} runs are finished and kept. "
            f"Resume with: python -m training --resume {job.folder.path}"
        ) from stop
    finally:
        job.write_page()
    job.print_results()
    if job.failures:
        raise TrainingError(f"{len(job.failures)} of {len(job.members)} runs failed: {'; '.join(job.failures)}")


class ComparisonJob:
    """The runs of a comparison and its folder, which is made with the first run's."""

    def __init__(self, settings: Settings, signals: SignalHandler) -> None:
        self.settings = settings
        self.signals = signals
        self.members = members(settings)
        self.folder = RunFolder(settings.resume) if settings.resume else None
        self.runs_dir = settings.resume.parent if settings.resume else settings.runs_dir
        self.run_ids: dict[Member, str] = {}
        self.pictures: dict[str, list[dict[str, str]]] = {}
        self.failures: list[str] = []
        if self.folder:
            self._load(self.folder.path / files.COMPARISON)

    def train_all(self) -> None:
        """Train the runs that are not finished; a run that fails does not end those after it."""
        for number, member in enumerate(self.members, 1):
            record = self.record(member)
            if record and is_finished(record, member):
                continue
            print(f"\nrun {number} of {len(self.members)}: pooling {member.pooling}, seed {member.seed}", flush=True)
            try:
                self._train(member, resume=record.path if record else None)
            except (Interrupted, OutOfMemory):
                raise
            except TrainingError as error:
                if member not in self.run_ids:  # before its first step, as the others would be
                    raise
                print(f"error: {error}", flush=True)
                self.failures.append(f"{self.run_ids[member]}: {error}")
            self.write_page()

    def record(self, member: Member) -> RunRecord | None:
        """What is known of the run; None if it was not begun or its folder was deleted."""
        run_id = self.run_ids.get(member)
        path = self.runs_dir / run_id if run_id else None
        return read_run(path) if path and (path / files.SETTINGS).exists() else None

    def finished(self) -> list[RunRecord]:
        """The runs that are finished."""
        return [record for group in self.groups() for record in group.runs]

    def groups(self) -> list[Group]:
        """The finished runs by kind of pooling."""
        runs: dict[str, list[RunRecord]] = {member.pooling: [] for member in self.members}
        for member in self.members:
            if (record := self.record(member)) and record.test_accuracy is not None:
                runs[member.pooling].append(record)
        return [Group(kind, tuple(records)) for kind, records in runs.items()]

    def print_results(self) -> None:
        """Print the table of the runs, their means, and where the page is."""
        assert self.folder is not None
        print(f"\n{runs_table(self.finished(), terminal_width())}\n")
        print("\n".join(summary_lines(self.groups(), "pooling")))
        if self.settings.pooling == "all":
            print("published nothing: to publish one, python -m training --resume RUN --publish")
        elif (first := self.record(self.members[0])) and first.published:
            print(f"published the first seed's model, {self.settings.seed}, and not the best on the test split")
        print(f"comparison {self.folder.path / files.COMPARISON_PAGE}")

    def write_page(self) -> None:
        """Write the page, with what is finished so far."""
        if self.folder is None:
            return
        groups = [group for group in self.groups() if group.runs]
        compared = "kinds of pooling" if self.settings.pooling == "all" else f"{len(self.members)} seeds"
        content = Comparison(
            title=f"{self.settings.model}: {compared}",
            command=repeat_command(self.settings),
            groups=groups,
            planned=len(self.members),
            grouped_by="pooling",
            pictures=self.pictures,
        )
        try:
            self.folder.write(files.COMPARISON_PAGE, render_comparison(content).encode())
        except Exception as error:  # noqa: BLE001 # the runs are worth more than their page
            print(f"{files.COMPARISON_PAGE} not written: {type(error).__name__}: {error}", flush=True)

    def _train(self, member: Member, resume: Path | None) -> None:
        changes = {
            "pooling": member.pooling,
            "seed": member.seed,
            "seeds": 1,
            "publish": member.publish,
            "resume": resume,
            "runs_dir": self.runs_dir,
        }
        outcome = pipeline.run(
            self.settings.model_copy(update=changes), self.signals, opened=lambda path: self._opened(member, path)
        )
        if outcome and self.settings.pooling == "all":
            self._add_pictures(member, outcome)

    def _opened(self, member: Member, path: Path) -> None:
        """Note the run; with the first one, make the comparison's folder."""
        self.run_ids[member] = path.name
        if self.folder is None:
            self.folder = RunFolder(path.with_name(f"{path.name}-comparison"))
            self.folder.path.mkdir()
            self._save()  # before settings.json, without which it is no run
            self.folder.write_json(
                files.SETTINGS,
                self.settings.model_dump(mode="json", exclude={"resume", "list", "summary", "skip_if_published"}),
            )
        self._save()

    def _add_pictures(self, member: Member, outcome: pipeline.Outcome) -> None:
        """Add what this network's pooling does to the feature maps of the first network."""
        assert self.folder is not None
        if member.pooling in self.pictures:
            return
        image = outcome.experiment.dataset.test.images[0]
        path = self.folder.path / files.FEATURE_MAPS
        try:
            if INPUT not in self.pictures:
                maps = input_maps(outcome.model, image)
                buffer = io.BytesIO()
                np.savez_compressed(buffer, *maps)
                self.folder.write(files.FEATURE_MAPS, buffer.getvalue())
                self.pictures[INPUT] = map_pictures(maps)
            with np.load(path) as saved:
                maps = [saved[name] for name in saved.files]
            self.pictures[member.pooling] = pooled_pictures(outcome.model, image, maps)
        except Exception as error:  # noqa: BLE001 # whatever a network of unknown shape raises
            print(f"pooling {member.pooling} not drawn: {type(error).__name__}: {error}", flush=True)
        self._save()

    def _save(self) -> None:
        assert self.folder is not None
        runs = [
            {"pooling": member.pooling, "seed": member.seed, "run": run_id} for member, run_id in self.run_ids.items()
        ]
        self.folder.write_json(files.COMPARISON, {"runs": runs, "pictures": self.pictures})

    def _load(self, path: Path) -> None:
        try:
            state: dict[str, Any] = files.read_json(path)
            known = {(entry["pooling"], entry["seed"]): str(entry["run"]) for entry in state["runs"]}
            self.pictures = state["pictures"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"{path} cannot be read ({error}); start the comparison again") from error
        for member in self.members:
            if run_id := known.get((member.pooling, member.seed)):
                self.run_ids[member] = run_id


def is_finished(record: RunRecord, member: Member) -> bool:
    """Whether the run needs no more training, evaluation or publishing."""
    return record.state == "finished" and bool(record.published or not member.publish)
