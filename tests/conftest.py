"""What all tests share: the hypothesis profiles and one folder of compiled kernels."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, settings

from tinygrad_cnn.testing import register_profiles

pytest_plugins = ["pytester", "tinygrad_cnn.testing.plugin"]

register_profiles()
# tests.mutation: nothing to shrink, and bugs have to show in a quarter of the examples that the suite draws
seen = settings(settings.get_profile("ci"), max_examples=25, phases=[Phase.explicit, Phase.generate])
settings.register_profile("mutation", seen)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_configure(config: pytest.Config) -> None:
    """Compile kernels once for all sessions and workers: the folder's contents are keyed by the sources."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # workers share the cores: spinning would stop the others
    cache = getattr(config, "cache", None)
    if cache is not None and "TINYGRAD_CNN_CACHE_DIR" not in os.environ:
        os.environ["TINYGRAD_CNN_CACHE_DIR"] = str(cache.mkdir("kernels"))  # inherited by xdist's workers


@pytest.fixture(scope="session", autouse=True)
def no_buffer_is_zero_by_luck() -> Iterator[None]:
    """Fill what kernels get to write to: an element they leave out has else the right value, from the run before."""
    from tinygrad_cnn.kernels.cpu import memory

    found = memory.empty

    def spoilt(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        out = found(shape, dtype)
        out.fill(1e9 if out.dtype.kind == "f" else 113)  # not NaN: not finite, tiles give way to other kernels
        return out

    with pytest.MonkeyPatch.context() as patch:
        for module in [m for name, m in sys.modules.items() if name.startswith("tinygrad_cnn.kernels")]:
            if getattr(module, "empty", None) is found:
                patch.setattr(module, "empty", spoilt)
        yield
