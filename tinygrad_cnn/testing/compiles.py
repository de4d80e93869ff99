"""How many kernels a piece of code makes Numba compile."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..kernels import count_compiles
from ..kernels.compile import CompileCount


@contextlib.contextmanager
def assert_max_compiles(n: int) -> Iterator[CompileCount]:
    """Fail with AssertionError when the block compiles more than n kernels; those found on disk do not count.

    >>> import tinygrad_cnn as tg
    >>> from tinygrad_cnn.testing import assert_max_compiles
    >>> with assert_max_compiles(0):
    ...     tg.ones(3) + 1
    tensor([2., 2., 2.])
    """
    with count_compiles() as compiled:
        yield compiled
    if compiled.count > n:
        raise AssertionError(
            f"{compiled.count} kernels were compiled in {compiled.seconds:.1f} s, at most {n} were allowed: does an "
            "array's dtype, number of dimensions or contiguity differ from call to call?"
        )
