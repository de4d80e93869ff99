"""New tensors: from data, filled, counted or random.

All take `dtype`, `device` and `requires_grad`. Floats are float32 and integers int64 unless the data say
otherwise.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np

from . import device as devices
from .dtypes import as_dtype, check_holds, float32, int64, is_float
from .ops.arguments import integer
from .ops.dims import array_of, numbers_of, size_of
from .random import Generator, stream_of
from .tensor import Tensor, over_foreign

# -------------------------------------------------------------------------------------------------- from data


def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A new tensor with a copy of data: a number, nested lists, an array, a tensor, or lists of these.

    Python floats become float32, ints int64 and bools bool; arrays and tensors keep their dtype. Raises
    ValueError for ragged lists, TypeError for strings and for dtypes that tensors do not have, and RuntimeError
    for numbers beyond an integer dtype's range.

    >>> import tinygrad_cnn as tg
    >>> tg.tensor([[1, 2], [3, 4.5]])
    tensor([[1.0000, 2.0000],
            [3.0000, 4.5000]])
    """
    given = _array_of(data, dtype)
    found = given.dtype if dtype is None else as_dtype(dtype)
    check_holds(found, given)
    return _new(np.array(given, found, order="C"), device, requires_grad)


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """data itself if it is a tensor of the dtype, a tensor that shares its memory if it is such an array,
    else a copy. RuntimeError for a device that is not there.
    """
    if device is not None:
        devices.check(device)
    if isinstance(data, Tensor):
        return cast(Tensor, data.to(data.dtype if dtype is None else as_dtype(dtype)))
    if isinstance(data, np.ndarray) and (dtype is None or as_dtype(dtype) == data.dtype):
        return from_numpy(data)
    return tensor(data, dtype=dtype, device=device)


def from_numpy(ndarray: np.ndarray) -> Tensor:
    """A tensor over the array's own memory: a write to one is seen in the other.

    Raises TypeError for another type or for a dtype that tensors do not have.
    """
    if not isinstance(ndarray, np.ndarray):
        raise TypeError(f"from_numpy expects a NumPy array, got {type(ndarray).__name__}; use tg.tensor()")
    return over_foreign(_supported(ndarray))


def from_dlpack(ext_tensor: Any) -> Tensor:
    """A tensor over the memory of any object that speaks DLPack, such as an array or a tensor of another library."""
    if not hasattr(ext_tensor, "__dlpack__"):
        raise TypeError(f"from_dlpack expects an object with __dlpack__, got {type(ext_tensor).__name__}")
    return over_foreign(_supported(np.from_dlpack(ext_tensor)))


def _array_of(data: Any, dtype: Any) -> np.ndarray:
    if isinstance(data, Tensor):
        return data._array
    if isinstance(data, np.ndarray | np.generic):
        return _supported(np.asarray(data), dtype)
    try:
        array = _asarray(data)
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise ValueError(f"the nested lists are ragged: every list of a level must have one length ({error})") from None
    if array.dtype == np.float64 and isinstance(_first(data), int | float) and not isinstance(_first(data), np.generic):
        return array.astype(float32) if dtype is None else array
    if array.size == 0 and array.dtype == np.float64:
        return array.astype(float32)
    if array.dtype.kind in "OUS":
        raise TypeError(f"cannot make a tensor of {type(_first(data)).__name__} {_first(data)!r}: numbers are needed")
    return _supported(array, dtype)


def _asarray(data: Any) -> np.ndarray:
    try:
        return np.asarray(data)
    except RuntimeError:  # a tensor that requires grad is no array; here its values count
        return np.asarray(_values(data))  # not for all: 140 ms more for a million numbers, ten times as long


def _values(data: Any) -> Any:
    """Nested lists with the arrays of their tensors."""
    if isinstance(data, Tensor):
        return data._array
    return [_values(x) for x in data] if isinstance(data, list | tuple) else data


def _first(data: Any) -> Any:
    """The first number of nested lists."""
    while isinstance(data, list | tuple) and data:
        data = data[0]
    return data


