"""`--recipe distilled --teacher` and `--init-from`, through the command, on the bundled digits."""

from pathlib import Path

import pytest

from tests.support.processes import run_command

pytestmark = pytest.mark.slow


def train(folder: Path, *flags: str) -> tuple[int, str]:
    """Exit status and output of a short training."""
    result = run_command(
        "training", "--dataset", "mnist-sample", "--epochs", "2", "--min-accuracy", "0.3", *flags,
        "--repository", str(folder / "models"), "--runs-dir", str(folder / "runs"),
    )  # fmt: skip
    return result.returncode, result.stdout + result.stderr


def test_a_student_learns_from_a_teacher_that_the_same_job_trained(tmp_path: Path) -> None:
    status, output = train(tmp_path, "--model", "mnist-teacher")
    assert status == 0, output
    (teacher,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    status, output = train(tmp_path, "--recipe", "distilled", "--teacher", str(teacher))
    assert status == 0 and "for the teachers' answers" in output, output
    status, output = train(tmp_path, "--recipe", "distilled")
    assert status == 2 and "needs --teacher" in output
    status, output = train(tmp_path, "--teacher", str(teacher))
    assert status == 2 and "add --recipe distilled" in output
    status, output = train(tmp_path, "--recipe", "distilled", "--teacher", str(teacher), "--validation-share", "0.1")
    assert status == 2 and "trained on other images" in output
    version = tmp_path / "models" / "mnist-teacher" / "1"
    status, output = train(tmp_path, "--init-from", str(version))
    assert (status == 2 and "of another network" in output) or "has shape" in output
    status, output = train(tmp_path, "--model", "mnist-teacher", "--init-from", str(teacher), "--epochs", "1")
    assert status == 0 and "starts from" in output, output
