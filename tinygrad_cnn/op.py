"""What an op is: a forward on arrays, and one vjp rule per input.

    @op
    def mul(a, b):
        return a * b

    mul.vjps(a=lambda g, b: g * b, b=lambda g, a: g * a)

A rule takes the gradient g of the output and, by name, what else it needs: an input, a parameter of the forward, `out`,
an extra array that the forward returned, or the shape of an input (`a_shape`). Only what the rules of the inputs that
need a gradient name is kept for backward. Rules are written in ops on tensors, so gradients have gradients. Where
nobody asks for these, an op may have a shortcut: one rule for all inputs that calls kernels on the bare arrays.

An op whose output is quickly made again from what it keeps itself, as batch norm's, says how: other ops then do not
keep that output, if it is large, and backward makes it when it comes to them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from types import MethodType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .autograd.modes import mode
from .autograd.tape import Node, Rebuilt, Saved, SavedOutput, Variable, View, edge_to, fitted, is_unshared

#: Bytes from which an output is made again for backward, where its op can, instead of being kept.
REBUILT = 1 << 20


class Need(NamedTuple):
    """A value that a vjp rule names, and how to find it."""

    name: str
    kind: str  # input, later, shape, out, aux or own
    at: int


class Rule(NamedTuple):
    """A vjp rule and the values that it names."""

    fn: Callable[..., Any]
    needs: tuple[Need, ...]


_Plan: TypeAlias = tuple[tuple[Need, ...] | None, tuple[int, ...]]


def _parameters(fn: Callable[..., Any]) -> tuple[tuple[str, ...], bool]:
    """The names of fn's parameters, and whether one is `*args`; inspect.signature takes 25 times as long."""
    code = inspect.unwrap(fn).__code__
    names, split = code.co_varnames, code.co_argcount
    end = split + code.co_kwonlyargcount
    variadic = bool(code.co_flags & inspect.CO_VARARGS)
    return (*names[:split], *names[end : end + variadic], *names[split:end]), variadic


def _never(*args: Any) -> bool:
    return False


