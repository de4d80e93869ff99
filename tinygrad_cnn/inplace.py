"""Writing into a tensor's storage without losing track of anybody's history.

An in-place op computes its result out of place and then writes it here: the version of the storage goes up,
so that a backward that needs the old values says so, and the tensor takes the history of the result. When the
tensor is a view, the tensors it looks into get a new history as well; other views of them derive theirs anew
on their next use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .autograd.modes import mode, no_grad
from .autograd.tape import Node, Saved, Variable, Version, edge_to, succeed
from .dtypes import check_holds
from .op import op
from .ops.dims import does_not_fit, numbers_of
from .ops.elementwise import where
from .ops.index import _slice, parse_key, replaced


def write(x: Any, result: Any) -> Any:
    """Overwrite x with the result, which broadcasts to x's shape; returns x.

    Raises RuntimeError, before anything is written, for a leaf that requires grad, a view of one, an expanded
    tensor, a read-only array, or a dtype that x cannot hold.
    """
    check_writable(x)
    value = result._array if isinstance(result, Variable) else np.asarray(result)
    target = x._array
    if not np.can_cast(value.dtype, target.dtype, "same_kind"):
        raise RuntimeError(f"a result of dtype {value.dtype} cannot be written into a tensor of dtype {target.dtype}")
    if np.broadcast_shapes(value.shape, target.shape) != target.shape:
        raise RuntimeError(f"a result of shape {value.shape} cannot be written into a tensor of shape {target.shape}")
    if mode.grad and isinstance(result, Variable) and (edge_to(x) is not None or edge_to(result) is not None):
        _rescue_saved(result._node, x._version)
        result = result.to(target.dtype).expand(*target.shape)  # type: ignore[attr-defined]
        node = result._node
        np.copyto(target, value, casting="same_kind")
        x._version.n += 1
        succeed(x, node)
        _tell_base(x)
    else:
        np.copyto(target, value, casting="same_kind")
        x._version.n += 1
    return x


def _rescue_saved(node: Node | None, version: Version) -> None:
    """Copy what the op that computed the result saved of the storage: `x.mul_(w)` needs the old x for w's gradient."""
    if node is None or node.saved is None:
        return
    for name, value in node.saved.items():
        if isinstance(value, Saved) and value.version is version:
            node.saved[name] = Saved(Variable.new(value.data(node).copy(order="K")), value.edge)


def assign(x: Any, key: Any, value: Any) -> None:
    """x[key] = value, broadcast and cast to x's dtype.

    Raises as `write` does, IndexError for a key and RuntimeError for a value that does not fit, or for numbers beyond
    an integer dtype's range, before anything is written.
    """
    view, taken = parse_key(key)
    part = x if view is None else _slice(x, view)
    check_writable(part)
    array = numbers_of("setitem", value)
    if not isinstance(value, Variable):  # a tensor is cast, as `to` does it
        check_holds(x._array.dtype, array)
    try:
        _put(x, part, taken, value, array)
    except ValueError:
        raise does_not_fit(array.shape, part._array[... if taken is None else taken].shape) from None


def _put(x: Any, part: Any, taken: Any, value: Any, array: np.ndarray) -> None:
    """part[taken] = value, part a view of x."""
    if not (mode.grad and (edge_to(x) is not None or (isinstance(value, Variable) and edge_to(value) is not None))):
        part._array[... if taken is None else taken] = array
        x._version.n += 1
        return
    if array.ndim > part._array.ndim and isinstance(value, Variable):  # (1, 3) fits (3,)
        value = value.reshape(*array.shape[array.ndim - part._array.ndim :])  # type: ignore[attr-defined]
    write(part, overwritten(part, value) if taken is None else replaced(part, value, key=taken))


def check_writable(x: Any) -> None:
    """Raise RuntimeError where an in-place op on x would be wrong."""
    array = x._array
    if array.size > 1 and any(s == 0 and n > 1 for s, n in zip(array.strides, array.shape, strict=True)):
        raise RuntimeError("an expanded tensor, whose elements share memory, cannot be changed in place; clone() it")
    if not array.flags.writeable:
        raise RuntimeError(f"a read-only array of shape {array.shape} cannot be changed in place; clone() it first")
    if mode.grad and x._requires_grad and x._node is None:
        raise RuntimeError("a leaf that requires grad cannot be changed in place; do it under no_grad()")
    while (view := x._view) is not None:
        base = view.base
        if base._version is not x._version:
            raise RuntimeError(
                f"view() copied a tensor of shape {base._array.shape}, whose memory is channels-last, and a change "
                "in place would not reach it; change the tensor itself, or reshape() or flatten() where a copy is meant"
            )
        if mode.grad and base._requires_grad and base._node is None:
            raise RuntimeError("a view of a leaf that requires grad cannot be changed in place; do it under no_grad()")
        if mode.grad and view.replay is None:
            raise RuntimeError("a view taken under no_grad() cannot be changed in place where gradients are recorded")
        x = base


def _tell_base(x: Any) -> None:
    """Give the tensors that x looks into a history in which x's part is x; x derives its own anew from theirs."""
    while (view := x._view) is not None:
        view.seen = x._version.n
        base = view.base
        # base._node, not edge_to(base): it speaks of the base before the write
        before = Variable.new(base._array, base._version, base._node)
        succeed(base, _write_view(before, x, view.replay, _axes(base._array))._node)
        view.seen = -1  # on its next use x is a view of the base: a gradient of x is one of the base
        x = base


def _axes(x: np.ndarray) -> list[int]:
    """The axes in the order of memory, the widest steps first."""
    return sorted(range(x.ndim), key=lambda i: -abs(x.strides[i]))


@op
def _write_view(base: Any, part: Any, view: Callable[[Any], Any], axes: list[int]) -> Any:
    return base  # the storage was written to already


def _outside(g: Any, view: Callable[[Any], Any], axes: list[int]) -> Any:
    """g with zeros where the view looks; of the base's order of axes, in which it is no copy."""
    mask = np.ones([g.shape[i] for i in axes], g.dtype).transpose(np.argsort(axes))
    with no_grad():
        view(Variable.new(mask))._array[...] = 0
    return g * Variable.new(mask)


_write_view.vjps(base=lambda g, view, axes: _outside(g, view, axes), part=lambda g, view: view(g))


@op
def overwritten(input: Any, value: Any) -> Any:
    """The value in place of the input: what `copy_`, `fill_` and `zero_` compute."""
    try:
        return np.broadcast_to(value, input.shape).astype(input.dtype)
    except ValueError:
        raise does_not_fit(np.shape(value), input.shape) from None


overwritten.vjps(
    input=lambda g: where(False, g, 0.0),
    value=lambda g, value_shape: g.sum_to_size(*value_shape),
)
