"""The tape: nodes that remember how a tensor came to be, and the walk that turns them into gradients.

A `Node` holds what its op's vjp rules need and the edges to what it was computed from: another node, or a leaf tensor.
Tensors point to nodes and nodes to earlier nodes, never back, so that a graph dies with its last tensor, by reference
counting alone. The walk is iterative; its rules are ops on tensors, so that a gradient has a graph of its own when
`create_graph=True` asks for one, to any order.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from ..kernels import on
from .modes import enable_grad, mode, set_grad_enabled

if TYPE_CHECKING:
    from ..tensor import Tensor

Edge: TypeAlias = "Node | Variable | None"
Hook: TypeAlias = Callable[["Tensor"], "Tensor | None"]


class Version:
    """How often a storage was written to; one object for a tensor, its views and its detached selves."""

    n = 0  # both of the class, until they change: most storages are written once, and every op makes one
    exposed = False  # the memory went out to NumPy or came from there: somebody else may hold it


class Variable:
    """What the tape knows of a tensor: its array and where it came from. `Tensor` adds everything else."""

    __slots__ = ("__weakref__", "_array", "_grad", "_node", "_requires_grad", "_version", "_view", "hooks")

    retain: ClassVar[None] = None  # a leaf keeps its gradient anyway; computed tensors are asked through their node

    #: The class of op results: `Tensor`, which names itself on definition.
    new: ClassVar[Any]

    _array: np.ndarray
    _node: Node | None
    _view: View | None
    _grad: Tensor | None  # `Tensor.grad`, which checks what is assigned
    hooks: dict[int, Hook] | None  # of a leaf; those of a computed tensor are its node's

    def __init__(self, array: Any, version: Version | None = None, node: Node | None = None) -> None:
        self._array = array if type(array) is np.ndarray else np.asarray(array)
        self._version = version if version is not None else Version()
        self._node = node
        self._requires_grad = False
        self._view = None
        self.hooks = None
        self._grad = None

    def __init_subclass__(cls, result: bool = False) -> None:
        if result:
            Variable.new = cls

    __hash__ = object.__hash__  # by identity, also where a subclass compares by element


class View:
    """How a tensor looks into another one's storage, so that its history can be told again after a write."""

    __slots__ = ("base", "replay", "seen")

    def __init__(self, base: Variable, replay: Callable[[Any], Any] | None, seen: int) -> None:
        self.base = base
        self.replay = replay  # base -> this view; None for a view taken where gradients were off
        self.seen = seen  # the version of the storage that the view's node speaks of


def edge_to(x: Variable) -> Edge:
    """The end of the tape that a gradient of x flows into: its node, x itself for a leaf, or None."""
    view = x._view
    if view is not None and view.seen != x._version.n:
        _refresh(x, view)
    if x._node is not None:
        return x._node
    return x if x._requires_grad else None


def _refresh(x: Variable, view: View) -> None:
    """The storage was written to through another tensor: derive x from its base's new history."""
    if view.replay is None and x._node is not None:
        raise RuntimeError(
            f"{x._node.name} returned its input or a view of it, which was changed in place since: the history of "
            "this tensor no longer holds; return a clone() from forward"
        )
    view.seen = x._version.n
    if view.replay is not None and edge_to(view.base) is not None:
        with enable_grad():
            succeed(x, view.replay(view.base)._node)


def succeed(x: Variable, node: Node | None) -> None:
    """Give x its new history; a gradient that x retains is that of its new value."""
    old = x._node
    if node is not None and old is not None and old.retain is not None and old.retain() is x:
        node.retain, old.retain = old.retain, None
    x._node = node


class Saved:
    """A tensor kept for backward: its array as it was, and the version that proves it still is."""

    __slots__ = ("array", "at", "edge", "version")

    def __init__(self, x: Variable, edge: Edge) -> None:
        self.array: Any = x._array
        self.edge = edge
        self.version = x._version
        self.at = x._version.n

    def data(self, node: Node) -> np.ndarray:
        """The array; RuntimeError where it was changed."""
        if self.version.n != self.at:
            raise RuntimeError(
                f"a tensor of shape {self.shape} that the backward of '{node.name}' needs was changed in "
                f"place: it is at version {self.version.n}, saved at version {self.at}; use an out-of-place op, or "
                "clone() before the change"
            )
        return self.array  # type: ignore[no-any-return]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape  # type: ignore[no-any-return]

    def unpack(self, node: Node) -> Any:
        """The tensor again; with its history only where a graph of the gradient is being built."""
        array = self.data(node)
        if mode.grad and isinstance(self.edge, Variable):
            return self.edge
        return Variable.new(array, self.version, self.edge if mode.grad else None)


