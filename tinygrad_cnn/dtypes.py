"""The dtypes, which are NumPy's, and PyTorch's rules for mixing them: Python numbers are weak, kinds beat sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

float32 = np.dtype(np.float32)
float64 = np.dtype(np.float64)
int64 = np.dtype(np.int64)
int32 = np.dtype(np.int32)
uint8 = np.dtype(np.uint8)
bool_ = np.dtype(np.bool_)  # tg.bool

_SUPPORTED: set[np.dtype[Any]] = {float32, float64, int64, int32, uint8, bool_}
_NAMES: dict[str, np.dtype[Any]] = {"float": float32, "double": float64, "long": int64, "int": int32}
_RANK = {"b": 0, "u": 1, "i": 1, "f": 2}


def as_dtype(dtype: Any) -> np.dtype[Any]:
    """The supported dtype that is meant; Python's float is float32 and int is int64, as in PyTorch.

    Raises TypeError for a dtype that tensors do not have.
    """
    if dtype is float:
        return float32
    if isinstance(dtype, str) and dtype in _NAMES:
        return _NAMES[dtype]
    try:
        found = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"{dtype!r} is not a dtype") from None
    if found not in _SUPPORTED:
        raise TypeError(f"dtype {found} is not supported; use one of {', '.join(sorted(map(str, _SUPPORTED)))}")
    native: np.dtype[Any] = found.newbyteorder("=")
    return native


def check_holds(dtype: np.dtype[Any], values: np.ndarray) -> None:
    """Raise RuntimeError if an integer dtype cannot hold all of the values, fractions aside."""
    if dtype.kind not in "iu" or values.dtype == dtype or values.size == 0:
        return
    low, high, limits = values.min().item(), values.max().item(), np.iinfo(dtype)
    if not limits.min - 1 < low <= high < limits.max + 1:  # Python's numbers: exact, and false for NaN
        given = f"{low}" if f"{low}" == f"{high}" else f"all of {low} to {high}"
        raise RuntimeError(f"{dtype} cannot hold {given}: its numbers are {limits.min} to {limits.max}")


def is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f"


def result_type(*operands: Any) -> np.dtype[Any]:
    """The dtype of an elementwise op over arrays and Python numbers.

    Arrays with dimensions decide; 0-d arrays, then Python and NumPy numbers, only lift the kind (bool < integer <
    float). Raises TypeError for operands that are not numbers and for a result that tensors do not have.
    """
    best: list[np.dtype[Any] | None] = [None, None, None]
    for x in operands:
        level, dtype = _strength(x)
        held = best[level]
        best[level] = dtype if held is None else _promote(held, dtype)
    result = best[0]
    for weaker in best[1:]:
        if weaker is not None and (result is None or _RANK[weaker.kind] > _RANK[result.kind]):
            result = weaker
    assert result is not None
    if result not in _SUPPORTED:
        raise TypeError(f"the result would have dtype {result}, which tensors do not have; cast an operand first")
    return result


def _promote(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    """Two dtypes of equal strength: the higher kind, and within a kind the wider."""
    if _RANK[a.kind] == _RANK[b.kind]:
        return np.promote_types(a, b)
    return a if _RANK[a.kind] > _RANK[b.kind] else b


def _strength(x: Any) -> tuple[int, np.dtype[Any]]:
    if isinstance(x, np.ndarray):
        if x.dtype.kind not in _RANK:
            raise TypeError(f"expected an array of numbers, got one of {x.dtype} and shape {x.shape}")
        return (0 if x.ndim else 1), x.dtype
    if isinstance(x, bool | np.bool_):
        return 2, bool_
    if isinstance(x, int | np.integer):
        return 2, int64
    if isinstance(x, float | np.floating):
        return 2, float32
    raise TypeError(f"expected a Tensor, an array or a number, got {type(x).__name__}")
