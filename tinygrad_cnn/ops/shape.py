"""Ops that move elements and compute nothing. Those that can, return views."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..autograd import Variable
from ..autograd.tape import View
from ..dtypes import result_type
from ..kernels import on
from ..op import op
from .arguments import integer
from .dims import array_of, dim_of, dims_of, numpy_names, size_of
from .index import _slice, index_select

# ----------------------------------------------------------------------------------------------------- copies


@op
def clone(input: Any) -> Any:
    """A copy that gradients flow through, in the memory order of the input."""
    out = on(input).empty_like(input)
    np.copyto(out, input)
    return out


clone.vjps(input=lambda g: g)


@op
def _contiguous(input: Any) -> Any:
    return on(input).copy(input)


_contiguous.vjps(input=lambda g: g)


def contiguous(input: Any) -> Any:
    """The input itself if its memory is in row-major order, else a copy that is."""
    return input if array_of("contiguous", input).flags.c_contiguous else _contiguous(input)


# ---------------------------------------------------------------------------------------------------- reshape


@op(view=True)
def _reshape(input: Any, shape: tuple[int, ...]) -> Any:
    if input.flags.c_contiguous or input.nbytes < 4096:  # a small copy takes less time than the exception
        return input.reshape(shape)
    try:
        return input.reshape(shape, copy=False)
    except ValueError:
        return on(input).copy(input).reshape(shape)


_reshape.vjps(input=lambda g, input_shape: _reshape(g, input_shape))
_reshape.kernel_vjp(lambda g, wanted, input_shape: (_reshape.forward(g, input_shape),))


def _complete(op: str, shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """The shape with its -1, if any, filled in; RuntimeError when it does not hold `size` elements."""
    known = math.prod(n for n in shape if n != -1)
    free = shape.count(-1)
    if free > 1 or any(n < -1 for n in shape):
        raise RuntimeError(f"{op}: shape {shape} may have one -1 and no other negative size")
    if free and known == 0:
        raise RuntimeError(f"{op}: any size would do for the -1 in {shape}, of {size} elements; write it out")
    if size % known if free else size != known:
        raise RuntimeError(f"{op}: a tensor of {size} elements cannot have the shape {shape}")
    return tuple(size // known if n == -1 else n for n in shape) if free else shape


def reshape(input: Any, *sizes: Any, shape: Any = None) -> Any:
    """The same elements in row-major order in another shape, one size of which may be -1: a view where possible.

    Raises RuntimeError when the number of elements differs.
    """
    return _reshape(input, _complete("reshape", size_of(sizes, shape), array_of("reshape", input).size))


def view(input: Any, *sizes: Any, size: Any = None) -> Any:
    """As `reshape`, but always a view: RuntimeError where the strides do not allow one.

    Except of memory in channels-last order, which the results and weights of convolutions have without the user's
    doing: there it is a copy that refuses changes in place, as they would not reach the input.
    """
    array = array_of("view", input)
    shape = _complete("view", size_of(sizes, size), array.size)
    try:
        array.reshape(shape, copy=False)
    except ValueError:
        if not _is_channels_last(array):
            raise RuntimeError(
                f"view: shape {array.shape} with byte strides {array.strides} cannot be seen as {shape} "
                "without a copy; use reshape()"
            ) from None
        out = _reshape(input, shape)
        out._view = View(input, None, 0)  # of a version of its own, by which check_writable knows it
        return out
    return _reshape(input, shape)


def _is_channels_last(x: np.ndarray) -> bool:
    """Whether (N, C, H, W) or (C, H, W) lies in memory as (N, H, W, C), or (O, C, H, W) as weights do, (H, W, C, O)."""
    images = x.ndim in (3, 4) and np.moveaxis(x, -3, -1).flags.c_contiguous
    return images or (x.ndim == 4 and x.transpose(2, 3, 1, 0).flags.c_contiguous)


def flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Dimensions start_dim to end_dim as one; a 0-d tensor becomes 1-d."""
    shape = array_of("flatten", input).shape
    start, end = dim_of("flatten", start_dim, len(shape)), dim_of("flatten", end_dim, len(shape))
    if start > end:
        raise RuntimeError(f"flatten: start_dim {start_dim} lies behind end_dim {end_dim} in a tensor of shape {shape}")
    return _reshape(input, (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]))


def unflatten(input: Any, dim: int, sizes: Sequence[int]) -> Any:
    """One dimension as several of the given sizes, one of which may be -1."""
    shape = array_of("unflatten", input).shape
    at = dim_of("unflatten", dim, len(shape))
    return _reshape(input, (*shape[:at], *_complete("unflatten", size_of(sizes), shape[at]), *shape[at + 1 :]))


