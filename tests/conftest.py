"""What all tests share: the hypothesis profiles and one folder of compiled kernels."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tinygrad_cnn.testing import register_profiles

pytest_plugins = ["pytester", "tinygrad_cnn.testing.plugin"]

register_profiles()
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_configure(config: pytest.Config) -> None:
    """Compile kernels once for all sessions and workers: the folder's contents are keyed by the sources."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # workers share the cores: spinning would stop the others
    cache = getattr(config, "cache", None)
    if cache is not None and "TINYGRAD_CNN_CACHE_DIR" not in os.environ:
        os.environ["TINYGRAD_CNN_CACHE_DIR"] = str(cache.mkdir("kernels"))  # inherited by xdist's workers
