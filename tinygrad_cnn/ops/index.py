"""Ops that pick elements by index, and their adjoints, which add elements up by index.

Three pairs are each other's vjp: slices and zeros around a slice, x[indices] and adding at indices, gather
and scatter-add. Elements that are picked twice receive both gradients.
"""

from __future__ import annotations

import math
import operator
from types import EllipsisType
from typing import Any, NamedTuple

import numpy as np

from ..autograd import Variable
from ..dtypes import bool_, int64
from ..kernels import on
from ..op import op
from .arguments import integer
from .dims import array_of, dim_of, integer_array_of, numbers_of, numpy_names
from .elementwise import where

# -------------------------------------------------------------------------------------------- x[key]: the key


def parse_key(key: Any) -> tuple[tuple[Any, ...] | None, tuple[Any, ...] | None]:
    """A subscript in two steps: the view that ints, slices, None and ... make, and what arrays then take from it.

    Either may be None. The order is PyTorch's, where x[0, :, [1, 2]] is x[0][:, [1, 2]]; to NumPy the 0 is an
    array too.
    """
    items = [_parse_item(k) for k in (key if isinstance(key, tuple) else (key,))]
    if not any(isinstance(k, np.ndarray | bool) for k in items):
        if Ellipsis not in items:
            items.append(Ellipsis)  # x[0] of a vector is a 0-d view then, not a NumPy number
        return tuple(items), None
    take = tuple(k for k in (_whole(k) for k in items) if k is not None)
    if all(k is Ellipsis or k == _ALL for k in items if not isinstance(k, np.ndarray | bool)):
        return None, take
    view: list[Any] = []
    for k in items:
        view += [_ALL] * _consumed(k) if isinstance(k, np.ndarray | bool) else [k]
    return tuple(view), take


_ALL = slice(None)


def _whole(k: Any) -> Any:
    """What is left of an item once the view is made: all of a sliced dimension, nothing of one picked by an int."""
    if isinstance(k, np.ndarray | bool | EllipsisType):
        return k
    return _ALL if k is None or isinstance(k, slice) else None


def _consumed(k: Any) -> int:
    """The dimensions that an array in a key stands for."""
    return np.ndim(k) if isinstance(k, bool) or k.dtype == bool_ else 1


def _parse_item(k: Any) -> Any:
    if k is None or isinstance(k, int | slice | EllipsisType):
        return k
    if isinstance(k, str):
        raise TypeError(f"an index must be an integer, a slice, None, ..., or a tensor of these, not the string {k!r}")
    array = k._array if isinstance(k, Variable) else np.asarray(k)
    if array.size == 0 and not isinstance(k, Variable | np.ndarray):
        array = array.astype(int64)  # x[[]]
    if array.dtype.kind not in "ib":
        raise IndexError(f"an index must be an integer, a slice, None, ..., or int64, int32 or bool, not {array.dtype}")
    if array.ndim == 0 and array.dtype != bool_:
        return int(array)
    return array.copy() if isinstance(k, Variable | np.ndarray) else array  # the user may change theirs


# --------------------------------------------------------------------------------------- x[key]: the four ops


@op(view=True)
def _slice(input: Any, key: tuple[Any, ...]) -> Any:
    return input[key]


@op
def _embed(g: Any, key: tuple[Any, ...], shape: tuple[int, ...]) -> Any:
    """Zeros, with g where the slice was."""
    out = on(g).zeros(shape, g.dtype)
    out[key] = g
    return out


_slice.vjps(input=lambda g, input_shape, key: _embed(g, key=key, shape=input_shape))
_embed.vjps(g=lambda v, key: _slice(v, key))


@op
def _take(input: Any, key: tuple[Any, ...]) -> Any:
    return np.asarray(input[key])


@op
def _add_at(g: Any, key: tuple[Any, ...], shape: tuple[int, ...]) -> Any:
    """Zeros, with each element of g added where it was taken from."""
    out = on(g).zeros(shape, g.dtype)
    _add_by_place(out, _places(shape)[key], g)
    return out