@numpy_names
def squeeze(input: Any, dim: Any = None) -> Any:
    """Without dimensions of size 1: all of them, or those named in dim that are of size 1."""
    shape = array_of("squeeze", input).shape
    axes = dims_of("squeeze", dim, len(shape)) if dim != () else ()
    return _reshape(input, tuple(n for i, n in enumerate(shape) if n != 1 or i not in axes))


@numpy_names
def unsqueeze(input: Any, dim: int) -> Any:
    """With a new dimension of size 1 at dim, which counts in the result."""
    shape = array_of("unsqueeze", input).shape
    at = dim_of("unsqueeze", dim, len(shape) + 1)
    return _reshape(input, (*shape[:at], 1, *shape[at:]))


# ---------------------------------------------------------------------------------------------- order of axes


@op(view=True)
def _permute(input: Any, order: tuple[int, ...]) -> Any:
    return input.transpose(order)


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(order.index(i) for i in range(len(order)))


_permute.vjps(input=lambda g, order: _permute(g, _inverse(order)))


def permute(input: Any, *order: Any, dims: Any = None) -> Any:
    """A view with the dimensions in the given order. RuntimeError unless each is named once."""
    ndim = array_of("permute", input).ndim
    named = size_of(order, dims)
    order = tuple(dim_of("permute", d, ndim) for d in named)
    if sorted(order) != list(range(ndim)):
        raise RuntimeError(f"permute: dims {named} do not name each of the {ndim} dimensions once")
    return _permute(input, order)


def transpose(input: Any, dim0: int, dim1: int) -> Any:
    """A view with two dimensions exchanged."""
    ndim = array_of("transpose", input).ndim
    a, b = dim_of("transpose", dim0, ndim), dim_of("transpose", dim1, ndim)
    order = list(range(ndim))
    if ndim:
        order[a], order[b] = b, a
    return _permute(input, tuple(order))


def t(input: Any) -> Any:
    """The transposed matrix; vectors and 0-d tensors as they are. RuntimeError for more dimensions."""
    ndim = array_of("t", input).ndim
    if ndim > 2:
        raise RuntimeError(f"t() expects at most 2 dimensions, got {ndim}; use .mT or permute()")
    return _permute(input, tuple(range(ndim))[::-1])


def movedim(input: Any, source: Any, destination: Any) -> Any:
    """A view with dimensions `source` at the places `destination`, the others in their order."""
    ndim = array_of("movedim", input).ndim
    source, destination = (d if isinstance(d, tuple | list) else (d,) for d in (source, destination))
    if len(source) != len(destination):
        raise RuntimeError(f"movedim: {len(source)} source dims and {len(destination)} destinations")
    come, go = dims_of("movedim", source, ndim), dims_of("movedim", destination, ndim)
    order = [i for i in range(ndim) if i not in come]
    for place, axis in sorted(zip(go, come, strict=True)):
        order.insert(place, axis)
    return _permute(input, tuple(order))


# ------------------------------------------------------------------------------------------------- repetition


@op(view=True)
def _expand(input: Any, shape: tuple[int, ...]) -> Any:
    return np.broadcast_to(input, shape)


_expand.vjps(input=lambda g, input_shape: sum_to_size(g, input_shape))


def expand(input: Any, *sizes: Any, size: Any = None) -> Any:
    """A view in which dimensions of size 1 repeat, and new ones come first; -1 keeps a size. RuntimeError otherwise."""
    shape = array_of("expand", input).shape
    wanted = size_of(sizes, size)
    new = len(wanted) - len(shape)
    if new < 0:
        raise RuntimeError(f"expand: a tensor of shape {shape} has more dimensions than {wanted}")
    full = tuple(shape[i - new] if n == -1 and i >= new else n for i, n in enumerate(wanted))
    if any(n < 0 for n in full) or any(had not in (1, n) for had, n in zip(shape, full[new:], strict=True)):
        raise RuntimeError(f"expand: a tensor of shape {shape} cannot be expanded to {wanted}: only sizes of 1 repeat")
    if full == shape:
        return input
    return _expand(input, full) if math.prod(full) != math.prod(shape) else _reshape(input, full)  # may be written to


def broadcast_to(input: Any, shape: Sequence[int]) -> Any:
    """As `expand(*shape)`."""
    return expand(input, *shape)


