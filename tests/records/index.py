"""Records of picking by index, adding by index, masks and order."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn.testing import OpRecord
from tinygrad_cnn.testing import strategies as draw

Shape = tuple[int, ...]
ONES, FIVE = np.ones((2, 3)), np.array([[1, 5, 1]])


def as_pytorch(x: np.ndarray, key: Any) -> np.ndarray:
    """x[key] in the order of PyTorch: ints, slices and None first, then arrays; to NumPy such ints are arrays too."""
    items = [k.numpy() if isinstance(k, tg.Tensor) else k for k in (key if isinstance(key, tuple) else [key])]
    if not any(isinstance(k, np.ndarray) for k in items):
        return np.asarray(x[key])
    if not any(k is Ellipsis for k in items):
        items.append(Ellipsis)
    first: list[Any] = []
    second: list[Any] = []
    for k in items:
        if isinstance(k, np.ndarray):
            first += [slice(None)] * (k.ndim if k.dtype == np.bool_ else 1)
            second.append(k)
        else:
            first.append(k)
            if not isinstance(k, int):
                second.append(k if k is Ellipsis else slice(None))
    return np.asarray(x[tuple(first)][tuple(second)])


@st.composite
def keys(d: st.DrawFn) -> list[Any]:
    """A tensor and a key, some of whose arrays are tensors, which mean the same."""
    shape = d(draw.shapes(0, 3, 0, 3))
    key = d(draw.index_exprs(shape))
    if isinstance(key, tuple):
        key = tuple(tg.from_numpy(k) if isinstance(k, np.ndarray) and d(st.booleans()) else k for k in key)
    return [d(draw.arrays(shape)), key]


@st.composite
def assignments(d: st.DrawFn) -> list[Any]:
    """A tensor, a key that may well name a place twice, and a value that broadcasts to what the key picks."""
    shape = d(draw.shapes(1, 3, 1, 3))
    key = d(st.one_of(draw.index_exprs(shape), draw.arrays((3,), np.int64, low=0, high=shape[0] - 1, layout="C")))
    x = d(draw.arrays(shape))
    region = as_pytorch(x, key).shape
    kept = region[d(st.integers(0, len(region))) :]
    return [x, key, d(draw.arrays(tuple(d(st.sampled_from((n, 1))) for n in kept)))]


def setitem(x: Any, key: Any, value: Any) -> Any:
    x = x.clone()
    x[key] = value
    return x


def setitem_ref(x: np.ndarray, key: Any, value: np.ndarray) -> np.ndarray:
    """The later of two writes to one place wins."""
    where = as_pytorch(np.arange(x.size).reshape(x.shape), key)  # each element of the region lies there in x
    flat = x.flatten()
    for i, element in zip(where.ravel(), np.broadcast_to(value, where.shape).ravel(), strict=True):
        flat[i] = element
    return flat.reshape(x.shape)


def place(d: st.DrawFn) -> tuple[Shape, int, np.ndarray]:
    """A shape, an axis, and indices along it: as many as they like there, no more than the shape elsewhere."""
    shape = d(draw.shapes(1, 3, 1, 3))
    axis = d(st.integers(0, len(shape) - 1))
    part = tuple(d(st.integers(0, 4 if i == axis else n)) for i, n in enumerate(shape))
    return shape, axis, d(draw.arrays(part, np.int64, low=0, high=shape[axis] - 1))


@st.composite
def gathers(d: st.DrawFn) -> list[Any]:
    shape, axis, index = place(d)
    return [d(draw.arrays(shape)), axis - d(st.sampled_from((0, len(shape)))), index]


def gather(x: np.ndarray, axis: int, index: np.ndarray) -> Any:
    axis %= x.ndim
    cropped = tuple(slice(None) if i == axis else slice(n) for i, n in enumerate(index.shape))
    return np.take_along_axis(x[cropped], index, axis)


@st.composite
def scatters(d: st.DrawFn) -> list[Any]:
    """src may be larger than the index."""
    shape, axis, index = place(d)
    source = tuple(n + d(st.integers(0, 1)) for n in index.shape)
    return [d(draw.arrays(shape)), axis - d(st.sampled_from((0, len(shape)))), index, d(draw.arrays(source))]


def scatter_add(x: np.ndarray, axis: int, index: np.ndarray, src: np.ndarray) -> Any:
    axis %= x.ndim
    out = x.copy()
    for at in np.ndindex(index.shape):
        out[(*at[:axis], index[at], *at[axis + 1 :])] += src[at]
    return out


@st.composite
def index_selects(d: st.DrawFn) -> list[Any]:
    shape = d(draw.shapes(1, 3, 1, 3))
    axis = d(st.integers(-len(shape), len(shape) - 1))
    return [d(draw.arrays(shape)), axis, np.array(d(st.lists(st.integers(0, shape[axis] - 1), max_size=4)), np.int64)]


@st.composite
def takes(d: st.DrawFn, flat: bool) -> list[Any]:
    """Indices that broadcast beside the axis; or into all elements."""
    shape = d(draw.shapes(1, 3, 1, 3))
    axis = d(st.integers(0, len(shape) - 1))
    part = tuple(2 if i == axis else d(st.sampled_from((1, n))) for i, n in enumerate(shape))
    high = (int(np.prod(shape)) if flat else shape[axis]) - 1
    return [d(draw.arrays(shape)), d(draw.arrays(part, np.int64, low=0, high=high)), *([] if flat else [axis])]


def take_along_dim(x: np.ndarray, index: np.ndarray, axis: int | None = None) -> Any:
    return x.reshape(-1)[index.reshape(-1)] if axis is None else np.take_along_axis(x, index, axis)


@st.composite
def masked(d: st.DrawFn, *values: Any) -> list[Any]:
    """A tensor and a mask that broadcast."""
    shape, small = d(draw.broadcastable(2, max_dims=3, max_side=3))
    return [d(draw.arrays(shape)), np.asarray(d(draw.tied(small)) > 0), *values]


def masked_select(x: np.ndarray, mask: np.ndarray) -> Any:
    full = np.broadcast_shapes(x.shape, mask.shape)
    return np.broadcast_to(x, full)[np.broadcast_to(mask, full)]


@st.composite
def sorts(d: st.DrawFn) -> list[Any]:
    shape = d(draw.shapes(1, 3, 0, 4))
    return [d(draw.distinct(shape)), d(st.integers(-len(shape), len(shape) - 1)), d(st.booleans())]


@st.composite
def tops(d: st.DrawFn) -> list[Any]:
    x, axis, largest = d(sorts())
    return [x, d(st.integers(0, x.shape[axis])), axis, largest]


def sort(x: np.ndarray, axis: int, descending: bool) -> Any:
    x = -x if descending else x
    index = np.argsort(x, axis, kind="stable")
    values = np.take_along_axis(x, index, axis)
    return -values if descending else values, index


def topk(x: np.ndarray, k: int, axis: int, largest: bool) -> Any:
    return tuple(part.take(range(k), axis) for part in sort(x, axis, largest))


RECORDS = [
    OpRecord("getitem", tg.Tensor.__getitem__, as_pytorch, keys(), [([ONES, 3], IndexError, "3")], 1),
    OpRecord("setitem", setitem, setitem_ref, assignments(), [([ONES, 3, ONES], IndexError, "3")], 1),
    OpRecord("gather", tg.gather, gather, gathers(), [([ONES, 0, FIVE], IndexError, "index 5 is out of range")], 1),
    OpRecord(
        "scatter_add", tg.scatter_add, scatter_add, scatters(), [([ONES, 0, FIVE, ONES], IndexError, "index 5")], 1
    ),
    OpRecord(
        "scatter_add_", lambda x, *rest: x.clone().scatter_add_(*rest), scatter_add, scatters(),
        [([ONES, 0, FIVE, ONES], IndexError, "index 5")], 1,
    ),
    OpRecord(
        "index_select", tg.index_select, lambda x, axis, i: x.take(i, axis), index_selects(),
        [([ONES, 2, FIVE[0]], IndexError, "dim 2"), ([ONES, 0, FIVE], IndexError, "(1, 3)")], 1,
    ),
    OpRecord(
        "take_along_dim", tg.take_along_dim, take_along_dim, takes(flat=False),
        [([ONES, FIVE, 0], IndexError, "5")], 1,
    ),
    OpRecord("take_along_dim flat", tg.take_along_dim, take_along_dim, takes(flat=True), degree=1),
    OpRecord(
        "masked_select", tg.masked_select, masked_select, masked(),
        [([ONES, ONES[:, :2] > 0], RuntimeError, "(2, 2)")], 1,
    ),
    OpRecord(
        "masked_fill", tg.masked_fill, lambda x, m, v: np.where(m, v, x), masked(1.5),
        [([ONES, ONES[:, :2] > 0, 1], RuntimeError, "(2, 2)"), ([ONES, ONES, 1], RuntimeError, "bool")], 1,
    ),
    OpRecord(
        "masked_fill tensor", tg.masked_fill, lambda x, m, v: np.where(m, v, x), masked(np.array(0.5)),
        [([ONES, ONES > 0, ONES], RuntimeError, "0-d")], 1,
    ),
    OpRecord(
        "masked_fill_", lambda x, m, v: (x + m * 0).masked_fill_(m, v), lambda x, m, v: np.where(m, v, x),
        masked(1.5), degree=1,
    ),
    OpRecord("sort", tg.sort, sort, sorts(), [([ONES, 2], IndexError, "dim 2")]),
    OpRecord("topk", tg.topk, topk, tops(), [([ONES, 4], RuntimeError, "k=4")]),
]  # fmt: skip