def _places(shape: tuple[int, ...]) -> np.ndarray:
    """The number of each element in row-major order."""
    return np.arange(math.prod(shape)).reshape(shape)


def _add_by_place(out: np.ndarray, place: np.ndarray, g: np.ndarray) -> None:
    """out[place] += g with repetitions, in flat vectors: 5 times as fast as np.add.at with indices of rows."""
    np.add.at(out.reshape(-1), place.reshape(-1), g.reshape(-1))


_take.vjps(input=lambda g, input_shape, key: _add_at(g, key=key, shape=input_shape))
_add_at.vjps(g=lambda v, key: _take(v, key=key))


def getitem(input: Any, key: Any) -> Any:
    """input[key] as in PyTorch: ints, slices, None and ... make a view; integer or bool tensors, arrays and
    lists a copy.

    Raises IndexError for an index out of range, too many indices, or a mask of another shape.
    """
    view, take = parse_key(key)
    if view is not None:
        input = _slice(input, view)
    return input if take is None else _take(input, key=take)


@op
def replaced(input: Any, value: Any, key: tuple[Any, ...]) -> Any:
    """A copy of the input in which input[key] is the value, broadcast and cast: what `x[key] = value` computes."""
    out = on(input).empty_like(input)
    np.copyto(out, input)
    out[key] = value
    return out


def _picked(g: Any, shape: tuple[int, ...], key: tuple[Any, ...]) -> Any:
    """What the value receives: g[key], but 0 for an element that a later one overwrote, summed to the value's shape."""
    last = np.empty(g.shape, int64)
    place = np.arange(last[key].size).reshape(last[key].shape)
    last[key] = place
    return where(Variable.new(last[key] == place), _take(g, key=key), 0.0).sum_to_size(*shape)


replaced.vjps(
    input=lambda g, key: replaced(g, 0.0, key=key),
    value=lambda g, value_shape, key: _picked(g, value_shape, key),
)


# ---------------------------------------------------------------------------------------- along one dimension


@op
def _index_select(input: Any, index: Any, axis: int) -> Any:
    return np.take(input, index, axis)


@op
def _index_add(g: Any, index: Any, axis: int, shape: tuple[int, ...]) -> Any:
    out = on(g).zeros(shape, g.dtype)
    _add_by_place(out, _places(shape).take(index, axis), g)
    return out


_index_select.vjps(
    input=lambda g, input_shape, index, axis: _index_add(g, index, axis=axis, shape=input_shape),
)
_index_add.vjps(g=lambda v, index, axis: _index_select(v, index, axis=axis))


def _check_range(op: str, index: np.ndarray, n: int, dim: int) -> None:
    """IndexError, naming the first culprit, unless all indices are in [0, n)."""
    if index.size and (index.min() < 0 or index.max() >= n):
        worst = index[(index < 0) | (index >= n)][0]
        raise IndexError(f"{op}: index {worst} is out of range for dimension {dim} of size {n}")


@numpy_names
def index_select(input: Any, dim: int, index: Any) -> Any:
    """The slices of the input at the indices, a vector of int64, along dim; they may repeat.

    Raises IndexError for an index that is negative or beyond the end.
    """
    array, indices = array_of("index_select", input), integer_array_of("index_select", index)
    axis = dim_of("index_select", dim, array.ndim)
    if indices.ndim > 1:
        raise IndexError(f"index_select: the index must be a vector, got shape {indices.shape}")
    _check_range("index_select", indices, array.shape[axis] if array.ndim else 1, axis)
    if not array.ndim:
        return input.reshape(1)[index].reshape(())
    return _index_select(input, index.reshape(-1), axis=axis)


@op
def _gather(input: Any, index: Any, axis: int) -> Any:
    return np.take_along_axis(_cropped(input, index.shape, axis), index, axis)


def _cropped(x: Any, shape: tuple[int, ...], axis: int) -> Any:
    return x[tuple(slice(None) if i == axis else slice(n) for i, n in enumerate(shape))]


