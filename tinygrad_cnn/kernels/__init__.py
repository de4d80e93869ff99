"""Numbers only: kernels over arrays. Nothing here knows of tensors or gradients.

This module is the one door. It picks the kernel set of an array's device, and `launch` decides how many threads a
kernel gets. A kernel takes `parts` as its last argument: with 1 it runs where it is called, with more it enters one
parallel region and gives each part a fixed share of independent outputs, so results never depend on `parts`.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from .compile import cache_dir as cache_dir
from .compile import count_compiles as count_compiles
from .compile import jit as jit

#: Work (elements touched, or what takes as long) below which a parallel region does not pay: 2 us, more on a busy host.
PARALLEL_WORK = 200_000

#: Decorates functions whose ufuncs may meet inf, NaN or 0: the result says so, and no warning, as in PyTorch.
silent = np.errstate(all="ignore")

_threads = 0  # 0: not chosen yet, all cores that Numba may use
_region = threading.Lock()  # Numba's workqueue layer aborts when two threads enter; one region at a time on any layer
_forked = False


def on(array: Any) -> Any:
    """The kernel set of the device that holds the array: the module whose functions compute there."""
    return cpu


def get_num_threads() -> int:
    """The number of threads a kernel may use."""
    return _threads or numba.config.NUMBA_NUM_THREADS


def set_num_threads(n: int) -> None:
    """Use up to n threads in kernels; more than the cores is allowed and changes no result.

    Raises TypeError for a non-integer and ValueError for n < 1.
    """
    global _threads
    if not isinstance(n, int) or isinstance(n, bool):
        raise TypeError(f"set_num_threads expects an int, got {type(n).__name__}")
    if n < 1:
        raise ValueError(f"set_num_threads expects a positive number of threads, got {n}")
    _threads = n
    numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))


def threads_for(work: float) -> int:
    """How many threads a kernel gets for this much work."""
    return 1 if work < PARALLEL_WORK or _forked else get_num_threads()


def launch(kernel: Callable[..., Any], *args: Any, work: float, threads: int = 0) -> Any:
    """Call `kernel(*args, parts)`: in one part when the work is small, else in as many parts as there are threads
    (or as the caller says, who has made scratch for so many).

    A second Python thread that arrives while a region runs computes in one part instead of waiting, and so does a
    forked child: the OpenMP layer kills a child that enters a region of its parent's making.
    """
    parts = threads_for(work)
    if parts > 1 and threads:
        parts = threads
    if parts == 1 or not _region.acquire(blocking=False):
        return kernel(*args, 1)
    try:
        return kernel(*args, parts)
    finally:
        _region.release()


def _after_fork() -> None:
    global _forked, _region
    _forked = True
    _region = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


if not gc.get_freeze_count():  # the counts of the garbage collector begin anew: after numba's import they are such that
    gc.freeze()  # in the middle of ours it would look through all of numba's objects, for 20 ms; frozen ones it skips
    gc.collect()
    gc.unfreeze()

from . import cpu  # noqa: E402  the kernel sets use `jit` and `launch` from above
