"""Jobs that publish at the same time get different version numbers."""

import multiprocessing
from pathlib import Path

from tests.support.training import artifact
from training.publishing import publish


def _publish_five(repository: Path) -> None:
    for _ in range(5):
        publish.publish(repository, artifact())


def test_concurrent_jobs_publish_under_different_numbers(tmp_path: Path) -> None:
    jobs = [multiprocessing.get_context("spawn").Process(target=_publish_five, args=(tmp_path,)) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
        assert job.exitcode == 0
    versions = sorted(int(path.name) for path in (tmp_path / "toy").iterdir() if path.name.isdecimal())
    assert versions == list(range(1, 16))
