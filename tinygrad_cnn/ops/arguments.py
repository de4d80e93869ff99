"""What users pass, checked at the door: ints become pairs, and tensors of other kinds are refused by name."""

from __future__ import annotations

from math import inf
from operator import index
from typing import Any

import numpy as np

from ..autograd import Variable


def pair(op: str, name: str, value: Any, least: int) -> tuple[int, int]:
    """(n, n) for an int n, (a, b) for a pair; TypeError for other things, ValueError for numbers below `least`."""
    values = value if isinstance(value, tuple) else (value,)
    if len(values) not in (1, 2):
        raise ValueError(f"{op} expects one or two numbers for {name}, got {len(values)}: {value}")
    pair = integer(op, name, values[0], least), integer(op, name, values[-1], least)
    return pair


def integer(op: str, name: str, value: Any, least: int | None = None) -> int:
    """value as an int; TypeError where it is none, ValueError below `least`."""
    try:
        number = index(value)
    except TypeError:
        raise TypeError(f"{op} expects an int for {name}, got {type(value).__name__} {value!r}") from None
    if least is not None and number < least:
        raise ValueError(f"{op} expects {name} >= {least}, got {number}")
    return number


def real(op: str, name: str, value: Any, least: float = -inf, most: float = inf) -> Any:
    """value, a number; TypeError where it is none, ValueError outside [least, most]."""
    if not isinstance(value, _REAL):
        raise TypeError(f"{op} expects a number for {name}, got {type(value).__name__} {value!r}")
    if not least <= value <= most:
        bounds = f"{name} >= {least}" if most == inf else f"{name} in [{least}, {most}]"
        raise ValueError(f"{op} expects {bounds}, got {value}")
    return value


_REAL = int, float, np.integer, np.floating


def hashable(value: Any) -> Any:
    """Lists as tuples, so that a call's numbers can key a cache."""
    return tuple(value) if type(value) is list else value


def check_tensors(op: str, **inputs: Any) -> None:
    """TypeError, with the name, unless all are tensors."""
    for name, value in inputs.items():
        if not isinstance(value, Variable):
            raise TypeError(f"{op} expects a Tensor as {name}, got {type(value).__name__}; use tg.tensor()")


def check_floats(op: str, first: Any, *others: Any) -> None:
    """TypeError unless all are floating-point tensors of one dtype; None is passed over."""
    if not isinstance(first, Variable):
        raise TypeError(f"{op} expects a Tensor, got {type(first).__name__}; use tg.tensor()")
    dtype = first._array.dtype
    if dtype.kind != "f":
        raise TypeError(f"{op} expects a floating-point tensor, got {dtype}; use .float()")
    for other in others:
        if other is None:
            continue
        if not isinstance(other, Variable):
            raise TypeError(f"{op} expects a Tensor or None, got {type(other).__name__}; use tg.tensor()")
        if other._array.dtype != dtype:
            raise TypeError(
                f"{op} expects tensors of one dtype, got an input of {dtype} and a {other._array.dtype} of shape "
                f"{other._array.shape}; use .to(tg.{other._array.dtype}) on the input or .to(tg.{dtype}) on the other"
            )