@op
def _sum_to(input: Any, shape: tuple[int, ...]) -> Any:
    if input.dtype.kind != "f":
        lead = input.ndim - len(shape)
        axes = tuple(i for i, n in enumerate(input.shape) if i < lead or (shape[i - lead] == 1 != n))
        return input.sum(axis=axes, dtype=np.int64).reshape(shape)
    return on(input).sum_to(input, shape)


_sum_to.vjps(input=lambda g, input_shape: _expand(g, input_shape))


def sum_to_size(input: Any, *size: Any) -> Any:
    """The input summed over the dimensions along which a tensor of that size would repeat.

    Raises RuntimeError when such a tensor would not expand to the input's shape.
    """
    shape, wanted = array_of("sum_to_size", input).shape, size_of(size)
    if wanted == shape:
        return input
    kept = shape[len(shape) - len(wanted) :]
    if len(wanted) > len(shape) or any(n not in (1, had) for had, n in zip(kept, wanted, strict=True)):
        raise RuntimeError(f"sum_to_size: a tensor of size {wanted} does not expand to the input's shape {shape}")
    return _sum_to(input, wanted)


@op
def _repeat(input: Any, times: tuple[int, ...]) -> Any:
    return np.tile(input, times)


def _fold(g: Any, shape: tuple[int, ...], times: tuple[int, ...]) -> Any:
    """(p*a, q*b) -> (p, a, q, b) -> (1, a, 1, b) -> (a, b)"""
    full = (1,) * (len(times) - len(shape)) + shape
    tiles = _reshape(g, tuple(n for pair in zip(times, full, strict=True) for n in pair))
    return _reshape(sum_to_size(tiles, tuple(n for size in full for n in (1, size))), shape)


_repeat.vjps(input=lambda g, input_shape, times: _fold(g, input_shape, times))


def repeat(input: Any, *sizes: Any, repeats: Any = None) -> Any:
    """A copy with the whole tensor repeated sizes[i] times along each dimension; new dimensions come first.

    Raises RuntimeError for fewer sizes than dimensions or a negative one.
    """
    shape, times = array_of("repeat", input).shape, size_of(sizes, repeats)
    if len(times) < len(shape) or any(n < 0 for n in times):
        raise RuntimeError(f"repeat: {times} must be non-negative numbers, one for each dimension of shape {shape}")
    return _repeat(input, times=times)


@op
def _flip(input: Any, axes: tuple[int, ...]) -> Any:
    return np.flip(input, axes).copy()


_flip.vjps(input=lambda g, axes: _flip(g, axes=axes))


def flip(input: Any, *axes: Any, dims: Any = None) -> Any:
    """A copy with the order of elements along the given dimensions reversed."""
    ndim = array_of("flip", input).ndim
    named = size_of(axes, dims)
    return _flip(input, axes=dims_of("flip", named, ndim) if named else ())


@op
def _roll(input: Any, shifts: tuple[int, ...], axes: tuple[int, ...] | None) -> Any:
    return np.roll(input, shifts if axes is not None else shifts[0], axes)


_roll.vjps(input=lambda g, shifts, axes: _roll(g, shifts=tuple(-s for s in shifts), axes=axes))


def roll(input: Any, shifts: Any, dims: Any = None) -> Any:
    """A copy with elements moved `shifts` places along dims, those that leave coming back at the other end.

    Without dims, the flattened tensor is rolled. Raises RuntimeError unless there is one shift for each dim.
    """
    ndim = array_of("roll", input).ndim
    moved = size_of((shifts,))
    if not moved:
        raise RuntimeError("roll needs a shift")
    if dims is None:
        if len(moved) != 1:
            raise RuntimeError(f"roll: {len(moved)} shifts need as many dims")
        return _roll(input, shifts=moved, axes=None)
    axes = tuple(dim_of("roll", d, ndim) for d in size_of((dims,)))
    if len(axes) != len(moved):
        raise RuntimeError(f"roll: {len(moved)} shifts for {len(axes)} dims")
    return _roll(input, shifts=moved, axes=axes) if ndim else clone(input)


# ------------------------------------------------------------------------------------------- parts and wholes


@numpy_names
def narrow(input: Any, dim: int, start: Any, length: int) -> Any:
    """A view of `length` elements from `start` on along dim; IndexError or RuntimeError beyond the end."""
    shape = array_of("narrow", input).shape
    if not shape:
        raise RuntimeError("narrow: a 0-d tensor has nothing to narrow")
    at, begin, n = dim_of("narrow", dim, len(shape)), operator.index(start), operator.index(length)
    if not -shape[at] <= begin <= shape[at]:
        raise IndexError(f"narrow: start {begin} is out of range for dimension {at} of size {shape[at]}")
    begin += shape[at] if begin < 0 else 0
    if n < 0 or begin + n > shape[at]:
        raise RuntimeError(f"narrow: start {begin} + length {n} exceeds dimension {at} of size {shape[at]}")
    return _part(input, at, begin, begin + n)