@op
def _scatter_add(input: Any, index: Any, src: Any, axis: int) -> Any:
    out = on(input).empty(input.shape, input.dtype)
    np.copyto(out, input)
    place = np.take_along_axis(_cropped(_places(out.shape), index.shape, axis), index, axis)
    _add_by_place(out, place, src[tuple(map(slice, index.shape))])
    return out


def _zeros(g: Any, shape: tuple[int, ...]) -> Any:
    return Variable.new(on(g._array).zeros(shape, g._array.dtype))


def _gathered(g: Any, index: Any, shape: tuple[int, ...], axis: int) -> Any:
    """The gradient of src, which is 0 where src is larger than the index."""
    part = _gather(g, index, axis=axis)
    return part if part.shape == shape else _embed(part, key=tuple(map(slice, index.shape)), shape=shape)


_gather.vjps(
    input=lambda g, input_shape, index, axis: _scatter_add(_zeros(g, input_shape), index, g, axis=axis),
)
_scatter_add.vjps(
    input=lambda g: g,
    src=lambda g, index, src_shape, axis: _gathered(g, index, src_shape, axis),
)


def _check_along(op: str, x: np.ndarray, index: np.ndarray, axis: int) -> None:
    """RuntimeError unless the index has as many dimensions as x and is nowhere longer, but along the axis."""
    too_long = any(i != axis and n > had for i, (n, had) in enumerate(zip(index.shape, x.shape, strict=False)))
    if index.ndim != x.ndim or too_long:
        raise RuntimeError(
            f"{op}: an index of shape {index.shape} does not fit {x.shape}: it needs as many, none "
            f"longer except dimension {axis}"
        )


@numpy_names
def gather(input: Any, dim: int, index: Any) -> Any:
    """out[i][j] = input[index[i][j]][j] for dim 0, and so on: the shape is the index's.

    Raises IndexError for an index that is negative or beyond the end, RuntimeError for shapes that do not
    fit.
    """
    array, indices = array_of("gather", input), integer_array_of("gather", index)
    axis = dim_of("gather", dim, array.ndim)
    if array.ndim == 0 or indices.ndim == 0:
        return gather(input.reshape(-1), 0, index.reshape(-1)).reshape(indices.shape)
    _check_along("gather", array, indices, axis)
    _check_range("gather", indices, array.shape[axis], axis)
    return _gather(input, index, axis=axis)


@numpy_names
def scatter_add(input: Any, dim: int, index: Any, src: Any) -> Any:
    """A copy of the input with src[i][j] added to [index[i][j]][j] for dim 0, and so on; indices may repeat.

    src may be larger than the index, whose shape says what is used. Raises IndexError for an index that is
    negative or beyond the end, RuntimeError for shapes or dtypes that do not fit.
    """
    array, indices = array_of("scatter_add", input), integer_array_of("scatter_add", index)
    source = array_of("scatter_add", src)
    axis = dim_of("scatter_add", dim, array.ndim)
    if source.dtype != array.dtype:
        raise RuntimeError(f"scatter_add: src has dtype {source.dtype}, the input {array.dtype}")
    if array.ndim == 0:
        return scatter_add(input.reshape(1), 0, index.reshape(-1), src.reshape(-1)).reshape(())
    _check_along("scatter_add", array, indices, axis)
    if source.ndim != array.ndim or any(n > had for n, had in zip(indices.shape, source.shape, strict=True)):
        raise RuntimeError(f"scatter_add: an index of shape {indices.shape} needs a larger src than {source.shape}")
    _check_range("scatter_add", indices, array.shape[axis], axis)
    return _scatter_add(input, index, src, axis=axis)


