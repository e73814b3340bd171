"""`--tokens-file`, as a user gives it."""

from pathlib import Path

from tests.support.processes import run_command


def test_a_missing_tokens_file_is_one_line_and_status_2(toys: Path, tmp_path: Path) -> None:
    result = run_command("service", "--model-repository", str(toys), "--tokens-file", str(tmp_path / "none"))
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "--tokens-file" in line and "cannot be read" in line