def _part(input: Any, axis: int, start: int, stop: int) -> Any:
    return _slice(input, (*[slice(None)] * axis, slice(start, stop), ...))


@numpy_names
def select(input: Any, dim: int, index: Any) -> Any:
    """A view at one index along dim, without that dimension; IndexError beyond the end."""
    shape = array_of("select", input).shape
    if not shape:
        raise IndexError("select: a 0-d tensor has no dimension to select from")
    at, i = dim_of("select", dim, len(shape)), operator.index(index)
    if not -shape[at] <= i < shape[at]:
        raise IndexError(f"select: index {i} is out of range for dimension {at} of size {shape[at]}")
    return _slice(input, (*[slice(None)] * at, i, ...))


def split(tensor: Any, split_size_or_sections: Any, dim: int = 0) -> tuple[Any, ...]:
    """Views of the given size along dim, the last of what is left; or of each of the given sizes.

    Raises RuntimeError when sections do not add up to the size of dim, and ValueError for a size below 1.
    """
    shape = array_of("split", tensor).shape
    if not shape:
        raise RuntimeError("split: a 0-d tensor cannot be split")
    at = dim_of("split", dim, len(shape))
    n = shape[at]
    if isinstance(split_size_or_sections, tuple | list):
        sizes = list(map(operator.index, split_size_or_sections))
        if sum(sizes) != n or any(s < 0 for s in sizes):
            raise RuntimeError(f"split: sections {sizes} must add up to {n}, the size of dimension {at}")
    else:
        step = integer("split", "split_size", split_size_or_sections, least=0 if n == 0 else 1)
        sizes = [min(step, n - i) for i in range(0, n, step)] if n else [0]
    ends = np.cumsum(sizes).tolist()
    return tuple(_part(tensor, at, end - size, end) for size, end in zip(sizes, ends, strict=True))


