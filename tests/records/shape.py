"""Records of the ops that move elements, views and copies."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn.nn import functional as F
from tinygrad_cnn.testing import OpRecord
from tinygrad_cnn.testing import strategies as draw

Shape = tuple[int, ...]
ONES = np.ones((2, 3))


@st.composite
def of_shape(d: st.DrawFn, params: Callable[[st.DrawFn, Shape], Any], dims: int = 0, side: int = 0) -> list[Any]:
    """[x, *params(draw, shape of x)]"""
    shape = d(draw.shapes(dims, 3, side, 3))
    return [d(draw.arrays(shape)), *params(d, shape)]


def moved(
    name: str, op: Any, ref: Any, params: Any, dims: int = 0, wrong: Any = (), side: int = 0
) -> OpRecord:  # `wrong`: parameters, type, words
    errors = [([ONES, *arguments], error, words) for arguments, error, words in wrong]
    return OpRecord(name, op, ref, of_shape(params, dims, side), errors, 1)


def dim(d: st.DrawFn, shape: Shape) -> list[int]:
    return [d(st.integers(-len(shape), len(shape) - 1))]


def two_dims(d: st.DrawFn, shape: Shape) -> list[int]:
    return dim(d, shape) + dim(d, shape)


def nothing(d: st.DrawFn, shape: Shape) -> list[Any]:
    return []


def order(d: st.DrawFn, shape: Shape) -> list[int]:
    return [i - len(shape) for i in d(st.permutations(range(len(shape))))]


def expanded(d: st.DrawFn, shape: Shape) -> Shape:
    full = (d(st.integers(0, 3)) if side == 1 else side for side in shape)
    return (*d(draw.shapes(0, 2, 0, 3)), *full)


def reshaped(d: st.DrawFn, shape: Shape) -> list[int]:
    """Another shape for as many elements, with a -1 or without."""
    rest = math.prod(shape)
    sizes = []
    while rest > 1 and d(st.booleans()):
        sizes.append(d(st.sampled_from([n for n in range(1, rest + 1) if rest % n == 0])))
        rest //= sizes[-1]
    sizes.append(rest)
    if rest and d(st.booleans()):
        sizes[d(st.integers(0, len(sizes) - 1))] = -1
    return sizes


def run(d: st.DrawFn, shape: Shape) -> tuple[int, int]:
    n = max(len(shape), 1)
    start = d(st.integers(0, n - 1))
    return start, d(st.integers(start, n - 1)) - n


def flatten(x: np.ndarray, start: int, end: int) -> Any:
    end += max(x.ndim, 1)
    return x.reshape(*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :])


def span(d: st.DrawFn, shape: Shape) -> list[int]:
    (at,) = dim(d, shape)
    start = d(st.integers(0, shape[at]))
    return [at, start, d(st.integers(0, shape[at] - start))]


def element(d: st.DrawFn, shape: Shape) -> list[int]:
    (at,) = dim(d, shape)
    return [at, d(st.integers(-shape[at], shape[at] - 1))]


def parts(d: st.DrawFn, shape: Shape) -> list[int]:
    return [d(st.integers(1, 3)), *dim(d, shape)]


def sections(d: st.DrawFn, shape: Shape) -> list[Any]:
    (at,) = dim(d, shape)
    first = d(st.integers(0, shape[at]))
    return [(first, 0, shape[at] - first), at]


def split(x: np.ndarray, size: Any, at: int) -> Any:
    ends = np.cumsum(size)[:-1] if isinstance(size, tuple) else range(size, x.shape[at], size)
    return tuple(np.split(x, list(ends), at))


def chunk(x: np.ndarray, chunks: int, at: int) -> Any:
    n = x.shape[at]
    return split(x, math.ceil(n / chunks), at) if n else (x,) * chunks


def unbind(x: np.ndarray, at: int) -> Any:
    return tuple(np.moveaxis(x, at, 0))


def plane(d: st.DrawFn, shape: Shape) -> list[int]:
    first, second = d(st.permutations(range(len(shape))))[:2]
    return [d(st.integers(-2, 2)), first, second - len(shape)]


def shifts(d: st.DrawFn, shape: Shape) -> list[Any]:
    axes = tuple(d(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    return [tuple(d(st.integers(-4, 4)) for _ in axes), axes]


def axes(d: st.DrawFn, shape: Shape) -> list[int]:
    return [a - len(shape) for a in d(st.sets(st.integers(0, len(shape) - 1), min_size=1))]


def times(d: st.DrawFn, shape: Shape) -> Shape:
    return (*d(draw.shapes(0, 2, 0, 2)), *(d(st.integers(0, 3)) for _ in shape))


def pad_of(least: Callable[[int], int], most: Callable[[int], int], mode: str) -> Any:
    """[widths from the last dimension on, mode, value]"""

    def params(d: st.DrawFn, shape: Shape) -> list[Any]:
        widths = [d(st.integers(least(n + side), most(n))) for n in reversed(shape) for side in (0, 1)]
        return [tuple(widths), mode, d(st.sampled_from((0.0, 1.5))) if mode == "constant" else None]

    return params


def pad(x: np.ndarray, numbers: Shape, mode: str, value: float | None) -> Any:
    """np.pad, with negative widths cutting away."""
    widths = list(zip(numbers[::2], numbers[1::2], strict=True))[::-1]
    keep = tuple(slice(max(-b, 0), n - max(-a, 0)) for n, (b, a) in zip(x.shape, widths, strict=True))
    rest = [(max(b, 0), max(a, 0)) for b, a in widths]
    if mode == "constant":
        return np.pad(x[(*keep, ...)], rest, constant_values=value) if rest else x
    return np.pad(x, rest, mode={"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode])  # type: ignore


def padding(mode: str, least: Any, most: Any, *wrong: Any) -> OpRecord:
    return moved(f"pad {mode}", F.pad, pad, pad_of(least, most, mode), 0 if mode == "constant" else 1, wrong,
                 0 if mode == "constant" else 1)  # fmt: skip


@st.composite
def joined(d: st.DrawFn, new: bool) -> list[Any]:
    """[dim, *tensors] that fit along it, or along a new one."""
    shape = d(draw.shapes(0 if new else 1, 3, 0, 3))
    n = len(shape) + new
    at = d(st.integers(-n, n - 1))
    sizes = d(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    axis = at % n
    shapes = [shape if new else (*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]
    return [at, *(d(draw.arrays(s)) for s in shapes)]


def like(d: st.DrawFn, shape: Shape, wanted: Shape) -> list[Any]:
    return [np.zeros(wanted, np.int64)]


REPLACED = [([2], IndexError, "dim 2")]

RECORDS = [
    moved("clone", tg.clone, lambda x: x, nothing),
    moved("contiguous", tg.Tensor.contiguous, lambda x: x, nothing),
    moved("reshape", tg.reshape, lambda x, *s: x.reshape(s), reshaped, wrong=[([4], RuntimeError, "(4,)")]),
    moved("view", lambda x, *s: x.contiguous().view(*s), lambda x, *s: x.reshape(s), reshaped,
          wrong=[([5], RuntimeError, "(5,)")]),
    moved("view_as", lambda x, other: x.contiguous().view_as(other), lambda x, other: x.reshape(other.shape),
          lambda d, s: like(d, s, s[::-1])),
    moved("reshape_as", tg.Tensor.reshape_as, lambda x, other: x.reshape(other.shape),
          lambda d, s: like(d, s, s[::-1])),
    moved("expand_as", tg.Tensor.expand_as, lambda x, other: np.broadcast_to(x, other.shape),
          lambda d, s: like(d, s, expanded(d, s))),
    moved("expand", tg.Tensor.expand, lambda x, *s: np.broadcast_to(x, s), expanded,
          wrong=[([4, 3], RuntimeError, "(4, 3)")]),
    moved("broadcast_to", tg.broadcast_to, np.broadcast_to, lambda d, s: [expanded(d, s)],
          wrong=[([(4, 3)], RuntimeError, "(4, 3)")]),
    moved("flatten", tg.flatten, flatten, run, wrong=[([1, 0], RuntimeError, "start_dim 1")]),
    moved("unflatten", tg.unflatten, lambda x, at, _: np.expand_dims(x, at % x.ndim),
          lambda d, s: [(at := dim(d, s)[0]), (1, s[at])], 1, [([1, (2, 2)], RuntimeError, "(2, 2)")]),
    moved("squeeze", tg.squeeze, np.squeeze, nothing, wrong=REPLACED),
    moved("squeeze dim", tg.squeeze, lambda x, at: x.squeeze(at) if x.shape[at] == 1 else x, dim, 1),
    moved("unsqueeze", tg.unsqueeze, np.expand_dims, lambda d, s: [d(st.integers(-len(s) - 1, len(s)))],
          wrong=[([3], IndexError, "dim 3")]),
    moved("transpose", tg.transpose, np.swapaxes, two_dims, 1, [([0, 2], IndexError, "dim 2")]),
    moved("movedim", tg.movedim, np.moveaxis, two_dims, 1, [([(0, 1), 0], RuntimeError, "2 source dims")]),
    moved("permute", tg.permute, lambda x, *o: x.transpose(o), order, wrong=[([0, 0], RuntimeError, "each of the 2")]),
    OpRecord("t", tg.t, np.transpose, draw.shapes(0, 2, 0, 3).flatmap(draw.arrays).map(lambda x: [x]),
             [([ONES[None]], RuntimeError, "at most 2")], 1),
    moved("T", lambda x: x.T, np.transpose, nothing),
    moved("mT", lambda x: x.mT, lambda x: x.swapaxes(-1, -2), nothing, 2),
    moved("narrow", tg.narrow, lambda x, at, start, n: x.take(range(start, start + n), at), span, 1,
          [([0, 1, 2], RuntimeError, "length 2"), ([0, 3, 0], IndexError, "start 3")]),
    moved("select", tg.select, lambda x, at, i: x.take(i, at), element, 1, [([0, 2], IndexError, "index 2")], 1),
    moved("split", tg.split, split, parts, 1, [([0], ValueError, ">= 1, got 0")]),
    moved("split sections", tg.split, split, sections, 1, [([[1, 2]], RuntimeError, "[1, 2]")]),
    moved("chunk", tg.chunk, chunk, parts, 1, [([0], ValueError, "got 0")]),
    moved("unbind", tg.unbind, unbind, dim, 1, side=1, wrong=[([2], IndexError, "dim 2")]),
    moved("diagonal", tg.diagonal, np.diagonal, plane, 2, [([0, 1, 1], RuntimeError, "same dimension")]),
    moved("flip", tg.flip, lambda x, *a: np.flip(x, a), axes, 1, [([0, 0], RuntimeError, "more than once")]),
    moved("roll", tg.roll, np.roll, shifts, 1, [([(1, 2)], RuntimeError, "2 shifts")]),
    moved("roll flat", tg.roll, np.roll, lambda d, s: [d(st.integers(-4, 4))]),
    moved("repeat", tg.Tensor.repeat, lambda x, *n: np.tile(x, n), times, wrong=[([2], RuntimeError, "(2,)")]),
    moved("tril", tg.tril, np.tril, lambda d, s: [d(st.integers(-3, 3))], 2),
    moved("triu", tg.triu, np.triu, lambda d, s: [d(st.integers(-3, 3))], 2),
    padding("constant", lambda n: -(n // 2), lambda n: 2, ([(1,)], ValueError, "(1,)")),
    padding("reflect", lambda n: 0, lambda n: n - 1, ([(3, 0), "reflect"], ValueError, "(3, 0)")),
    padding("replicate", lambda n: 0, lambda n: 3, ([(1, 1), "replicate", 1.0], ValueError, "value=1.0")),
    padding("circular", lambda n: 0, lambda n: n, ([(0, 4), "circular"], ValueError, "(0, 4)")),
    OpRecord("cat", lambda at, *xs: tg.cat(xs, at), lambda at, *xs: np.concatenate(xs, at), joined(new=False),
             [([0, ONES, ONES[:, :2]], RuntimeError, "(2, 2)")], 1),
    OpRecord("stack", lambda at, *xs: tg.stack(xs, at), lambda at, *xs: np.stack(xs, at), joined(new=True),
             [([0, ONES, ONES[0]], RuntimeError, "(3,)")], 1),
]  # fmt: skip
