"""Jobs that publish at the same time get different version numbers."""

import multiprocessing
from pathlib import Path

import numpy as np

from training import publish


def artifact(model: bytes = b"a graph") -> publish.Artifact:
    return publish.Artifact(
        name="toy",
        model=model,
        manifest={"seed": 1},
        golden={"images": np.zeros((2, 4, 4, 1), np.uint8), "probabilities": np.ones((2, 3), np.float32)},
        label_names=("a", "b", "c"),
        image_shape=(4, 4, 1),
    )


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
