"""What an op is: a forward on arrays, and one vjp rule per input.

    @op
    def mul(a, b):
        return a * b

    mul.vjps(a=lambda g, b: g * b, b=lambda g, a: g * a)

A rule takes the gradient g of the output and, by name, what else it needs: an input, a parameter of the forward, `out`,
an extra array that the forward returned, or the shape of an input (`a_shape`). Only what the rules of the inputs that
need a gradient name is kept for backward. Rules are written in ops on tensors, so gradients have gradients.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import takewhile
from types import MethodType
from typing import Any, NamedTuple

import numpy as np

from .autograd.modes import mode
from .autograd.tape import Node, Saved, SavedOutput, Variable, View, edge_to


class Rule(NamedTuple):
    """A vjp rule and how to find each value that it names."""

    fn: Callable[..., Any]
    needs: tuple[tuple[str, str, int], ...]  # (name, kind, position); kind: input, shape, param, out, aux


def _parameters(fn: Callable[..., Any]) -> tuple[tuple[str, ...], bool]:
    """The names of fn's parameters, and whether one is `*args`; inspect.signature takes 25 times as long."""
    code = inspect.unwrap(fn).__code__
    names, split = code.co_varnames, code.co_argcount
    end = split + code.co_kwonlyargcount
    variadic = bool(code.co_flags & inspect.CO_VARARGS)
    return (*names[:split], *names[end : end + variadic], *names[split:end]), variadic


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
        self.composed: Rule | None = None

    def vjps(self, **rules: Callable[..., Any]) -> None:
        """Declare the rule of each differentiable input, by the input's name."""
        for name, fn in rules.items():
            self.rules[self.names.index(name)] = self._rule(fn)

    def joint_vjp(self, fn: Callable[..., Any], composed: Callable[..., Any] | None = None) -> None:
        """Declare one rule for all inputs together: `fn(g, wanted, ...)` returns a gradient or None per input.

        `composed` says the same in differentiable ops; it runs instead where a graph of the gradient is being built.
        """
        self.joint = self._rule(fn, skip=2)
        self.composed = self._rule(composed, skip=2) if composed is not None else None

    def _rule(self, fn: Callable[..., Any], skip: int = 1) -> Rule:
        return Rule(fn, tuple(self._locate(name) for name in _parameters(fn)[0][skip:]))

    def _locate(self, name: str) -> tuple[str, str, int]:
        if name in self.names:  # before "out": an op may have an input of that name
            return name, "input", self.names.index(name)
        if name == "out":
            return name, "out", 0
        if name in self.aux:
            return name, "aux", self.aux.index(name)
        if name.removesuffix("_shape") in self.names:
            return name, "shape", self.names.index(name.removesuffix("_shape"))
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

    def _placed(self, args: tuple[Any, ...], params: dict[str, Any]) -> tuple[Any, ...]:
        """The arguments, with the tensors given by name, as in `op(input=a, other=b)`, at their places."""
        if self.variadic or not any(isinstance(value, Variable) for value in params.values()):
            return args
        return *args, *(params.pop(name) for name in takewhile(params.__contains__, self.names[len(args) :]))

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
            elif base._requires_grad or base._node is not None:
                result._view = View(base, None, base._version.n)
        if mode.grad:
            self._record(result, args, {}, ())
        return result

    def _record(self, result: Any, args: tuple[Any, ...], params: dict[str, Any], aux: Sequence[Any]) -> None:
        """Put a node for the result on the tape if any input that has a rule needs a gradient."""
        rules, joint = self.rules, self.joint
        edges: list[Any] = []
        metas: list[Any] = []
        needed = False
        for i, a in enumerate(args):
            edge = meta = None
            if isinstance(a, Variable) and (i in rules or joint is not None):
                edge = a._node if a._view is None and a._node is not None else edge_to(a)
                if edge is not None:
                    needed = True
                    meta = a._array.shape, a._array.dtype
            edges.append(edge)
            metas.append(meta)
        if not needed or result._array.dtype.kind != "f":
            return
        saved: dict[str, Any] = {}
        keeps = False
        if joint is not None:
            wanted = [joint] if self.composed is None else [joint, self.composed]
        else:
            wanted = [rule for i, rule in rules.items() if edges[i] is not None]
        for rule in wanted:
            for name, kind, at in rule.needs:
                if name in saved:
                    continue
                if name in params:
                    value = params[name]
                elif kind == "input":
                    value = args[at]
                    if isinstance(value, Variable):
                        value = Saved(value, edges[at])
                    elif isinstance(value, np.ndarray):
                        value = value.copy(order="K")  # the user's own, who may change it
                elif kind == "out":
                    value = SavedOutput(result, None)
                elif kind == "aux":
                    value = aux[at]
                elif self.variadic:  # every positional argument is an input
                    value = tuple(a._array.shape for a in args)
                else:
                    value = args[at]._array.shape if isinstance(args[at], Variable) else ()
                keeps = keeps or isinstance(value, Saved | np.ndarray)
                saved[name] = value
        result._node = Node(self, edges, metas, saved, keeps)

    def vjp(self, node: Node, g: Any, wanted: Sequence[bool]) -> Sequence[Any]:
        """The gradients of the wanted inputs of one recorded call."""
        saved = node.saved
        assert saved is not None
        joint = self.joint
        if joint is not None:
            rule = self.composed if mode.grad and self.composed is not None else joint
            return rule.fn(g, wanted, *_unpacked(saved, rule, node))  # type: ignore[no-any-return]
        grads = []
        for i, want in enumerate(wanted):
            grads.append(self.rules[i].fn(g, *_unpacked(saved, self.rules[i], node)) if want else None)
        return grads


def _unpacked(saved: dict[str, Any], rule: Rule, node: Node) -> list[Any]:
    """The values that a rule names, tensors with their versions checked."""
    values = []
    for name, _, _ in rule.needs:
        value = saved[name]
        values.append(value.unpack(node) if isinstance(value, Saved) else value)
    return values


def op(forward: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Declare an op: `@op`, or with options `@op(view=True)`, `@op(broadcasts=True)`, `@op(aux=("index",))`."""
    if forward is None:
        return lambda fn: Op(fn, **options)
    return Op(forward, **options)
