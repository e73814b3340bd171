"""The full MNIST, where it exists."""

import pytest

from tests.support.paths import ROOT, SHARED

MNIST = next((p for p in (ROOT / "data" / "MNIST" / "raw", SHARED / "data" / "mnist") if p.is_dir()), None)
full = pytest.mark.skipif(MNIST is None, reason="the full MNIST is neither in data/ nor in ../shared/data")
