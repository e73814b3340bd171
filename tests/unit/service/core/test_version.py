"""The commit that inference_server_info names."""

import subprocess
from pathlib import Path

from service.core.version import commit_of
from tests.support.paths import ROOT


def test_a_checkout_has_the_commit_of_its_head() -> None:
    head = subprocess.run(
        ["/usr/bin/env", "git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert commit_of(ROOT).removesuffix("-dirty") == head


def test_a_package_inside_another_project_has_no_commit(tmp_path: Path) -> None:
    assert commit_of(ROOT / "service") == "unknown"
    assert commit_of(tmp_path) == "unknown"