class SavedOutput(Saved):
    """The op's own output. Its history is the node that keeps it, which it must not refer to: that were a cycle."""

    __slots__ = ()

    def unpack(self, node: Node) -> Any:
        out = super().unpack(node)
        if mode.grad:
            out._node = node
        return out


class Rebuilt(Saved):
    """An op's output that backward makes again, bit for bit, from the input that the op keeps for its own backward.

    So its memory is free in between, and where somebody else holds the output until then, nothing has to be made. What
    it is made of is referred to from here and not through the op's node, which another backward may have freed.
    """

    __slots__ = ("make", "source")

    def __init__(self, x: Variable, edge: Node, source: Saved, make: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__(x, edge)
        self.array = weakref.ref(x._array)
        self.source = source
        self.make = make

    @property
    def shape(self) -> tuple[int, ...]:
        return self.edge.shape  # type: ignore[union-attr]

    def data(self, node: Node) -> np.ndarray:
        array = super().data(node)()  # type: ignore[operator]
        return self.make(self.source.data(self.edge)) if array is None else array  # type: ignore[arg-type]


class Node:
    """One op on the tape: the edges to its inputs, and the values that its vjp rules read."""

    __slots__ = ("__weakref__", "dtype", "edges", "hooks", "keeps", "op", "retain", "saved", "shape", "trace")

    def __init__(
        self, op: Any, edges: Sequence[Edge], saved: dict[str, Any], keeps: bool, shape: tuple[int, ...], dtype: Any
    ) -> None:
        self.op = op
        self.edges = edges
        self.shape = shape  # of the output, and of its gradient
        self.dtype = dtype
        self.saved: dict[str, Any] | None = saved
        self.keeps = keeps  # whether `saved` holds arrays, which are worth freeing
        self.hooks: dict[int, Hook] | None = None
        self.retain: weakref.ref[Variable] | None = None
        self.trace = "".join(traceback.format_stack()[:-3]) if mode.anomaly else None

    collects: ClassVar[bool] = False  # whether it has several outputs and wants to know when a walk begins

    def begin(self) -> None:
        """Forget what an earlier walk may have left."""

    @property
    def name(self) -> str:
        return str(self.op.name)

    def __repr__(self) -> str:
        return f"<{self.name.title().replace('_', '')}Backward>"

    def vjp(self, g: Any, wanted: Sequence[bool]) -> Sequence[Any]:
        """The gradients of the wanted inputs from the gradient g of the output."""
        if self.saved is None:
            raise RuntimeError(
                f"the values that the backward of '{self.name}' needs were freed by an earlier backward; "
                "pass retain_graph=True to the first one to walk the graph twice"
            )
        return self.op.vjp(self, g, wanted)  # type: ignore[no-any-return]

    def release(self) -> None:
        """Let go of saved arrays; a node that kept only shapes and numbers can be walked again."""
        if self.keeps:
            self.saved = None


# ---------------------------------------------------------------------------------------------------------------------
# The walk


@np.errstate(all="ignore")  # inf and NaN say so themselves, as in PyTorch
def walk(
    roots: Sequence[tuple[Edge, Any]],
    *,
    targets: Sequence[Edge] | None = None,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> dict[Edge, Any]:
    """Propagate the gradients of the roots backward.

    With targets, returns the gradient of each target reached and leaves every `.grad` alone; without, adds into the
    `.grad` of every leaf reached and returns nothing.
    """
    consumers = _count_consumers([edge for edge, _ in roots])
    wanted_edges = None if targets is None else set(targets)  # by identity, where a list would use Tensor's ==
    useful = None if wanted_edges is None else _leading_to(wanted_edges, consumers)
    found: dict[Edge, Any] = {}
    pending: dict[Edge, Any] = {}
    with set_grad_enabled(create_graph):
        for edge, g in roots:
            g = g if create_graph else Variable.new(g._array, g._version)
            pending[edge] = _sum(pending[edge], g) if edge in pending else g
        ready: list[Any] = [edge for edge in pending if consumers[edge] == 0]
        while ready:
            edge = ready.pop()
            g = pending.pop(edge, None)
            if g is not None:
                if edge.hooks or edge.retain is not None:
                    g = _run_hooks(edge, g)
                if wanted_edges is not None:
                    if edge in wanted_edges:
                        found[edge] = alias(g)
                elif isinstance(edge, Variable):
                    _accumulate(edge, g)
                    continue
            if not isinstance(edge, Node):
                continue
            edges = edge.edges
            wanted = [e is not None for e in edges] if useful is None else [e in useful for e in edges]
            run = g is not None and True in wanted
            grads: Iterable[Any] = _vjp(edge, g, wanted) if run else itertools.repeat(None)
            g = None  # the last reference here: what the rules passed on unchanged may now be added to in place
            for e, grad in zip(edges, grads, strict=False):
                if e is None:
                    continue
                if grad is not None:
                    pending[e] = _sum(pending[e], grad) if e in pending else grad
                left = consumers[e] = consumers[e] - 1
                if left == 0:
                    ready.append(e)
            grad = None
            grads = ()  # nothing here may refer to a gradient that `is_unshared` is going to look at
            if run and not retain_graph:
                edge.release()
    return found


def _count_consumers(roots: Iterable[Edge]) -> dict[Edge, int]:
    """How many edges lead into each node and leaf that can be reached from the roots."""
    consumers: dict[Edge, int] = dict.fromkeys(roots, 0)
    stack = list(consumers)
    while stack:
        node = stack.pop()
        if not isinstance(node, Node):
            continue
        if node.collects:
            node.begin()
        for edge in node.edges:
            if edge is None:
                continue
            if edge in consumers:
                consumers[edge] += 1
            else:
                consumers[edge] = 1
                stack.append(edge)
    return consumers


def _leading_to(targets: set[Edge], reached: Iterable[Edge]) -> set[Edge]:
    """The targets and every node from which one of them can be reached."""
    parents: dict[Edge, list[Edge]] = {}
    for node in reached:
        if isinstance(node, Node):
            for edge in node.edges:
                parents.setdefault(edge, []).append(node)
    useful: set[Edge] = set()
    stack = list(targets)
    while stack:
        edge = stack.pop()
        if edge not in useful:
            useful.add(edge)
            stack.extend(parents.get(edge, ()))
    return useful


def _vjp(node: Node, g: Any, wanted: Sequence[bool]) -> Sequence[Any]:
    """The node's gradients; in anomaly mode with the place of the forward call in errors."""
    try:
        grads = node.vjp(g, wanted)
        if mode.anomaly:
            _check_nan(node, grads)
    except Exception as error:
        if node.trace is not None:
            error.add_note(f"The forward call of '{node.name}' that led here:\n{node.trace}")
        raise
    return grads


def fitted(node: Node, g: Any, grads: Sequence[Any]) -> Sequence[Any]:
    """What a rule made of g, each gradient brought to the shape and dtype of its input and a tensor of its own."""
    out: list[Any] = []
    for i, grad in enumerate(grads):
        edge: Any = node.edges[i]
        if grad is not None and edge is not None:
            like = edge._array if isinstance(edge, Variable) else edge
            if grad is g or any(grad is earlier for earlier in out):
                grad = alias(grad)
            if grad._array.shape != like.shape:
                grad = _fit(node, i, grad, like.shape)
            if grad._array.dtype != like.dtype:
                grad = grad.to(like.dtype)
        out.append(grad)
    return out


def _fit(node: Node, i: int, grad: Any, shape: tuple[int, ...]) -> Any:
    if not node.op.broadcasts:
        raise RuntimeError(
            f"the vjp of '{node.name}' returned a gradient of shape {tuple(grad.shape)} for input {i} of shape {shape}"
        )
    return grad.sum_to_size(*shape)


def _check_nan(node: Node, grads: Iterable[Any]) -> None:
    for i, grad in enumerate(grads):
        if grad is not None and np.isnan(grad._array).any():
            raise RuntimeError(f"the backward of '{node.name}' returned NaN for input {i}")


def _sum(total: Any, g: Any) -> Any:
    """total + g, in place where total is nobody else's."""
    if not mode.grad and is_unshared(total) and total._array.shape == g._array.shape:
        on(total._array).add_to(total._array, g._array)
        return total
    return total + g


def is_unshared(g: Any) -> bool:
    """No other tensor, saved value or view refers to g's storage, and every element has its own place."""
    return (
        sys.getrefcount(g._version) == 2  # g's own slot and the argument
        and not g._version.exposed
        and not g._requires_grad  # a leaf, which a hook or a Function returned for a gradient
        and g._array.flags.writeable
        and 0 not in g._array.strides
    )


def alias(g: Any) -> Any:
    """Another tensor over g's storage: `is_unshared` counts tensors, so each holder needs one of its own."""
    return g if g._requires_grad else Variable.new(g._array, g._version, g._node)


def _owned(g: Any) -> Any:
    """g itself, or a copy where something else refers to its storage."""
    return g if is_unshared(g) else g.clone()


def _run_hooks(edge: Any, g: Any) -> Any:
    """Show a complete gradient to the hooks, which may replace it, and to a tensor that retains it."""
    hooks = edge.hooks
    if hooks:
        for hook in tuple(hooks.values()):
            result = hook(g)
            if result is not None:
                g = _checked(result, g, hook)
        g = alias(g)  # a hook may have kept g
    if edge.retain is not None and (x := edge.retain()) is not None:
        _accumulate(x, alias(g))  # a copy: x's gradient may be added to, and g may reach somebody who keeps it
    return g


def _checked(result: Any, g: Any, hook: Hook) -> Any:
    """What a hook returned in the gradient's place."""
    name = getattr(hook, "__name__", repr(hook))
    if not isinstance(result, Variable):
        raise TypeError(f"the hook {name!r} must return a Tensor or None, got {type(result).__name__}")
    for was, now in ((g._array.shape, result._array.shape), (g._array.dtype, result._array.dtype)):
        if was != now:
            raise RuntimeError(f"the hook {name!r} returned a gradient of {now} in the place of one of {was}")
    return result


def _accumulate(x: Variable, g: Any) -> None:
    """Add g to x.grad; take it over as it is where nobody else has it and it is laid out as x is."""
    with _adding:
        if mode.grad:
            x._grad = _owned(g) if x._grad is None else x._grad + g
        elif x._grad is not None:
            on(g._array).add_to(x._grad._array, g._array)
            x._grad._version.n += 1
        elif is_unshared(g) and _same_layout(g._array, x._array):
            x._grad = g
        else:
            grad = np.empty_like(x._array)
            np.copyto(grad, g._array)
            x._grad = Variable.new(grad)


_adding = threading.RLock()  # threads that share a weight: NumPy adds without the GIL


def _after_fork() -> None:
    global _adding
    _adding = threading.RLock()  # the thread that held it does not exist in the child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _same_layout(a: np.ndarray, b: np.ndarray) -> bool:
    return a.strides == b.strides or (a.flags.c_contiguous and b.flags.c_contiguous)


# ---------------------------------------------------------------------------------------------------------------------
# The public side


def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Sequence[Tensor] | Tensor | None = None,
) -> None:
    """Add the gradients of the sum of tensors into the `.grad` of the leaves they depend on (or only of `inputs`).

    `grad_tensors` are the vectors of the vector-Jacobian product, ones for scalars when left out. Raises RuntimeError
    when a tensor has no graph, its graph was freed, or a gradient is missing for a tensor of several elements, and
    ValueError when a gradient's shape differs from its tensor's.
    """
    roots = _roots(_listed(tensors), _listed(grad_tensors))
    retain = create_graph if retain_graph is None else retain_graph
    if inputs is None:
        walk(roots, retain_graph=retain, create_graph=create_graph)
        return
    leaves = list(dict.fromkeys(_listed(inputs)))
    edges = [_target(x) for x in leaves]
    found = walk(roots, targets=edges, retain_graph=retain, create_graph=create_graph)
    with set_grad_enabled(create_graph):
        for x, edge in zip(leaves, edges, strict=True):
            if edge in found:
                _accumulate(x, found[edge])


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of the sum of outputs with respect to inputs, leaving every `.grad` as it is.

    Returns one gradient of the input's shape and dtype per input; None for an input that the outputs do not depend on
    when `allow_unused`, else RuntimeError. With `create_graph` the gradients can be differentiated again.

    >>> import tinygrad_cnn as tg
    >>> x = tg.tensor(3.0, requires_grad=True)
    >>> (dx,) = tg.autograd.grad(x**3, x, create_graph=True)
    >>> tg.autograd.grad(dx, x)
    (tensor(18.),)
    """
    edges = [_target(x) for x in _listed(inputs)]
    roots = _roots(_listed(outputs), _listed(grad_outputs))
    retain = create_graph if retain_graph is None else retain_graph
    found = walk(roots, targets=edges, retain_graph=retain, create_graph=create_graph)
    for i, edge in enumerate(edges):
        if edge not in found and not allow_unused:
            raise RuntimeError(
                f"the outputs do not depend on input {i}; pass allow_unused=True to get None for it instead"
            )
    with set_grad_enabled(create_graph):
        return tuple(_owned(found[edge]) if edge in found else None for edge in edges)


def _listed(x: Any) -> list[Any]:
    if x is None:
        return []
    if isinstance(x, Variable):
        return [x]
    if not isinstance(x, Iterable):
        raise TypeError(f"expected a Tensor or a sequence of Tensors, got {type(x).__name__}")
    return list(x)


def _edge(x: Any) -> Edge:
    if not isinstance(x, Variable):
        raise TypeError(f"expected a Tensor, got {type(x).__name__}")
    return edge_to(x)


def _target(x: Any) -> Edge:
    edge = _edge(x)
    if edge is None:
        raise RuntimeError(f"an input of shape {tuple(x.shape)} does not require grad; set requires_grad=True on it")
    return edge


def _roots(tensors: list[Any], gradients: list[Any]) -> list[tuple[Edge, Any]]:
    if gradients and len(gradients) != len(tensors):
        raise ValueError(f"got {len(gradients)} gradients for {len(tensors)} tensors")
    roots: list[tuple[Edge, Any]] = []
    for x, g in zip(tensors, gradients or [None] * len(tensors), strict=True):
        edge = _edge(x)
        if edge is None:
            raise RuntimeError(
                "the tensor does not require grad: nothing it was computed from has requires_grad=True, or it was "
                "computed under no_grad() or detached"
            )
        roots.append((edge, _root_gradient(x, g)))
    return roots


def _root_gradient(x: Any, g: Any) -> Any:
    if g is None:
        if x._array.size != 1:
            raise RuntimeError(
                f"backward needs a gradient for a tensor of shape {tuple(x.shape)}: only a scalar's is taken to be 1; "
                "reduce it first (loss.mean()) or pass gradient="
            )
        ones = np.empty(x._array.shape, x._array.dtype)
        ones.fill(1)  # np.ones_like takes 1 us, and 0.6 of it Python
        return Variable.new(ones)
    if not isinstance(g, Variable):
        raise TypeError(f"a gradient must be a Tensor, got {type(g).__name__}")
    if g._array.shape != x._array.shape:
        raise ValueError(f"the gradient has shape {tuple(g._array.shape)}, the tensor {tuple(x._array.shape)}")
    if g._array.dtype != x._array.dtype:
        g = g.to(x._array.dtype)  # type: ignore[attr-defined]
    return alias(g)


_handle_keys = itertools.count()  # never used twice: a handle may be removed twice


class RemovableHandle:
    """Takes its hook away again; also as a context manager."""

    def __init__(self, hooks: dict[int, Any], hook: Any) -> None:
        self._hooks = hooks
        self._key = next(_handle_keys)
        hooks[self._key] = hook

    def remove(self) -> None:
        self._hooks.pop(self._key, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


def register_hook(x: Variable, hook: Hook) -> RemovableHandle:
    """Call hook(gradient) when the gradient of x is complete; what it returns replaces the gradient."""
    edge = edge_to(x)
    if edge is None:
        raise RuntimeError("cannot register a hook on a tensor that does not require grad")
    if edge.hooks is None:
        edge.hooks = {}
    return RemovableHandle(edge.hooks, hook)