def _supported(array: np.ndarray, dtype: Any = None) -> np.ndarray:
    """The array; TypeError if tensors do not have its dtype and no other is asked for."""
    if dtype is None or array.dtype.kind not in "fiub":
        try:
            as_dtype(array.dtype)
        except TypeError as error:
            raise TypeError(f"{error}: convert the array with .astype(np.float32), for example") from None
    return array


def _new(array: np.ndarray, device: Any, requires_grad: bool) -> Tensor:
    if device is not None:
        devices.check(device)
    x = Tensor(array)
    return x.requires_grad_() if requires_grad else x


# ----------------------------------------------------------------------------------------------------- filled


def _size(size: Any, named: Any = None) -> tuple[int, ...]:
    sizes = size_of(size, named)
    if any(n < 0 for n in sizes):
        raise ValueError(f"a size cannot be negative: {sizes}")
    return sizes


def _dtype(dtype: Any) -> np.dtype[Any]:
    return float32 if dtype is None else as_dtype(dtype)


def zeros(*sizes: Any, size: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros: `zeros(2, 3)` or `zeros((2, 3))`."""
    return _new(np.zeros(_size(sizes, size), _dtype(dtype)), device, requires_grad)


def ones(*sizes: Any, size: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones: `ones(2, 3)` or `ones((2, 3))`."""
    return _new(np.ones(_size(sizes, size), _dtype(dtype)), device, requires_grad)


def empty(*sizes: Any, size: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor whose elements are whatever was in the memory."""
    return _new(np.empty(_size(sizes, size), _dtype(dtype)), device, requires_grad)


def full(size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """fill_value everywhere, in its dtype as `tensor` finds it unless one is given.

    RuntimeError for a number beyond an integer dtype's range, here and in all that is filled.
    """
    value = _array_of(fill_value, dtype)
    if value.ndim:
        raise TypeError(f"full expects a number as fill_value, got shape {value.shape}")
    found = value.dtype if dtype is None else as_dtype(dtype)
    check_holds(found, value)
    return _new(np.full(_size((size,)), value, found), device, requires_grad)


def _like(input: Tensor, dtype: Any) -> dict[str, Any]:
    if not isinstance(input, Tensor):
        raise TypeError(f"expected a Tensor to take the shape from, got {type(input).__name__}")
    return {"shape": input.shape, "dtype": input.dtype if dtype is None else as_dtype(dtype)}


def zeros_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of the input's shape and dtype."""
    return _new(np.zeros(**_like(input, dtype)), device, requires_grad)


def ones_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of the input's shape and dtype."""
    return _new(np.ones(**_like(input, dtype)), device, requires_grad)


def empty_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """As `empty`, of the input's shape and dtype."""
    return _new(np.empty(**_like(input, dtype)), device, requires_grad)


def full_like(
    input: Tensor, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """fill_value everywhere, in the input's shape and dtype."""
    value, like = numbers_of("full_like", fill_value), _like(input, dtype)
    check_holds(like["dtype"], value)
    return _new(np.full(fill_value=value, **like), device, requires_grad)


def eye(n: int, m: int | None = None, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """(n, m), or (n, n): ones on the diagonal, zeros elsewhere."""
    rows, columns = _size((n, n if m is None else m))
    return _new(np.eye(rows, columns, dtype=_dtype(dtype)), device, requires_grad)


# ---------------------------------------------------------------------------------------------------- counted


def arange(
    start: Any,
    end: Any = None,
    step: Any = 1,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """start, start + step, ... below end; `arange(end)` starts at 0. int64 unless one of the numbers is a
    float.

    Raises ValueError when step is 0 or leads away from end, or when one of the numbers is not finite.

    >>> import tinygrad_cnn as tg
    >>> tg.arange(1, 2.5, 0.5)
    tensor([1.0000, 1.5000, 2.0000])
    """
    if end is None:
        start, end = 0, start
    start, end, step = (x.item() if isinstance(x, Tensor | np.generic) else x for x in (start, end, step))
    if not all(math.isfinite(x) for x in (start, end, step)):
        raise ValueError(f"arange expects finite numbers, got start {start}, end {end} and step {step}")
    if step == 0 or (end - start) * step < 0:
        raise ValueError(f"arange: step {step} does not lead from {start} to {end}")
    whole = all(isinstance(x, int) for x in (start, end, step))
    n = -((start - end) // step) if whole else math.ceil((end - start) / step)
    values = start + step * np.arange(n, dtype=int64 if whole else np.float64)
    return _new(
        values.astype(as_dtype(dtype) if dtype is not None else int64 if whole else float32),
        device,
        requires_grad,
    )


def linspace(
    start: Any, end: Any, steps: int, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """`steps` numbers at equal distances, start and end among them."""
    (n,) = _size((steps,))
    return _new(np.linspace(float(start), float(end), n).astype(_dtype(dtype)), device, requires_grad)


# ----------------------------------------------------------------------------------------------------- random


def _float_dtype(op: str, dtype: Any) -> Any:
    found = _dtype(dtype)
    if not is_float(found):
        raise TypeError(f"{op} makes floating-point numbers, not {found}")
    return found


def rand(
    *sizes: Any,
    size: Any = None,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Random numbers, uniform in [0, 1)."""
    array = stream_of(generator).random(_size(sizes, size), _float_dtype("rand", dtype))
    return _new(np.asarray(array, _dtype(dtype)), device, requires_grad)


def randn(
    *sizes: Any,
    size: Any = None,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Random numbers from the normal distribution of mean 0 and variance 1."""
    array = stream_of(generator).standard_normal(_size(sizes, size), _float_dtype("randn", dtype))
    return _new(np.asarray(array, _dtype(dtype)), device, requires_grad)


def randint(
    low: int = 0,
    high: Any = None,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Random integers, uniform in [low, high); `randint(high, size)` starts at 0. ValueError for an empty
    range and for one that the dtype cannot hold.
    """
    if size is None:
        low, high, size = 0, low, high
    if size is None or high is None:
        raise TypeError("randint expects (low, high, size) or (high, size)")
    low, high = integer("randint", "low", low), integer("randint", "high", high)
    if low >= high:
        raise ValueError(f"randint: nothing lies in [{low}, {high})")
    found = int64 if dtype is None else as_dtype(dtype)
    if found.kind in "iu" and not np.iinfo(found).min <= low <= high - 1 <= np.iinfo(found).max:
        raise ValueError(f"randint: {found} does not hold all of [{low}, {high})")
    array = stream_of(generator).integers(low, high, _size((size,)))
    return _new(np.asarray(array, found), device, requires_grad)


def randperm(
    n: int,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """The integers 0 to n - 1 in random order."""
    array = stream_of(generator).permutation(*_size((n,)))
    return _new(array.astype(int64 if dtype is None else as_dtype(dtype)), device, requires_grad)


def bernoulli(input: Tensor, *, generator: Generator | None = None) -> Tensor:
    """1 with the probability that each element of the input gives, else 0. ValueError outside [0, 1]."""
    p = array_of("bernoulli", input)
    if not is_float(p.dtype):
        raise TypeError(f"bernoulli expects probabilities, got a tensor of {p.dtype}")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"bernoulli: a probability lies in [0, 1], got {p[~((p >= 0) & (p <= 1))].flat[0]}")
    return Tensor((stream_of(generator).random(p.shape) < p).astype(p.dtype))


def rand_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """As `rand`, of the input's shape and dtype."""
    return rand(
        _like(input, dtype)["shape"],
        dtype=_like(input, dtype)["dtype"],
        device=device,
        requires_grad=requires_grad,
    )


def randn_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """As `randn`, of the input's shape and dtype."""
    return randn(
        _like(input, dtype)["shape"],
        dtype=_like(input, dtype)["dtype"],
        device=device,
        requires_grad=requires_grad,
    )


def randint_like(input: Tensor, low: int, high: int | None = None, *, dtype: Any = None) -> Tensor:
    """As `randint`, of the input's shape and dtype."""
    like = _like(input, dtype)
    low, high = (0, low) if high is None else (low, high)
    return randint(low, high, like["shape"], dtype=like["dtype"])


def is_tensor(obj: Any) -> bool:
    """Whether obj is a Tensor."""
    return isinstance(obj, Tensor)
