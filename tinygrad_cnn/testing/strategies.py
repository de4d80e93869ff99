"""Hypothesis strategies for the inputs of tensor ops; needs hypothesis (`pip install tinygrad_cnn[test]`).

Every draw is legal by construction: nothing is filtered. Each strategy shrinks to its smallest case: no
dimensions or single elements, kernels of 1, values 1 and 0, C order.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from hypothesis import strategies as st

from . import layouts as memory
from .machine import AutogradMachine as AutogradMachine
from .networks import modules as modules

Shape: TypeAlias = tuple[int, ...]
Pads: TypeAlias = tuple[tuple[int, int], ...]

#: Above this many elements one drawn seed fills an array: hypothesis need not shrink each of thousands.
BULK = 64


# --------------------------------------------------------------------------------------------------- shapes


def shapes(min_dims: int = 0, max_dims: int = 4, min_side: int = 0, max_side: int = 5) -> st.SearchStrategy[Shape]:
    """Shapes, 0-d and empty ones included unless `min_dims` or `min_side` rule them out."""
    return st.lists(st.integers(min_side, max_side), min_size=min_dims, max_size=max_dims).map(tuple)


@st.composite
def broadcastable(
    draw: st.DrawFn, n: int = 2, *, max_dims: int = 4, min_side: int = 0, max_side: int = 4
) -> tuple[Shape, ...]:
    """n shapes that broadcast together: leading dimensions left out, and lengths of 1."""
    full = draw(shapes(0, max_dims, min_side, max_side))
    found = []
    for _ in range(n):
        kept = draw(st.integers(0, len(full)))
        tail = full[len(full) - kept :]
        found.append(tuple(draw(st.sampled_from((side, 1))) for side in tail))
    return tuple(found)


@st.composite
def matmul_operands(draw: st.DrawFn, *, min_side: int = 1, max_side: int = 5) -> tuple[Shape, Shape]:
    """The shapes of a and b in a @ b: vectors, matrices and stacks of matrices that broadcast."""
    m, k, n = (draw(st.integers(min_side, max_side)) for _ in range(3))
    left, right = draw(broadcastable(2, max_dims=2, min_side=min_side, max_side=3))
    a = draw(st.sampled_from(((k,), (*left, m, k))))
    b = draw(st.sampled_from(((k,), (*right, k, n))))
    return a, b


# --------------------------------------------------------------------------------------------------- arrays


def layouts(array: np.ndarray) -> st.SearchStrategy[np.ndarray]:
    """The array's numbers in any memory layout: C, F, transposed, strided, reversed, read-only, channels-last ..."""
    return st.sampled_from(sorted(memory.LAYOUTS, key=_simplest_first)).map(lambda name: memory.LAYOUTS[name](array))


def _simplest_first(name: str) -> int:
    return 0 if name == "C" else 1


@st.composite
def arrays(
    draw: st.DrawFn,
    shape: Shape | st.SearchStrategy[Shape],
    dtype: Any = np.float64,
    *,
    low: float = -2.0,
    high: float = 2.0,
    bits: int = 4,
    bulk: int = BULK,
    layout: str = "any",
) -> np.ndarray:
    """Arrays of multiples of 2**-m in [low, high], m <= bits (0 for integer dtypes): they add without rounding.

    Floats shrink to 1 where it is in range: zeros would hide from the shrinker what a smaller shape keeps.
    `layout` is "any" or the name of one of `testing.layouts.LAYOUTS`.
    """
    if not isinstance(shape, tuple):
        shape = draw(shape)
    unit = 1 << (draw(st.integers(0, bits)) if np.dtype(dtype).kind == "f" else 0)
    simplest = unit if low <= 1 <= high and np.dtype(dtype).kind == "f" else 0
    steps = simplest + _integers(
        draw, shape, math.ceil(low * unit) - simplest, math.floor(high * unit) - simplest, bulk
    )
    array = np.asarray(steps / unit if np.dtype(dtype).kind == "f" else steps, dtype)
    return draw(layouts(array)) if layout == "any" else memory.LAYOUTS[layout](array)


