"""Jobs that publish at the same time get different version numbers, and one alone decides the classes of a new name."""

import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

from tests.support.loading import load_only
from tests.support.training import artifact
from training.errors import NotAccepted
from training.publishing import publish

# Its server imports this module, and PyTorch with it, once for all jobs.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload([__name__])
# Seconds that processes take at most, beside other tests.
PATIENCE = 200
REFUSED = 3


def _publish_five(repository: Path, others: Barrier, label_names: tuple[str, ...]) -> None:
    """Publish five versions with these classes, when the other jobs do; the exit status is REFUSED after a refusal."""
    others.wait(PATIENCE)
    try:
        for _ in range(5):
            publish.publish(repository, artifact(label_names=label_names))
    except NotAccepted:
        raise SystemExit(REFUSED) from None


def publish_at_once(repository: Path, *classes: tuple[str, ...]) -> list[int | None]:
    """The exit statuses of jobs that publish versions with these classes at the same time."""
    others = FORKSERVER.Barrier(len(classes))
    jobs = [FORKSERVER.Process(target=_publish_five, args=(repository, others, names)) for names in classes]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(PATIENCE)
    return [job.exitcode for job in jobs]


def published(repository: Path) -> list[int]:
    return sorted(int(path.name) for path in (repository / "toy").iterdir() if path.name.isdecimal())


def test_concurrent_jobs_publish_under_different_numbers(tmp_path: Path) -> None:
    classes = ("a", "b", "c")
    assert publish_at_once(tmp_path, classes, classes, classes) == [0, 0, 0]
    assert published(tmp_path) == list(range(1, 16))


def test_of_jobs_that_publish_other_classes_under_one_new_name_at_once_one_publishes(tmp_path: Path) -> None:
    statuses = publish_at_once(tmp_path, ("a", "b"), ("a", "b", "c"), ("b", "a"))
    assert sorted(statuses, key=str) == [0, REFUSED, REFUSED]
    assert published(tmp_path) == [1, 2, 3, 4, 5]
    winner = [("a", "b"), ("a", "b", "c"), ("b", "a")][statuses.index(0)]
    assert load_only(tmp_path, 5).spec.outputs[0].labels == winner
    assert (tmp_path / "toy" / "labels.txt").read_text() == "".join(f"{name}\n" for name in winner)