@numpy_names
def chunk(input: Any, chunks: int, dim: int = 0) -> tuple[Any, ...]:
    """At most `chunks` views of equal size along dim, the last of what is left. ValueError for chunks < 1."""
    shape = array_of("chunk", input).shape
    if not shape:
        raise RuntimeError("chunk: a 0-d tensor cannot be split")
    n = shape[dim_of("chunk", dim, len(shape))]
    pieces = integer("chunk", "chunks", chunks, least=1)
    return split(input, -(-n // pieces), dim) if n else split(input, [0] * pieces, dim)


@numpy_names
def unbind(input: Any, dim: int = 0) -> tuple[Any, ...]:
    """A view for each index along dim, without that dimension."""
    shape = array_of("unbind", input).shape
    if not shape:
        raise RuntimeError("unbind: a 0-d tensor has no dimension to unbind")
    return tuple(select(input, dim, i) for i in range(shape[dim_of("unbind", dim, len(shape))]))


@op
def _cat(*tensors: Any, axis: int) -> Any:
    dtype = result_type(*tensors)
    return np.concatenate([x.astype(dtype, copy=False) for x in tensors], axis)


def _cat_parts(g: Any, wanted: Sequence[bool], tensors_shape: Any, axis: int) -> list[Any]:
    ends = np.cumsum([shape[axis] for shape in tensors_shape]).tolist()
    starts = [0, *ends[:-1]]
    return [_part(g, axis, start, end) if want else None for want, start, end in zip(wanted, starts, ends, strict=True)]


_cat.joint_vjp(_cat_parts)


@numpy_names
def cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    """The tensors one after the other along dim, in their common dtype.

    Their other sizes must agree, else RuntimeError; 1-d tensors without elements are left out, as in PyTorch.
    """
    arrays = _arrays_of("cat", tensors)
    if any(a.shape != (0,) for a in arrays):
        tensors = [x for x in tensors if x._array.shape != (0,)]
    first = tensors[0]._array.shape
    axis = dim_of("cat", dim, len(first))
    if not first:
        raise RuntimeError("cat: a 0-d tensor cannot be concatenated; use stack()")
    for i, x in enumerate(tensors):
        shape = x._array.shape
        if len(shape) != len(first) or shape[:axis] + shape[axis + 1 :] != first[:axis] + first[axis + 1 :]:
            raise RuntimeError(
                f"cat: beside dimension {axis} sizes must agree: tensor {i} has {shape} and tensor 0 {first}"
            )
    return _cat(*tensors, axis=axis)


@numpy_names
def stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    """The tensors, of one shape, side by side along a new dimension; RuntimeError when shapes differ."""
    arrays = _arrays_of("stack", tensors)
    for i, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise RuntimeError(f"stack: tensor {i} has shape {array.shape} and tensor 0 {arrays[0].shape}")
    return _cat(*[unsqueeze(x, dim) for x in tensors], axis=dim_of("stack", dim, arrays[0].ndim + 1))


def _arrays_of(op: str, tensors: Any) -> list[np.ndarray]:
    if isinstance(tensors, Variable):
        raise TypeError(f"{op} expects a sequence of tensors, got one tensor")
    arrays = [array_of(op, x) for x in tensors]
    if not arrays:
        raise RuntimeError(f"{op} expects at least one tensor, got an empty sequence")
    return arrays


# ------------------------------------------------------------------------------------------------------ edges


@op
def _pad(input: Any, widths: tuple[tuple[int, int], ...], value: float) -> Any:
    sizes = tuple(n + before + after for n, (before, after) in zip(input.shape, widths, strict=True))
    out = np.full(sizes, value, input.dtype)
    out[tuple(slice(b, n - a) for n, (b, a) in zip(sizes, widths, strict=True))] = input
    return out


_pad.vjps(
    input=lambda g, input_shape, widths: _slice(
        g, tuple(slice(before, before + n) for n, (before, _) in zip(input_shape, widths, strict=True))
    )
)


def pad(input: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """The input with elements added at both ends of its last dimensions, or taken away where a number is negative.

    `pad` is (before, after) of the last dimension, then of the one before it, and so on. Modes: "constant"
    (value, 0 by default), "reflect" (mirrored at the edge element; less than the size), "replicate" (the edge
    element), and "circular" (from the other end; at most the size). Raises ValueError for an odd number of
    widths, more than there are dimensions, an unknown mode, or a width that the mode cannot fill.
    """
    shape = array_of("pad", input).shape
    if not isinstance(pad, Sequence):
        raise TypeError(f"pad expects a sequence of widths, such as (left, right, top, bottom), got {pad!r}")
    numbers = tuple(map(operator.index, pad))
    if len(numbers) % 2 or len(numbers) > 2 * len(shape):
        raise ValueError(f"pad: expected a pair for each of at most {len(shape)} dimensions, got {numbers}")
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))[::-1]
    widths = [(0, 0)] * (len(shape) - len(pairs)) + pairs
    if mode == "constant":
        return _pad_constant(input, widths, 0 if value is None else value)
    if mode not in _SOURCES:
        raise ValueError(f"pad: mode must be 'constant', 'reflect', 'replicate' or 'circular', got {mode!r}")
    if value is not None:
        raise ValueError(f"pad: value={value} means nothing with mode={mode!r}")
    for axis, (before, after) in enumerate(widths):
        if before or after:
            input = index_select(input, axis, Variable.new(_source(mode, axis, shape[axis], before, after)))
    return input


def _pad_constant(input: Any, widths: list[tuple[int, int]], value: float) -> Any:
    shape = input._array.shape
    for axis, (n, (before, after)) in enumerate(zip(shape, widths, strict=True)):
        if n + before + after < 0:
            raise ValueError(f"pad: {(before, after)} takes more than dimension {axis} of size {n} has")
    if any(before < 0 or after < 0 for before, after in widths):
        keep = [slice(max(-b, 0), n - max(-a, 0)) for n, (b, a) in zip(shape, widths, strict=True)]
        input = _slice(input, (*keep, ...))
        widths = [(max(b, 0), max(a, 0)) for b, a in widths]
    return _pad(input, widths=tuple(widths), value=value)


_SOURCES: dict[str, Any] = {
    "reflect": lambda i, n: np.abs((i + n - 1) % max(2 * n - 2, 1) - (n - 1)),
    "replicate": lambda i, n: i.clip(0, n - 1),
    "circular": lambda i, n: i % n,
}


def _source(mode: str, axis: int, n: int, before: int, after: int) -> np.ndarray:
    """Which element of the input each element of the padded axis is."""
    most = {"reflect": n - 1, "circular": n, "replicate": math.inf if n else 0}[mode]
    if max(before, after) > most or n + before + after < 0:
        raise ValueError(f"pad: mode {mode!r} cannot add {(before, after)} to dimension {axis} of size {n}")
    source: np.ndarray = _SOURCES[mode](np.arange(-before, n + after), n)
    return source