def _integers(draw: st.DrawFn, shape: Shape, low: int, high: int, bulk: int = BULK) -> np.ndarray:
    """An int64 array in [low, high], drawn by the element or, when large, by a seed."""
    size = math.prod(shape)
    if size > bulk:
        seed = draw(st.integers(0, 2**32 - 1))
        return np.random.default_rng(seed).integers(low, high, shape, endpoint=True)
    drawn = draw(st.lists(st.integers(low, high), min_size=size, max_size=size))
    return np.array(drawn, np.int64).reshape(shape)


@st.composite
def distinct(
    draw: st.DrawFn, shape: Shape, gap: float = 2.0**-4, *, bulk: int = BULK, layout: str = "any"
) -> np.ndarray:
    """float64 values at least `gap` from each other and `gap / 2` from 0: no step of a gradient check
    crosses a kink.
    """
    size = math.prod(shape)
    if size > bulk:
        order = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).permutation(size)
    else:
        order = np.array(draw(st.permutations(range(size))), np.int64)
    array = (gap * (order - size // 2 + 0.5)).reshape(shape)
    return draw(layouts(array)) if layout == "any" else memory.LAYOUTS[layout](array)


@st.composite
def tied(draw: st.DrawFn, shape: Shape, values: int = 2, *, layout: str = "any") -> np.ndarray:
    """float64 whole numbers below `values`: full of ties, and of zeros."""
    array = _integers(draw, shape, 0, values - 1).astype(np.float64)
    return draw(layouts(array)) if layout == "any" else memory.LAYOUTS[layout](array)


@st.composite
def integers32(draw: st.DrawFn, shape: Shape, K: int = 1, *, largest: int = 8, layout: str = "any") -> np.ndarray:
    """float32 whole numbers so small that sums of K products of two of them are exact in any order.

    Kernels that add in different orders then agree bit for bit. Raises ValueError when even -1, 0 and 1
    were too large.
    """
    bound = min(math.isqrt(2**24 // max(K, 1)), largest)
    if bound < 1:
        raise ValueError(f"a sum of {K} products has no exact float32 value; K may be at most {2**24}")
    array = _integers(draw, shape, -bound, bound).astype(np.float32)
    return draw(layouts(array)) if layout == "any" else memory.LAYOUTS[layout](array)


def labels(n: int, classes: int) -> st.SearchStrategy[np.ndarray]:
    """n class numbers, int64."""
    return st.lists(st.integers(0, classes - 1), min_size=n, max_size=n).map(lambda x: np.array(x, np.int64))


# ------------------------------------------------------------------------------------ convolution and pools


@dataclasses.dataclass(frozen=True)
class ConvConfig:
    """A convolution of legal sizes. Per spatial dimension: kernel, stride, dilation, padding (before, after)."""

    batch: int
    channels: int
    out_channels: int
    groups: int
    size: Shape  # spatial, of the input
    kernel: Shape
    stride: Shape
    dilation: Shape
    padding: Pads
    output: Shape  # spatial, of the output
    output_padding: Shape = ()  # transposed only
    mode: str = "zeros"
    transposed: bool = False

    @property
    def input_shape(self) -> Shape:
        return (self.batch, self.channels, *self.size)

    @property
    def weight_shape(self) -> Shape:
        if self.transposed:
            return (self.channels, self.out_channels // self.groups, *self.kernel)
        return (self.out_channels, self.channels // self.groups, *self.kernel)

    @property
    def output_shape(self) -> Shape:
        return (self.batch, self.out_channels, *self.output)

    @property
    def flat_padding(self) -> Shape:
        """(top, bottom, left, right), as conv2d takes asymmetric padding."""
        return tuple(side for pair in self.padding for side in pair)


@st.composite
def conv_configs(
    draw: st.DrawFn,
    ndim: int | Sequence[int] = (1, 2, 3),
    groups: bool = True,
    dilation: bool = True,
    asymmetric: bool = True,
    transposed: bool = False,
    modes: Sequence[str] = ("zeros",),
    *,
    max_channels: int = 3,
    max_kernel: int = 3,
    max_stride: int = 3,
    max_output: int = 4,
    max_batch: int = 2,
) -> ConvConfig:
    """Convolutions whose windows need not tile the input: drawn from the output size backwards, so all are legal.

    In each dimension output size o >= 1 and remainder r < stride give an input of (o-1)*s + (k-1)*d + 1 -
    pads + r.
    """
    n = ndim if isinstance(ndim, int) else draw(st.sampled_from(tuple(ndim)))
    per_group = draw(st.integers(1, max_channels)), draw(st.integers(1, max_channels))
    g = draw(st.integers(1, 3)) if groups else 1
    mode = draw(st.sampled_from(tuple(modes)))
    dims = [
        _transposed_dim(draw, dilation, max_kernel, max_stride, max_output)
        if transposed
        else _conv_dim(draw, dilation, asymmetric, mode, max_kernel, max_stride, max_output)
        for _ in range(n)
    ]
    sizes = {name: tuple(dim[name] for dim in dims) for name in dims[0]}
    return ConvConfig(
        draw(st.integers(1, max_batch)),
        per_group[0] * g,
        per_group[1] * g,
        g,
        **sizes,
        mode=mode,
        transposed=transposed,
    )


def _conv_dim(
    draw: st.DrawFn,
    dilation: bool,
    asymmetric: bool,
    mode: str,
    max_kernel: int,
    max_stride: int,
    max_output: int,
) -> dict[str, Any]:
    k, s = draw(st.integers(1, max_kernel)), draw(st.integers(1, max_stride))
    d = draw(st.integers(1, 2)) if dilation else 1
    o, r = draw(st.integers(1, max_output)), draw(st.integers(0, s - 1))
    need = (o - 1) * s + (k - 1) * d + 1 + r  # the padded input
    if asymmetric:
        before = draw(st.integers(0, _most_padding(need, mode)))
        after = draw(st.integers(0, _most_padding(need - before, mode, before)))
    else:
        before = after = draw(st.integers(0, {"reflect": need - 1, "circular": need}.get(mode, need) // 3))
    size = need - before - after
    return {"size": size, "kernel": k, "stride": s, "dilation": d, "padding": (before, after), "output": o}


def _most_padding(room: int, mode: str, other: int = 0) -> int:
    """How much of `room` cells may be padding: one cell stays, and reflection needs more cells than it pads."""
    if mode == "reflect":
        return max((room - 1) // 2 - other, 0)
    if mode == "circular":
        return max(room // 2 - other, 0)
    return min(room - 1, 3)


def _transposed_dim(draw: st.DrawFn, dilation: bool, max_kernel: int, max_stride: int, max_size: int) -> dict[str, Any]:
    k, s = draw(st.integers(1, max_kernel)), draw(st.integers(1, max_stride))
    d = draw(st.integers(1, 2)) if dilation else 1
    size = draw(st.integers(1, max_size))
    beyond = draw(st.integers(0, max(s, d) - 1))
    full = (size - 1) * s + (k - 1) * d + 1 + beyond
    pad = draw(st.integers(0, min((full - 1) // 2, (k - 1) * d)))
    dim = {
        "size": size,
        "kernel": k,
        "stride": s,
        "dilation": d,
        "padding": (pad, pad),
        "output_padding": beyond,
    }
    return dim | {"output": full - 2 * pad}


@dataclasses.dataclass(frozen=True)
class PoolConfig:
    """A pool of legal sizes; `options` are the keyword arguments of the pooling function beside the input."""

    shape: Shape
    output: Shape  # spatial
    options: dict[str, Any]


@st.composite
def pool_configs(
    draw: st.DrawFn,
    kind: Literal["max", "avg", "adaptive"],
    ceil_mode: bool = True,
    *,
    ndim: int = 2,
    max_kernel: int = 3,
    max_stride: int = 3,
    max_output: int = 3,
) -> PoolConfig:
    """Pools whose windows overlap, leave gaps and need not tile the input; `kind` is "max", "avg" or "adaptive"."""
    lead = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    if kind == "adaptive":
        size = tuple(draw(st.integers(1, 7)) for _ in range(ndim))
        output = tuple(draw(st.integers(1, 4)) for _ in range(ndim))
        return PoolConfig((*lead, *size), output, {"output_size": output})
    up = ceil_mode and draw(st.booleans())
    dims = [_pool_dim(draw, kind == "max", up, max_kernel, max_stride, max_output) for _ in range(ndim)]
    names = ("kernel_size", "stride", "padding") + (("dilation",) if kind == "max" else ())
    options: dict[str, Any] = {name: tuple(dim[name] for dim in dims) for name in names} | {"ceil_mode": up}
    if kind == "avg":
        options["count_include_pad"] = draw(st.booleans())
        options["divisor_override"] = draw(st.sampled_from((None, 3)))
    return PoolConfig((*lead, *(dim["size"] for dim in dims)), tuple(dim["output"] for dim in dims), options)


def _pool_dim(
    draw: st.DrawFn, dilates: bool, up: bool, max_kernel: int, max_stride: int, max_output: int
) -> dict[str, int]:
    """One dimension, from the output backwards; rounding up, the last window may hang over the end."""
    k, s = draw(st.integers(1, max_kernel)), draw(st.integers(1, max_stride))
    d = draw(st.integers(1, 2)) if dilates else 1
    o = draw(st.integers(1, max_output))
    pad = draw(st.integers(0, k // 2 if o > 1 else (k - 1) // 2))
    last = (o - 1) * s  # where the last window starts, counted from the first cell of the padding
    fits = last + (k - 1) * d + 1 - 2 * pad  # the input that ends where the last window does
    if up:  # up to o * s - pad: one window more would start beyond the image
        size = draw(st.integers(max(fits - s + 1, last - pad + 1, 1), max(fits, o * s - pad)))
    else:
        size = draw(st.integers(fits, fits + s - 1))
    return {"kernel_size": k, "stride": s, "padding": pad, "dilation": d, "size": size, "output": o}


# ------------------------------------------------------------------------------------------------- indexing


@st.composite
def index_exprs(draw: st.DrawFn, shape: Shape, *, advanced: bool = True, negative_steps: bool = True) -> Any:
    """What may stand in x[...] for an x of this shape: ints, slices, None, ..., integer and bool arrays."""
    if advanced and shape and draw(st.booleans()) and draw(st.booleans()):
        return _mask(draw, shape)
    used = draw(st.integers(0, len(shape)))
    gap = draw(st.integers(0, used))  # where ... stands
    dims = [*shape[:gap], *shape[len(shape) - (used - gap) :]] if used else []
    common = draw(st.integers(1, 3))  # integer arrays broadcast to one length
    items: list[Any] = [_item(draw, n, common, advanced, negative_steps) for n in dims]
    if gap < used < len(shape) or draw(st.booleans()):
        items.insert(gap, Ellipsis)
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 2)))):
        items.insert(draw(st.integers(0, len(items))), None)
    return items[0] if len(items) == 1 and draw(st.booleans()) else tuple(items)


def _mask(draw: st.DrawFn, shape: Shape) -> np.ndarray:
    part = shape[: draw(st.integers(1, len(shape)))]
    return _integers(draw, part, 0, 1).astype(np.bool_)


def _item(draw: st.DrawFn, n: int, common: int, advanced: bool, negative_steps: bool) -> Any:
    kinds = ["slice"] + (["int"] if n else []) + (["array"] if n and advanced else [])
    kind = draw(st.sampled_from(kinds))
    if kind == "int":
        return draw(st.integers(-n, n - 1))
    if kind == "array":
        length = draw(st.sampled_from((1, common)))
        return np.array(draw(st.lists(st.integers(-n, n - 1), min_size=length, max_size=length)), np.int64)
    bound = st.one_of(st.none(), st.integers(-n - 1, n + 1))
    steps: list[int | None] = [None, 1, 2, 3]
    if negative_steps:
        steps += [-1, -2]
    return slice(draw(bound), draw(bound), draw(st.sampled_from(steps)))


def tensors(strategy: st.SearchStrategy[np.ndarray]) -> st.SearchStrategy[Any]:
    """The drawn arrays as Tensors over the same memory."""
    from ..tensor import Tensor

    wrap: Callable[[np.ndarray], Any] = Tensor
    return strategy.map(wrap)
