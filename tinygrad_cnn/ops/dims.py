"""What users pass as dimensions and sizes, checked at the door and made non-negative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from operator import index
from typing import Any, TypeVar, cast

import numpy as np

from ..autograd import Variable


def array_of(op: str, x: Any) -> np.ndarray:
    """The array of a tensor; TypeError for anything else."""
    if not isinstance(x, Variable):
        raise TypeError(f"{op} expects a Tensor, got {type(x).__name__}; use tg.tensor()")
    return x._array


def integer_array_of(op: str, x: Any) -> np.ndarray:
    """The array of an int64 or int32 tensor; TypeError for anything else."""
    array = array_of(op, x)
    if array.dtype.kind != "i":
        raise TypeError(f"{op} expects an integer tensor as index, got {array.dtype}; use .long()")
    return array


def numbers_of(op: str, value: Any) -> np.ndarray:
    """The array of a tensor, an array, a number or nested lists of these; TypeError for None, strings and complex."""
    array = value._array if isinstance(value, Variable) else np.asarray(value)
    if array.dtype.kind not in "fiub":  # NumPy would make NaN of None
        raise TypeError(f"{op} expects numbers, got {type(value).__name__} {value!r:.80}")
    return array


def does_not_fit(shape: tuple[int, ...], to: tuple[int, ...]) -> RuntimeError:
    """The error for a value that cannot be written somewhere; made after NumPy refused, so that others pay nothing."""
    return RuntimeError(f"a value of shape {shape} does not broadcast to the shape {to} of what it would replace")


_Function = TypeVar("_Function", bound=Callable[..., Any])
_NUMPY = {"axis": "dim", "keepdims": "keepdim"}


def numpy_names(fn: _Function) -> _Function:
    """fn, which takes NumPy's names `axis` and `keepdims` for `dim` and `keepdim` too, as in PyTorch."""

    @wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs and not kwargs.keys().isdisjoint(_NUMPY):
            renamed = {_NUMPY.get(name, name): value for name, value in kwargs.items()}
            if len(renamed) < len(kwargs):
                raise TypeError(f"{fn.__name__} got one argument by two names: {', '.join(kwargs)}")
            kwargs = renamed
        return fn(*args, **kwargs)

    return cast(_Function, call)


def dim_of(op: str, dim: Any, ndim: int) -> int:
    """dim in [0, ndim); a 0-d tensor counts as one of one dimension. IndexError when it is out of range."""
    try:
        at = index(dim)
    except TypeError:
        raise TypeError(f"{op} expects an int as dim, got {type(dim).__name__} {dim!r}") from None
    n = ndim or 1
    if not -n <= at < n:
        raise IndexError(f"{op}: dim {at} is out of range for a tensor of {ndim} dimensions; use {-n} to {n - 1}")
    return at + n if at < 0 else at


def dims_of(op: str, dim: Any, ndim: int) -> tuple[int, ...]:
    """The axes meant by an int, a sequence of ints, or None or () for all of them; RuntimeError for repeated ones."""
    if dim is None:
        return tuple(range(ndim))
    if not isinstance(dim, tuple | list):
        axis = dim_of(op, dim, ndim)
        return (axis,) if ndim else ()
    if not dim:
        return tuple(range(ndim))
    axes = tuple(dim_of(op, d, ndim) for d in dim)
    if len(set(axes)) < len(axes):
        raise RuntimeError(f"{op}: a dimension appears more than once in dim={dim} of a tensor of {ndim} dimensions")
    return axes if ndim else ()


def size_of(size: Sequence[Any], named: Any = None) -> tuple[int, ...]:
    """`f(2, 3)`, `f((2, 3))` and, with the argument's name, `f(size=(2, 3))` mean the same."""
    if named is not None:
        if size:
            raise TypeError(f"sizes are given twice, as {tuple(size)} and by name as {named!r}")
        size = (named,)
    try:
        if len(size) == 1 and isinstance(size[0], Sequence):
            size = size[0]
        return tuple(map(index, size))
    except TypeError:
        raise TypeError(f"sizes are ints, as in (2, 3), got {size!r}") from None