@numpy_names
def take_along_dim(input: Any, indices: Any, dim: int | None = None) -> Any:
    """As `gather`, with input and indices broadcast against each other; the flattened input without dim."""
    array, index = array_of("take_along_dim", input), integer_array_of("take_along_dim", indices)
    if dim is None:
        return gather(input.reshape(-1), 0, indices.reshape(-1))
    axis = dim_of("take_along_dim", dim, array.ndim)
    if array.ndim != index.ndim:
        raise RuntimeError(f"take_along_dim: an input of shape {array.shape} and indices of shape {index.shape}")
    try:
        shape = np.broadcast_shapes(*((*s[:axis], 1, *s[axis + 1 :]) for s in (array.shape, index.shape)))
    except ValueError:
        raise RuntimeError(
            f"take_along_dim: shapes {array.shape} and {index.shape} do not broadcast beside dimension {axis}"
        ) from None
    full = [(*shape[:axis], s[axis], *shape[axis + 1 :]) for s in (array.shape, index.shape)]
    return gather(input.expand(*full[0]), axis, indices.expand(*full[1]))


# --------------------------------------------------------------------------------------------------- by masks


@op(broadcasts=True)
def _masked_fill(input: Any, mask: Any, value: Any) -> Any:
    return np.where(mask, np.asarray(value, input.dtype), input)


_masked_fill.vjps(
    input=lambda g, mask: _masked_fill(g, mask, 0),
    value=lambda g, mask: where(mask, g, 0.0),
)


def _mask_of(op: str, mask: Any) -> np.ndarray:
    array = array_of(op, mask)
    if array.dtype != bool_:
        raise RuntimeError(f"{op} expects a bool mask, got {array.dtype}; use .bool()")
    return array


def masked_fill(input: Any, mask: Any, value: Any) -> Any:
    """The input with `value`, a number or a 0-d tensor, wherever the bool mask, which broadcasts, is true."""
    array, chosen = array_of("masked_fill", input), _mask_of("masked_fill", mask)
    filler = numbers_of("masked_fill", value)
    if filler.ndim:
        raise RuntimeError(f"masked_fill expects a number or a 0-d tensor as value, got shape {filler.shape}")
    if array.dtype.kind != "f" and filler.astype(array.dtype) != filler:
        raise RuntimeError(f"masked_fill: {filler} is not a value of dtype {array.dtype}")
    _check_broadcast("masked_fill", array, chosen)
    return _masked_fill(input, mask, value)


def _check_broadcast(op: str, x: np.ndarray, mask: np.ndarray) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(x.shape, mask.shape)
    except ValueError:
        raise RuntimeError(f"{op}: a mask of shape {mask.shape} does not broadcast with {x.shape}") from None


def masked_select(input: Any, mask: Any) -> Any:
    """A vector of the elements where the bool mask is true; input and mask broadcast against each other."""
    shape = _check_broadcast("masked_select", array_of("masked_select", input), _mask_of("masked_select", mask))
    return getitem(input.expand(*shape), mask.expand(*shape))


def nonzero(input: Any, as_tuple: bool = False) -> Any:
    """The indices of the elements that are not 0: (count, ndim) of int64, or one vector per dimension with as_tuple."""
    array = array_of("nonzero", input)
    found = np.nonzero(array.reshape(1) if not array.ndim else array)
    if as_tuple:
        return tuple(Variable.new(i) for i in found)
    return Variable.new(np.stack(found[: array.ndim], 1) if array.ndim else np.empty((len(found[0]), 0), int64))


@op
def _triangle(input: Any, diagonal: int, lower: bool) -> Any:
    return np.tril(input, diagonal) if lower else np.triu(input, diagonal)


_triangle.vjps(input=lambda g, diagonal, lower: _triangle(g, diagonal=diagonal, lower=lower))


def tril(input: Any, diagonal: int = 0) -> Any:
    """The matrix, or each of a batch, with zeros above the given diagonal."""
    return _triangle(_matrix("tril", input), diagonal=diagonal, lower=True)


def triu(input: Any, diagonal: int = 0) -> Any:
    """The matrix, or each of a batch, with zeros below the given diagonal."""
    return _triangle(_matrix("triu", input), diagonal=diagonal, lower=False)


def _matrix(op: str, input: Any) -> Any:
    shape = array_of(op, input).shape
    if len(shape) < 2:
        raise RuntimeError(f"{op} expects a matrix or a batch of matrices, got shape {shape}")
    return input


