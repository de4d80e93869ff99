"""What all tests share: the hypothesis profiles and one folder of compiled kernels."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# A test's first example may compile kernels for seconds: no deadline, and that is not slow data generation.
settings.register_profile("base", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", settings.get_profile("base"), max_examples=25)
settings.register_profile("ci", settings.get_profile("base"), max_examples=100, derandomize=True, database=None)
settings.register_profile("nightly", settings.get_profile("base"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_configure(config: pytest.Config) -> None:
    """Compile kernels once for all sessions and workers: the folder's contents are keyed by the sources."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # workers share the cores: spinning would stop the others
    cache = getattr(config, "cache", None)
    if cache is not None and "TINYGRAD_CNN_CACHE_DIR" not in os.environ:
        os.environ["TINYGRAD_CNN_CACHE_DIR"] = str(cache.mkdir("kernels"))  # inherited by xdist's workers
