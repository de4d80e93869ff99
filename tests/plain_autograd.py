"""A slow autograd to compare ours with: every element of every storage has a number, every op a list of derivatives.

It knows no views, versions or replayed histories. A storage is a list of values; a family is what gradients say of its
elements, one number each; a tensor is an array of places in both. A view is other places of the same family, a
detached tensor the same places in a family of its own, and a write gives new numbers to the whole family. The tape is
a list of sparse Jacobians between numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(eq=False)
class Storage:
    values: np.ndarray
    writes: int = 0
    last: Any = None  # per element, the write that changed it last

    def __post_init__(self) -> None:
        self.last = np.zeros(self.values.size, int)

    def put(self, cells: np.ndarray, values: np.ndarray) -> None:
        self.writes += 1
        self.last[cells] = self.writes
        self.values[cells] = values


@dataclasses.dataclass(eq=False)
class Call:
    """One op: numbers of its outputs, triplets (output, input, derivative), and values it will read again."""

    outputs: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    slopes: np.ndarray
    needs: list[tuple[Storage, int, np.ndarray]]
    parents: set[Call]  # all that any element of the operands' families came from: more than a gradient reaches
    freed: bool = False  # surely
    maybe_freed: bool = False
    hooks: list[tuple[float, list[np.ndarray]]] = dataclasses.field(default_factory=list)

    def changed(self, surely: bool) -> bool:
        """Whether a value it needs was written to, or, not `surely`, anything in the same storage."""
        return any(
            (storage.last[cells] > writes).any() if surely else storage.writes > writes
            for storage, writes, cells in self.needs
        )


@dataclasses.dataclass(eq=False)
class Family:
    numbers: np.ndarray  # of the storage's elements; -1: a constant
    tracked: bool = False
    leaf: bool = False
    frozen: bool = False  # a view taken under no_grad of something tracked
    calls: list[Call] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class Plain:
    storage: Storage
    family: Family
    places: np.ndarray
    grad: Plain | None = None
    repeats: bool = False  # an expanded tensor or a part of one: not to be written to

    @property
    def value(self) -> np.ndarray:
        return self.storage.values[self.places]

    @property
    def is_whole(self) -> bool:
        """Whether it is no view of a part."""
        return self.places.size == self.family.numbers.size == np.unique(self.places).size


@dataclasses.dataclass
class Verdict:
    """Of a backward: why it must fail, and why it may, where ours looks at whole storages instead of elements."""

    must: set[str]
    may: set[str]


Part = tuple[Plain, np.ndarray, Any]  # operand, its places broadcast to the output, derivatives of the output

OUT = -1  #: in the tables: the op reads its own output again

#: value, derivative from (input, output), and what the derivative reads: operands by number
UNARY: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[int, ...]]] = {
    "neg": (np.negative, lambda x, y: -np.ones_like(x), ()),
    "tanh": (np.tanh, lambda x, y: 1 - y * y, (OUT,)),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), lambda x, y: y * (1 - y), (OUT,)),
    "relu": (lambda x: np.maximum(x, 0), lambda x, y: (x > 0) * 1.0, (OUT,)),
    "sin": (np.sin, lambda x, y: np.cos(x), (0,)),
    "square": (np.square, lambda x, y: 2 * x, (0,)),
    "abs": (np.abs, lambda x, y: np.sign(x), (0,)),
    "clone": (np.array, lambda x, y: np.ones_like(x), ()),
}

#: value, both derivatives, and what each of the two reads
BINARY: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "add": (np.add, lambda a, b: (1.0, 1.0), ((), ())),
    "sub": (np.subtract, lambda a, b: (1.0, -1.0), ((), ())),
    "mul": (np.multiply, lambda a, b: (b, a), ((1,), (0,))),
    "div": (np.divide, lambda a, b: (1 / b, -a / (b * b)), ((1,), (0, 1))),
    "maximum": (np.maximum, lambda a, b: ((a > b) + (a == b) / 2, (b > a) + (a == b) / 2), ((0, 1), (0, 1))),
}


class PlainTape:
    """Ops, writes and backward. `recording` is the mode; nothing here raises where ours should, it says so instead."""

    def __init__(self) -> None:
        self.recording = True
        self.count = 0
        self.calls: list[Call] = []
        self.kept: list[Plain] = []  # those whose .grad is filled: leaves, and what retains its gradient

    # ------------------------------------------------------------------------------------------------- tensors

    def leaf(self, value: np.ndarray, requires_grad: bool = False) -> Plain:
        family = Family(np.full(value.size, -1), requires_grad, True)
        if requires_grad:
            self._renew(family, [], [], set())
        x = Plain(Storage(value.ravel().copy()), family, np.arange(value.size).reshape(value.shape))
        self.kept += [x] * requires_grad
        return x

    def view(self, x: Plain, look: Callable[[np.ndarray], np.ndarray]) -> Plain:
        family = x.family
        if not self.recording:
            family = Family(np.full(family.numbers.size, -1), frozen=family.tracked or family.frozen)
        places = np.asarray(look(x.places))
        return Plain(x.storage, family, places, repeats=x.repeats or np.unique(places).size < places.size)

    def detach(self, x: Plain) -> Plain:
        return Plain(x.storage, Family(np.full(x.family.numbers.size, -1)), x.places, repeats=x.repeats)

    # ----------------------------------------------------------------------------------------------------- ops

    def unary(self, name: str, x: Plain, into: Plain | None = None) -> Plain:
        value, slope, reads = UNARY[name]
        old = x.value
        new = value(old)
        return self._finish(new, [(x, x.places, slope(old, new))], (reads,), [x], into)

    def binary(self, name: str, x: Plain, y: Plain | float, into: Plain | None = None) -> Plain:
        value, slope, reads = BINARY[name]
        a, b = x.value, y.value if isinstance(y, Plain) else y
        new = np.asarray(value(a, b))
        operands = [x, y] if isinstance(y, Plain) else [x]
        parts = [
            (operand, np.broadcast_to(operand.places, new.shape), s)
            for operand, s in zip(operands, slope(a, b), strict=False)
        ]
        return self._finish(new, parts, reads, operands, into)

    def copy(self, x: Plain, y: Plain | float) -> Plain:
        """x.copy_(y)."""
        value = np.broadcast_to(y.value if isinstance(y, Plain) else y, x.places.shape)
        parts = [(y, np.broadcast_to(y.places, value.shape), 1.0)] if isinstance(y, Plain) else []
        return self._finish(value, parts, (), [], x)

    def sum(self, x: Plain, dim: int | None) -> Plain:
        new = np.asarray(x.value.sum(dim))
        outputs = np.arange(new.size).reshape(new.shape)
        spread = np.broadcast_to(outputs if dim is None else np.expand_dims(outputs, dim), x.places.shape)
        return self._record(new, [(x, x.places, 1.0, spread)], [])

    def matmul(self, x: Plain, y: Plain) -> Plain:
        a, b = x.value, y.value
        shape = (a.shape[0], a.shape[1], b.shape[1])  # output [i, k] reads a[i, j] and b[j, k]
        outputs = np.arange(shape[0] * shape[2]).reshape(shape[0], 1, shape[2])
        left, right = (slice(None), slice(None), None), (None, slice(None), slice(None))
        parts = [(x, x.places[left], b[right], outputs), (y, y.places[right], a[left], outputs)]
        tracked = self._tracked(x), self._tracked(y)
        needs = [operand for operand, other in ((x, tracked[1]), (y, tracked[0])) if other]
        whole = [(o, *(np.broadcast_to(part, shape) for part in rest)) for o, *rest in parts]
        return self._record(a @ b, whole, needs)

    def cat(self, xs: Sequence[Plain]) -> Plain:
        new = np.concatenate([x.value for x in xs])
        outputs = np.split(np.arange(new.size), np.cumsum([x.places.size for x in xs])[:-1])
        return self._record(
            new, [(x, x.places, 1.0, o.reshape(x.places.shape)) for x, o in zip(xs, outputs, strict=True)], []
        )

    def _tracked(self, x: Plain) -> bool:
        return self.recording and x.family.tracked

    def _finish(
        self, value: np.ndarray, parts: list[Part], reads: Sequence[Any], operands: list[Plain], into: Plain | None
    ) -> Plain:
        """An op by element: a new tensor, or `into` an old one."""
        read = {i for x, which in zip(operands, reads, strict=False) if self._tracked(x) for i in which}
        needs, out = [operands[i] for i in read if 0 <= i < len(operands)], OUT in read
        outputs = np.arange(value.size).reshape(value.shape)
        whole = [(*part, outputs) for part in parts]
        if into is None:
            return self._record(value, whole, needs, out)
        self._write(into, value, whole, needs, out)
        return into

    def _record(self, value: np.ndarray, parts: list[Any], needs: list[Plain], out: bool = False) -> Plain:
        family = Family(np.full(value.size, -1))
        x = Plain(Storage(np.array(value, float).ravel()), family, np.arange(value.size).reshape(value.shape))
        parts = [part for part in parts if self._tracked(part[0])]
        if parts:
            family.tracked = True
            triplets = [(outputs, o.family.numbers[places], slope) for o, places, slope, outputs in parts]
            parents = {call for part in parts for call in part[0].family.calls}
            self._renew(family, triplets, needs + [x] * out, parents)
        return x

    def _write(self, x: Plain, value: np.ndarray, parts: list[Any], needs: list[Plain], out: bool) -> None:
        family, old = x.family, x.family.numbers.copy()
        parts = [part for part in parts if self._tracked(part[0])]
        if self.recording and (family.tracked or parts):
            triplets = [(x.places.ravel()[o], p.family.numbers[places], s) for p, places, s, o in parts]
            others = np.setdiff1d(np.arange(old.size), x.places)
            triplets.append((others, old[others], 1.0))
            parents = {call for part in parts for call in part[0].family.calls} | set(family.calls)
            family.tracked, family.leaf = True, False
            kept = [n for n in needs if n.storage is not x.storage]  # what it overwrites itself was copied before
            self._renew(family, triplets, kept, parents, frees=bool(needs or out))
        x.storage.put(x.places, value)

    def _renew(
        self, family: Family, triplets: list[Any], needs: list[Plain], parents: set[Call], frees: bool = False
    ) -> None:
        """New numbers for the family's elements; triplets are (element, number that it depends on, derivative)."""
        numbers = np.arange(self.count, self.count + family.numbers.size)
        self.count += numbers.size
        flat: list[list[np.ndarray]] = [[], [], []]
        for cells, columns, slopes in triplets:
            cells, columns, slopes = (np.ravel(a) for a in np.broadcast_arrays(cells, columns, slopes))
            real = columns >= 0
            for target, part in zip(flat, (numbers[cells[real]], columns[real], slopes[real]), strict=True):
                target.append(part)
        rows, columns, slopes = (np.concatenate(part) if part else np.zeros(0, int) for part in flat)
        saved = [(x.storage, x.storage.writes, x.places) for x in needs]
        if frees and not saved:
            nothing = Storage(np.zeros(0))
            saved = [(nothing, 0, np.zeros(0, int))]  # a copy that nobody can write to, but that is freed
        call = Call(numbers, rows, columns, slopes, saved, parents)
        family.numbers = numbers
        family.calls.append(call)
        self.calls.append(call)

    # ------------------------------------------------------------------------------------------------ backward

    def writable(self, x: Plain) -> bool:
        """Whether an in-place op on x is allowed."""
        return not x.repeats and not (self.recording and (x.family.frozen or (x.family.leaf and x.family.tracked)))

    def verdict(self, root: Plain) -> Verdict:
        if not root.family.tracked:
            return Verdict({"does not require grad"}, {"does not require grad"})
        must, may = set(), set()
        for call in self._reached(root):
            must |= {"freed"} if call.freed else {"changed in"} if call.changed(True) else set()
        for call in self._connected(root):
            may |= {"freed"} if call.maybe_freed else set()
            may |= {"changed in"} if call.changed(False) else set()
        return Verdict(must, may)

    def _reached(self, root: Plain) -> list[Call]:
        """The calls on a path of elements from the root, last first."""
        reached = np.zeros(self.count, bool)
        reached[root.family.numbers[root.places]] = True
        found = []
        for call in reversed(self.calls):
            if reached[call.outputs].any():
                found.append(call)
                reached[call.columns[reached[call.rows]]] = True
        return found

    def _connected(self, root: Plain) -> set[Call]:
        found: set[Call] = set()
        stack = list(root.family.calls)
        while stack:
            call = stack.pop()
            if call not in found:
                found.add(call)
                stack.extend(call.parents)
        return found

    def backward(self, root: Plain, gradient: np.ndarray, retain_graph: bool) -> set[int]:
        """Fill and add to `.grad`; returns the ids of tensors that ours may give zeros."""
        grads = np.zeros(self.count)
        np.add.at(grads, root.family.numbers[root.places], gradient)
        ends: dict[Call, list[Plain]] = {}
        for x in self.kept:
            ends.setdefault(x.family.calls[-1], []).append(x)
        for call in self._reached(root):
            for factor, log in call.hooks:
                log.append(grads[call.outputs].copy())
                grads[call.outputs] *= factor
            for x in ends.get(call, ()):
                self.add_grad(x, grads[x.family.numbers[x.places]])
            np.add.at(grads, call.columns, call.slopes * grads[call.rows])
            call.freed |= bool(call.needs) and not retain_graph
        connected = self._connected(root)
        for call in connected:
            call.maybe_freed |= bool(call.needs) and not retain_graph
        return {id(x) for x in self.kept if x.family.calls[-1] in connected}

    def hook(self, x: Plain, factor: float) -> list[np.ndarray]:
        """Multiply the gradients of x by a factor from now on; returns the list they are put into."""
        log: list[np.ndarray] = []
        x.family.calls[-1].hooks.append((factor, log))
        return log

    def retain(self, x: Plain) -> None:
        if x not in self.kept:
            self.kept.append(x)

    def add_grad(self, x: Plain, g: np.ndarray) -> None:
        """Set or add to x.grad, which others may look at."""
        if x.grad is None:
            places = np.arange(g.size).reshape(g.shape)
            x.grad = Plain(Storage(g.ravel().copy()), Family(np.full(g.size, -1), leaf=True), places)
        else:
            x.grad.storage.put(x.grad.places, x.grad.value + g)