@op(view=True)
def _diagonal(input: Any, offset: int, axis1: int, axis2: int) -> Any:
    return _diagonal_of(input, offset, axis1, axis2)


def _diagonal_of(x: np.ndarray, offset: int, axis1: int, axis2: int) -> Any:
    """A writable view, which np.diagonal's is not."""
    x = np.moveaxis(x, (axis1, axis2), (-2, -1))
    x = x[..., max(-offset, 0) :, max(offset, 0) :]
    n = min(x.shape[-2:])
    return np.einsum("...ii->...i", x[..., :n, :n])


@op
def _embed_diagonal(g: Any, shape: tuple[int, ...], offset: int, axis1: int, axis2: int) -> Any:
    out = on(g).zeros(shape, g.dtype)
    _diagonal_of(out, offset, axis1, axis2)[...] = g
    return out


_diagonal.vjps(
    input=lambda g, input_shape, offset, axis1, axis2: _embed_diagonal(
        g, shape=input_shape, offset=offset, axis1=axis1, axis2=axis2
    )
)
_embed_diagonal.vjps(g=lambda v, offset, axis1, axis2: _diagonal(v, offset, axis1, axis2))


def diagonal(input: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """A view of the diagonal of the matrices in dim1 and dim2, as the last dimension; offset > 0 lies above it."""
    ndim = array_of("diagonal", input).ndim
    axis1, axis2 = dim_of("diagonal", dim1, ndim), dim_of("diagonal", dim2, ndim)
    if axis1 == axis2:
        raise RuntimeError(f"diagonal: dim1 and dim2 are the same dimension, {dim1} and {dim2}")
    return _diagonal(input, offset, axis1, axis2)


# ------------------------------------------------------------------------------------------------------ order


class Sorted(NamedTuple):
    """What `sort` and `topk` return."""

    values: Any
    indices: Any


@numpy_names
def argsort(input: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """The indices that would sort along dim, int64; equal elements keep their order, and NaN counts as the largest."""
    array = array_of("argsort", input)
    axis = dim_of("argsort", dim, array.ndim)
    if array.ndim == 0:
        return Variable.new(np.zeros((), int64))
    if not descending:
        return Variable.new(np.argsort(array, axis, kind="stable"))
    backward = np.argsort(np.flip(array, axis), axis, kind="stable")
    return Variable.new(array.shape[axis] - 1 - np.flip(backward, axis))


@numpy_names
def sort(input: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Sorted:
    """(values, indices) in order along dim; equal elements keep their order, NaN is the largest."""
    indices = argsort(input, dim, descending)
    return Sorted(gather(input, dim, indices), indices)


@numpy_names
def topk(input: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Sorted:
    """(values, indices) of the k largest or smallest elements along dim, in order.

    Raises RuntimeError when there are fewer than k.
    """
    array = array_of("topk", input)
    axis = dim_of("topk", dim, array.ndim)
    n = array.shape[axis] if array.ndim else 1
    if not 0 <= operator.index(k) <= n:
        raise RuntimeError(f"topk: k={k} is not between 0 and {n}, the size of dimension {axis}")
    indices = argsort(input, dim, descending=largest)
    if array.ndim:
        indices = indices.narrow(dim, 0, k).clone()
    return Sorted(gather(input, dim, indices), indices)


def one_hot(tensor: Any, num_classes: int = -1) -> Any:
    """int64 of one more dimension: 1 at the label, 0 elsewhere; as many classes as the largest label needs, or given.

    Raises IndexError for a negative label or one that is not below num_classes.
    """
    labels = integer_array_of("one_hot", tensor)
    if num_classes == -1:
        if not labels.size:
            raise RuntimeError("one_hot: no labels to count the classes of; pass num_classes")
        num_classes = int(labels.max()) + 1
    classes = integer("one_hot", "num_classes", num_classes, least=0)
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise IndexError(f"one_hot: labels lie in [{labels.min()}, {labels.max()}], not in [0, {classes})")
    return Variable.new((labels[..., None] == np.arange(classes)).astype(int64))