class Op:
    """A differentiable function of tensors; call it with tensors (or numbers) first, parameters after them."""

    def __init__(
        self,
        forward: Callable[..., Any],
        *,
        view: bool = False,
        broadcasts: bool = False,
        aux: tuple[str, ...] = (),
    ) -> None:
        self.name = self.__name__ = forward.__name__.strip("_")
        self.__module__ = forward.__module__
        self.__doc__ = forward.__doc__
        self.forward = forward
        self.is_view = view  # the output looks into the storage of the first input
        self.broadcasts = broadcasts  # inputs may be smaller than the output; gradients are summed back
        self.aux = aux  # the names of the arrays that the forward returns beside its output
        self.names, self.variadic = _parameters(forward)
        self.rules: dict[int, Rule] = {}
        self.joint: Rule | None = None
        self.shortcut: Rule | None = None
        self.rebuild: Rule | None = None
        self.keeps: Callable[..., bool] = _never
        self._plans: dict[int, _Plan] = {}  # by the inputs that need a gradient
        self._always: _Plan | None = None  # with a joint rule, which reads the same whoever needs one

    def vjps(self, **rules: Callable[..., Any]) -> None:
        """Declare the rule of each differentiable input, by the input's name."""
        for name, fn in rules.items():
            self.rules[self.names.index(name)] = self._rule(fn)

    def joint_vjp(self, fn: Callable[..., Any]) -> None:
        """Declare one rule for all inputs together: `fn(g, wanted, ...)` returns a gradient or None per input."""
        self.joint = self._rule(fn, skip=2)

    def kernel_vjp(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Declare what computes the same on arrays: `fn(g, wanted, ...)` returns a new array or None per input.

        An input that only the rules of unwanted inputs name is not kept: it is None. A view op may return views of g.
        `x_later` gives the input x when it is called: an array that is made for it is not there before, nor after.
        `own` tells whether g is nobody else's: its memory may then be written over, and returned.
        """
        self.shortcut = self._rule(fn, skip=2, later=True)
        return fn

    def rebuild_from_input(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Declare how an output is made again: `fn(...)`, called when another op saves one, returns what makes it.

        That is a function of the first input's array, which the op must keep for its own backward. What else goes into
        the output fn has to copy if it may change: it can name whatever the op's joint rule names.
        """
        if self.joint is None:
            raise TypeError(f"{self.name} needs a joint rule, which always keeps the same values, to be made again")
        self.rebuild = self._rule(fn, skip=0)
        return fn

    def keep_inputs_where(self, fn: Callable[..., bool]) -> None:
        """Declare where backward is so quick that to make inputs again is not worth it: `fn(...)`, of the arguments."""
        self.keeps = fn

    def _rule(self, fn: Callable[..., Any], skip: int = 1, later: bool = False) -> Rule:
        return Rule(fn, tuple(self._locate(name, later) for name in _parameters(fn)[0][skip:]))

    def _locate(self, name: str, later: bool) -> Need:
        if name in self.names:  # before "out": an op may have an input of that name
            return Need(name, "input", self.names.index(name))
        if name in ("out", "own"):
            return Need(name, name, 0)
        if name in self.aux:
            return Need(name, "aux", self.aux.index(name))
        if name.removesuffix("_shape") in self.names:
            return Need(name, "shape", self.names.index(name.removesuffix("_shape")))
        if later and name.removesuffix("_later") in self.names:
            return Need(name.removesuffix("_later"), "later", self.names.index(name.removesuffix("_later")))
        raise TypeError(f"a vjp rule of {self.name} names {name!r}, which is none of {self.names + self.aux} or 'out'")

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else MethodType(self, instance)  # an op is a method where a class names it

    def __call__(self, *args: Any, **params: Any) -> Any:
        if params:
            args = self._placed(args, params)
        try:
            out = self.forward(*[a._array if isinstance(a, Variable) else a for a in args], **params)
        except AttributeError:
            self._check_first(args)
            raise
        except ValueError:
            self._check_shapes(args)
            raise
        aux: Sequence[Any] = ()
        if self.aux:
            out, *aux = out
        if self.is_view:
            return self._view(args, out)
        result = Variable.new(out)
        if mode.grad:
            self._record(result, args, params, aux)
        return result

    def _check_first(self, args: tuple[Any, ...]) -> None:
        """TypeError if the first input is no tensor: asked only after a failure, so that calls pay nothing for it."""
        if args and not isinstance(args[0], Variable):
            raise TypeError(
                f"{self.name} expects a Tensor as {self.names[0]}, got {type(args[0]).__name__}; use tg.tensor()"
            ) from None

    def _check_shapes(self, args: tuple[Any, ...]) -> None:
        """RuntimeError if the inputs of an op that broadcasts do not: as above, only after a failure."""
        arrays = [a._array if isinstance(a, Variable) else a for a in args]
        shapes = [a.shape for a in arrays if isinstance(a, np.ndarray)]
        try:
            np.broadcast_shapes(*shapes if self.broadcasts else ())
        except ValueError:
            raise RuntimeError(
                f"{self.name}: shapes {' and '.join(map(str, shapes))} do not broadcast: sizes, counted from the last, "
                "must be equal or 1"
            ) from None

    def _placed(self, args: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, ...]:
        """The arguments, with the tensors given by name, as in `op(input=a, other=b)`, at their places."""
        for value in params.values():
            if isinstance(value, Variable) and not self.variadic:
                return *args, *(params.pop(name) for name in takewhile(params.__contains__, self.names[len(args) :]))
        return args

    def _view(self, args: tuple[Any, ...], out: Any) -> Any:
        """A view shares the version of its base and remembers how to look; a forward that had to copy does not."""
        base = args[0]
        array = base._array
        if out.base is not array and (out.base is None or out.base is not array.base) and out is not array:
            result = Variable.new(out)
        else:
            result = Variable.new(out if out is not array else array.view(), base._version)
            if mode.grad:
                rest = args[1:]  # not args: the base's history will hold this lambda, which must not hold the base
                result._view = View(base, lambda b: self(b, *rest), base._version.n)
            elif _has_history(base):
                result._view = View(base, None, base._version.n)
        if mode.grad:
            self._record(result, args, {}, ())
        return result

    def _record(self, result: Any, args: tuple[Any, ...], params: dict[str, Any], aux: Sequence[Any]) -> None:
        """Put a node for the result on the tape if any input that has a rule needs a gradient."""
        edges: list[Any] = []
        which, bit = 0, 1  # a bit for each input that needs a gradient
        for a in args:
            edge = None
            if isinstance(a, Variable):
                if a._view is not None:
                    edge = edge_to(a)
                elif a._node is not None:
                    edge = a._node
                elif a._requires_grad:
                    edge = a
                if edge is not None:
                    which += bit
            edges.append(edge)
            bit += bit
        if not which:
            return
        needs, strays = self._always or self._plans.get(which) or self._plan(which)
        array = result._array
        if needs is None or array.dtype.kind != "f":
            return
        for i in strays:
            edges[i] = None
        saved: dict[str, Any] = {}
        keeps = False  # whether there is an array among them, which is worth freeing after a walk
        for name, kind, at in needs:
            if params and name in params:
                value = params[name]
                keeps = keeps or isinstance(value, np.ndarray)
            elif kind == "input":
                value = args[at]
                if isinstance(value, Variable):
                    edge = edges[at]
                    again = value._array.nbytes >= REBUILT and not self.keeps(*args)
                    value = _saved(value, edge) if again else Saved(value, edge)
                    keeps = True
                elif isinstance(value, np.ndarray):
                    value = value.copy(order="K")  # the user's own, who may change it
                    keeps = True
            elif kind == "out":
                value = SavedOutput(result, None)
                keeps = True
            elif kind == "aux":
                value = aux[at]
                keeps = keeps or isinstance(value, np.ndarray)
            elif self.variadic:  # every positional argument is an input
                value = tuple(a._array.shape for a in args)
            else:
                value = args[at]._array.shape if isinstance(args[at], Variable) else ()
            saved[name] = value
        result._node = Node(self, edges, saved, keeps, array.shape, array.dtype)

    def _plan(self, which: int) -> _Plan:
        """What to save where these inputs need a gradient (None: nothing has a rule), and those without a rule."""
        if self.joint is not None:
            rules, strays = [self.joint], []
        else:
            wanted = [i for i in range(which.bit_length()) if which >> i & 1]
            rules = [self.rules[i] for i in wanted if i in self.rules]
            strays = [i for i in wanted if i not in self.rules]
        needs = dict.fromkeys(need for rule in rules for need in rule.needs)
        if self.shortcut is not None:
            needs.update(dict.fromkeys(need for need in self.shortcut.needs if need.kind == "aux"))
        plan = tuple(needs) if rules else None, tuple(strays)
        if self.joint is not None:
            self._always = plan
        self._plans[which] = plan
        return plan

    def vjp(self, node: Node, g: Any, wanted: Sequence[bool]) -> Sequence[Any]:
        """The gradients of the wanted inputs of one recorded call."""
        saved = node.saved
        assert saved is not None
        grads: list[Any] = [None] * len(wanted)
        if self.shortcut is not None and not mode.grad:
            values = []
            for name, kind, _ in self.shortcut.needs:
                value = is_unshared(g) if kind == "own" else saved.get(name)
                if isinstance(value, Saved):
                    value = partial(value.data, node) if kind == "later" else value.data(node)
                values.append(value)
            version = g._version if self.is_view else None
            for i, array in enumerate(self.shortcut.fn(g._array, wanted, *values)):
                if array is not None and wanted[i]:
                    grads[i] = Variable.new(array, version)
            return grads
        if self.joint is not None:
            grads = self.joint.fn(g, wanted, *_unpacked(saved, self.joint, node))
        else:
            for i, want in enumerate(wanted):
                if want:
                    grads[i] = self.rules[i].fn(g, *_unpacked(saved, self.rules[i], node))
        return fitted(node, g, grads)


def _has_history(x: Any) -> bool:
    """Whether x requires a gradient, or looks into a tensor that does."""
    while edge_to(x) is None:
        if x._view is None:
            return False
        if x._view.replay is None:
            return True
        x = x._view.base
    return True


def _saved(x: Any, edge: Any) -> Saved:
    """x for backward: how it is made again, where its op says how and no write that nobody sees can come between."""
    kept = edge.saved if isinstance(edge, Node) and isinstance(edge.op, Op) and edge.op.rebuild is not None else None
    if kept is None or x._version.n or x._version.exposed:
        return Saved(x, edge)
    source, values = kept[edge.op.names[0]], [kept[need.name] for need in edge.op.rebuild.needs]
    made_of = [v for v in (source, *values) if isinstance(v, Saved)]
    if type(source) is not Saved or any(v.version.n != v.at or v.version.exposed for v in made_of):
        return Saved(x, edge)
    make = edge.op.rebuild.fn(*(v.array if isinstance(v, Saved) else v for v in values))
    return Rebuilt(x, edge, source, make)


def _unpacked(saved: dict[str, Any], rule: Rule, node: Node) -> list[Any]:
    """The values that a rule names, tensors with their versions checked."""
    values = [saved[need[0]] for need in rule.needs]
    return [value.unpack(node) if isinstance(value, Saved) else value for value in values]


def op(forward: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Declare an op: `@op`, or with options `@op(view=True)`, `@op(broadcasts=True)`, `@op(aux=("index",))`."""
    if forward is None:
        return lambda fn: Op(fn, **options)
    return Op(forward, **options)
