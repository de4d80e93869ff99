"""One function on every set of kernels: the same numbers, to the bit where arithmetic is exact."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import autograd, kernels
from ..autograd import Variable
from ..kernels.cpu import contract
from ..tensor import Tensor
from .check import listed, outputs_of
from .report import GradReport, name_of, raised

#: How far kernels that add in another order may be apart, in units of eps * sqrt(terms) * the largest
#: element.
REORDERED = 64.0


@contextlib.contextmanager
def _threads(n: int, least_work: float | None) -> Iterator[None]:
    before = kernels.get_num_threads(), kernels.PARALLEL_WORK
    kernels.set_num_threads(n)
    if least_work is not None:
        kernels.PARALLEL_WORK = least_work  # type: ignore[assignment]
    try:
        yield
    finally:
        kernels.set_num_threads(before[0])
        kernels.PARALLEL_WORK = before[1]


@contextlib.contextmanager
def _reference() -> Iterator[None]:
    before = contract.ENABLED
    contract.ENABLED = False
    try:
        yield
    finally:
        contract.ENABLED = before


#: By name, what to run a function in.
BACKENDS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "reference": _reference,  # NumPy, where a kernel has such a twin
    "serial": lambda: _threads(1, None),
    "parallel": lambda: _threads(3, 0),  # also where the work is too small for it to pay
}


class _Result(NamedTuple):
    values: dict[str, np.ndarray]  # by what to call them


def check_backends(
    fn: Callable[..., Any],
    inputs: Any,
    backends: str | Sequence[str] = "all",
    *,
    seed: int = 0,
    raise_exception: bool = True,
) -> GradReport:
    """Check that fn's outputs and gradients are the same on every backend: "reference", "serial" and "parallel".

    The parallel kernels must agree with the serial ones bit for bit, and with the reference up to the order
    of sums; bit for bit too where all results are whole numbers (draw the inputs from
    `strategies.integers32`). Raises GradcheckError for a difference and ValueError for an unknown backend.

    >>> import tinygrad_cnn as tg
    >>> from tinygrad_cnn.testing import check_backends
    >>> bool(check_backends(lambda a, b: a @ b, [tg.ones(3, 4), tg.ones(4, 2)]))
    True
    """
    names = list(BACKENDS) if backends == "all" else [backends] if isinstance(backends, str) else list(backends)
    for name in names:
        if name not in BACKENDS:
            raise ValueError(f"unknown backend {name!r}; there are {', '.join(BACKENDS)}")
    given = listed(inputs)
    first, *others = names
    expected = _run(fn, given, first, seed)
    terms = max([x._array.size for x in given if isinstance(x, Variable)], default=1)
    for name in others:
        exact = "reference" not in (first, name)
        for what, value in _run(fn, given, name, seed).values.items():
            problem = _difference(expected.values[what], value, exact, terms)
            if problem:
                reason = f"{what} on the backend {name!r} differs from that on {first!r}: {problem}"
                return raised(GradReport("failed", name_of(fn), reason=reason), raise_exception)
        if first == "reference":
            first, expected = name, _run(fn, given, name, seed)  # the next ones must have these bits
    return GradReport("passed", name_of(fn))


def _run(fn: Callable[..., Any], inputs: Sequence[Any], backend: str, seed: int) -> _Result:
    rng = np.random.default_rng(seed)
    with BACKENDS[backend]():
        args = [Tensor(x._array.copy(order="K")) if isinstance(x, Variable) else x for x in inputs]
        leaves = {i: x.requires_grad_() for i, x in enumerate(args) if isinstance(x, Tensor) and x.dtype.kind == "f"}
        outputs = outputs_of(fn, fn(*args))
        values = {f"output {i}": out._array for i, out in enumerate(outputs)}
        live = [out for out in outputs if out.dtype.kind == "f" and out.requires_grad]
        if live and leaves:
            cotangents = [Tensor(_whole(rng, out.shape).astype(out.dtype)) for out in live]
            grads = autograd.grad(live, list(leaves.values()), cotangents, allow_unused=True)
            for i, g in zip(leaves, grads, strict=True):
                if g is not None:
                    values[f"the gradient of input {i}"] = g._array
    return _Result(values)


def _whole(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """-2, -1, 1 and 2 at random."""
    return np.asarray(rng.integers(1, 3, shape) * rng.choice([-1, 1], shape))


def _difference(a: np.ndarray, b: np.ndarray, exact: bool, terms: int) -> str:
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{b.dtype} {b.shape} and {a.dtype} {a.shape}"
    if np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
        return ""
    finite = np.abs(a[np.isfinite(a)])
    largest = float(finite.max(initial=0))
    if not exact and a.dtype.kind == "f" and not (np.floor(finite) == finite).all():
        unit = REORDERED * float(np.finfo(a.dtype).eps) * np.sqrt(terms)
        if np.allclose(a, b, rtol=unit, atol=unit * largest, equal_nan=True):
            return ""
    with np.errstate(invalid="ignore"):
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a.astype(np.float64) - b))
    worst = np.unravel_index(int(np.argmax(np.where(np.isnan(apart), np.inf, apart))), a.shape)
    return f"{b[worst]!r} and {a[worst]!r} at {[int(i) for i in worst]}, {int((apart != 0).sum())} elements in all"
