"""Ops of the user's own: a class with a forward and a backward."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .modes import mode, no_grad
from .tape import Edge, Node, Saved, SavedOutput, Variable, View, alias, edge_to, fitted

if TYPE_CHECKING:
    from ..tensor import Tensor


class FunctionCtx:
    """What a `Function`'s forward leaves for its backward; any attribute may be set on it."""

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        self._to_save: tuple[Any, ...] = ()
        self._non_differentiable: tuple[Any, ...] = ()
        self._materialize = True
        self._node: Any = None

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep inputs or outputs for backward, guarded against in-place changes."""
        self._to_save = tensors

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        node = self._node()
        if node.saved is None:
            raise RuntimeError(f"the tensors saved by '{node.name}' were freed; pass retain_graph=True to backward")
        return tuple(None if s is None else s.unpack(node) for s in node.saved["tensors"])

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Outputs that carry no gradient, such as indices."""
        self._non_differentiable = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Whether the missing gradients of unused outputs arrive as zeros (the default) or as None."""
        self._materialize = value


class FunctionNode(Node):
    """The node of a custom `Function`; one for all its outputs."""

    __slots__ = ("collected", "ctx", "outputs")
    ctx: FunctionCtx
    outputs: tuple[tuple[tuple[int, ...], Any], ...]
    collected: list[Any]
    collects = True

    def begin(self) -> None:
        self.collected = [None] * len(self.outputs)

    def vjp(self, g: Any, wanted: Sequence[bool]) -> Sequence[Any]:
        grads = self.collected if len(self.outputs) > 1 else [g]
        if self.ctx._materialize:
            grads = [
                Variable.new(np.zeros(shape, dtype)) if grad is None else grad
                for grad, (shape, dtype) in zip(grads, self.outputs, strict=True)
            ]
        self.begin()
        result = self.op.backward(self.ctx, *grads)
        result = result if isinstance(result, tuple) else (result,)
        result = result[: len(wanted)] if all(r is None for r in result[len(wanted) :]) else result
        if len(result) != len(wanted):
            raise RuntimeError(
                f"{self.name}.backward returned {len(result)} gradients for the {len(wanted)} arguments of forward"
            )
        for i, r in enumerate(result):
            if r is not None and not isinstance(r, Variable):
                raise TypeError(f"{self.name}.backward returned {type(r).__name__} for argument {i}, not a Tensor")
        # aliases: what backward returned may be kept by it, and is then not ours to add to
        aliases = [alias(r) if want and r is not None else None for r, want in zip(result, wanted, strict=True)]
        return fitted(self, g, aliases)

    def release(self) -> None:
        if self.saved and self.saved["tensors"]:
            self.saved = None


class SavedSlot(Saved):
    """One of several outputs, saved by the Function that made it."""

    __slots__ = ("slot",)

    def __init__(self, x: Variable, slot: int) -> None:
        super().__init__(x, None)
        self.slot = slot

    def unpack(self, node: Node) -> Any:
        out = super().unpack(node)
        if mode.grad:
            out._node = _head(node, self.slot)
        return out


#: Shape and dtype of what flows into a many-output `FunctionNode`: the gradients themselves are in `collected`.
_TOKEN = (), np.dtype(np.float32)


def _head(node: Any, slot: int) -> Node:
    """The node between a many-output FunctionNode and one of its outputs."""
    return Node(_Pick(node.name, slot), (node,), {}, False, *node.outputs[slot])


class _Pick:
    """The op of the nodes between a many-output `FunctionNode` and its outputs: puts a gradient in its slot."""

    broadcasts = False

    def __init__(self, name: str, slot: int) -> None:
        self.name = name
        self.slot = slot

    def vjp(self, node: Node, g: Any, wanted: Sequence[bool]) -> Sequence[Any]:
        source = node.edges[0]
        assert isinstance(source, FunctionNode)
        earlier = source.collected[self.slot]
        source.collected[self.slot] = g if earlier is None else earlier + g
        return [Variable.new(np.zeros(*_TOKEN))]


class Function:
    """A differentiable op of your own: static `forward(ctx, ...)` and `backward(ctx, *grads)`, used through `apply`.

    Inside forward nothing is recorded. Backward returns one gradient (or None) per argument of forward, computed with
    tensor ops if it is to be differentiated again.

    >>> import tinygrad_cnn as tg
    >>> class Cube(tg.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x * x * x
    ...     @staticmethod
    ...     def backward(ctx, g):
    ...         (x,) = ctx.saved_tensors
    ...         return 3 * x * x * g
    >>> x = tg.tensor(2.0, requires_grad=True)
    >>> Cube.apply(x).backward()
    >>> x.grad
    tensor(12.)
    """

    broadcasts = False
    name: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls.name = cls.__name__

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        raise NotImplementedError("define a static forward(ctx, ...)")

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError("define a static backward(ctx, *grads)")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run forward and record backward."""
        edges = tuple(edge_to(a) if isinstance(a, Variable) and mode.grad else None for a in args)
        ctx = FunctionCtx(tuple(e is not None for e in edges))
        with no_grad():
            result = cls.forward(ctx, *args)
        outputs = result if isinstance(result, tuple) else (result,)
        for out in outputs:
            if not isinstance(out, Variable):
                raise TypeError(f"{cls.__name__}.forward must return Tensors, got {type(out).__name__}")
        if any(ctx.needs_input_grad):
            outputs = cls._record(ctx, args, edges, outputs)
        return outputs if isinstance(result, tuple) else outputs[0]

    @classmethod
    def _record(cls, ctx: FunctionCtx, args: Any, edges: tuple[Edge, ...], outputs: tuple[Any, ...]) -> Any:
        shapes = tuple((out._array.shape, out._array.dtype) for out in outputs)
        node = FunctionNode(cls, edges, {}, False, *(shapes[0] if len(outputs) == 1 else _TOKEN))
        node.ctx = ctx
        ctx._node = weakref.ref(node)
        node.outputs = shapes
        node.begin()
        results = tuple(Variable.new(out._array, out._version) for out in outputs)
        position = {id(out): i for i, out in enumerate(outputs)}
        heads = [node] if len(outputs) == 1 else [_head(node, slot) for slot in range(len(outputs))]
        saved: list[Saved | None] = []
        for x in ctx._to_save:
            if x is not None and id(x) in position and not any(x is a for a in args):
                saved.append(SavedOutput(x, None) if len(outputs) == 1 else SavedSlot(x, position[id(x)]))
            else:
                saved.append(None if x is None else Saved(x, edge_to(x)))
        assert node.saved is not None
        node.saved["tensors"] = saved
        ctx._to_save = ()
        skip = {id(out) for out in ctx._non_differentiable}
        for out, result, head in zip(outputs, results, heads, strict=True):
            if id(out) not in skip and out._array.dtype.kind == "f":
                result._node = head
            if out._view is not None or any(out is a for a in args):  # nobody could tell the base of a write
                result._view = View(out if out._view is None else out._view.base, None, out._version.n)
        return results


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """For a `Function.backward` that computes outside of the tape, in NumPy or a kernel: no second derivative.

    Without it, `create_graph=True` would take them for constants; with it, a second backward raises RuntimeError.
    """

    @functools.wraps(backward)
    def once(ctx: Any, *grads: Any) -> Any:
        with no_grad():
            result = backward(ctx, *grads)
        if not mode.grad:
            return result
        results = result if isinstance(result, tuple) else (result,)
        edges = [edge_to(g) for g in grads if g is not None]
        edges += [saved.edge for saved in ctx._node().saved["tensors"] if saved is not None]
        return tuple(r if r is None else _OnlyOnce.seal(r, edges) for r in results)

    return once


class _OnlyOnce:
    """The op of the nodes that end a tape which a `once_differentiable` backward left."""

    name = "once_differentiable"
    broadcasts = False

    @classmethod
    def seal(cls, r: Any, edges: list[Edge]) -> Any:
        sealed = Variable.new(r._array, r._version)
        sealed._node = Node(cls, edges, {}, False, r._array.shape, r._array.dtype)
        return sealed

    @staticmethod
    def vjp(node: Node, g: Any, wanted: Sequence[bool]) -> Sequence[Any]:
        raise RuntimeError("this gradient came from a backward marked once_differentiable: it has no gradient itself")
