"""The manifest records the commit that an image was built from."""

import pytest

from training import manifest


def test_the_manifest_records_the_commit_that_an_image_was_built_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMPLECNN_COMMIT", "c0ffee")
    assert manifest.code_commit() == "c0ffee"
    monkeypatch.setenv("SIMPLECNN_COMMIT", "")
    assert manifest.code_commit() != ""
