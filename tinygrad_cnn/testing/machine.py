"""Random programs of tensor ops, compared step by step with another autograd; needs hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from .. import ops
from ..autograd import no_grad
from ..tensor import Tensor

_SHAPES = ((), (3,), (2, 3), (2, 1), (3, 2))
_LARGE = 10.0  # above it nothing is multiplied: a program of squares would overflow

_which = st.integers(0, 15)  # a tensor, the newest first
_some = st.integers(0, 2**16 - 1)  # the seed of an array of small numbers
_records = st.sampled_from((True, True, True, False))  # or the step is taken under no_grad


def _numbers(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Multiples of 1/4 in [-2, 2], none of them 0."""
    drawn = np.random.default_rng(seed).integers(1, 8, shape, endpoint=True)
    return np.where(drawn % 2, drawn, -drawn) / 4


class AutogradMachine(RuleBasedStateMachine):
    """Random programs: ops, views, writes in place, no_grad, detach, hooks, retained gradients, repeated backward.

    Every step runs here and on `reference()`, an autograd of the caller's with the methods used below; after each
    step all values, what requires a gradient, and every `.grad` must agree. A step that the reference forbids must
    raise RuntimeError, and so must a backward that needs a value which was changed or freed. Subclass it, set
    `reference`, and run `hypothesis.stateful.run_state_machine_as_test`.
    """

    reference: ClassVar[Callable[[], Any]]
    unary_ops: ClassVar[tuple[str, ...]] = ("neg", "tanh", "sigmoid", "relu", "sin", "square", "abs", "clone")
    binary_ops: ClassVar[tuple[str, ...]] = ("add", "mul", "sub", "div", "maximum")

    def __init__(self) -> None:
        super().__init__()
        self.tape = type(self).reference()
        self.ours: list[Any] = []
        self.theirs: list[Any] = []
        self.hooks: list[tuple[list[np.ndarray], list[np.ndarray]]] = []

    # ------------------------------------------------------------------------------------------------- leaves

    @initialize(seed=_some, shape=st.sampled_from(_SHAPES[1:]))
    def start(self, seed: int, shape: tuple[int, ...]) -> None:
        """Tensors to differentiate by, and a constant."""
        self._leaf(_numbers(seed, shape), True)
        self._leaf(_numbers(seed + 2, shape), True)
        self._leaf(_numbers(seed + 1, shape), False)
        self._keep(self.ours[0] * self.ours[2], self.tape.binary("mul", self.theirs[0], self.theirs[2]))

    @rule(seed=_some, shape=st.sampled_from(_SHAPES), requires_grad=st.booleans())
    def leaf(self, seed: int, shape: tuple[int, ...], requires_grad: bool) -> None:
        self._leaf(_numbers(seed, shape), requires_grad)

    def _leaf(self, value: np.ndarray, requires_grad: bool) -> None:
        self._keep(Tensor(value.copy()).requires_grad_(requires_grad), self.tape.leaf(value, requires_grad))

    # ---------------------------------------------------------------------------------------------------- ops

    @rule(at=_which, which=st.integers(0, 99), records=_records)
    def unary(self, at: int, which: int, records: bool) -> None:
        name = self.unary_ops[which % len(self.unary_ops)]
        i = self._at(at)
        name = "tanh" if name == "square" and self._is_large(i) else name
        with self._mode(records):
            self._keep(getattr(ops, name)(self.ours[i]), self.tape.unary(name, self.theirs[i]))

    @rule(at=_which, other=_which, which=st.integers(0, 99), records=_records)
    def binary(self, at: int, other: int, which: int, records: bool) -> None:
        i, j = self._at(at), self._at(other)
        if not self._broadcast(i, j):
            j = i
        name = self._safe(self.binary_ops[which % len(self.binary_ops)], i, j)
        with self._mode(records):
            out = getattr(ops, name)(self.ours[i], self.ours[j])
            self._keep(out, self.tape.binary(name, self.theirs[i], self.theirs[j]))

    @rule(at=_which, number=st.sampled_from((2.0, -0.5)), name=st.sampled_from(("mul", "add", "div")), records=_records)
    def number(self, at: int, number: float, name: str, records: bool) -> None:
        i = self._at(at)
        with self._mode(records):
            self._keep(getattr(ops, name)(self.ours[i], number), self.tape.binary(name, self.theirs[i], number))

    @rule(at=_which, dim=st.sampled_from((None, 0, 1)), records=_records)
    def sum(self, at: int, dim: int | None, records: bool) -> None:
        i = self._at(at)
        dim = dim if dim is not None and dim < self.ours[i].ndim else None
        with self._mode(records):
            self._keep(ops.sum(self.ours[i], dim), self.tape.sum(self.theirs[i], dim))

    @rule(at=_which, other=_which, records=_records)
    def matmul(self, at: int, other: int, records: bool) -> None:
        i, j = self._at(at), self._at(other)
        shapes = self.ours[i].shape, self.ours[j].shape
        if [len(s) for s in shapes] != [2, 2] or shapes[0][1] != shapes[1][0] or self._is_large(i, j):
            return
        with self._mode(records):
            self._keep(ops.matmul(self.ours[i], self.ours[j]), self.tape.matmul(self.theirs[i], self.theirs[j]))

    @rule(at=_which, other=_which, records=_records)
    def cat(self, at: int, other: int, records: bool) -> None:
        i, j = self._at(at), self._at(other)
        if not self.ours[i].ndim or self.ours[i].numel() > 24:
            return
        if self.ours[i].shape != self.ours[j].shape:
            j = i
        with self._mode(records):
            self._keep(ops.cat([self.ours[i], self.ours[j]]), self.tape.cat([self.theirs[i], self.theirs[j]]))

    # -------------------------------------------------------------------------------------------------- views

    @rule(at=_which, data=st.data(), records=_records)
    def slice(self, at: int, data: st.DataObject, records: bool) -> None:
        i = self._at(at)
        key = self._key(i, data)
        self._view(i, lambda x: x[key], records)

    @rule(at=_which, records=_records)
    def transpose(self, at: int, records: bool) -> None:
        i = self._at(at)
        order = tuple(range(self.ours[i].ndim))[::-1]
        self._view(i, lambda x: ops.permute(x, *order) if isinstance(x, Tensor) else x.transpose(order), records)

    @rule(at=_which, shape=st.sampled_from(((-1,), (1, -1), (-1, 1), (3, -1))), records=_records)
    def reshape(self, at: int, shape: tuple[int, ...], records: bool) -> None:
        i = self._at(at)
        if shape[0] == 3 and self.ours[i].numel() % 3:
            shape = (-1,)
        self._view(i, lambda x: x.reshape(shape), records)

    @rule(at=_which, times=st.integers(1, 3), records=_records)
    def expand(self, at: int, times: int, records: bool) -> None:
        i = self._at(at)
        shape = tuple(times if n == 1 else n for n in self.ours[i].shape)
        if 1 not in self.ours[i].shape and self.ours[i].ndim < 3:
            shape = (times, *shape)
        if int(np.prod(shape)) <= 36:
            self._view(i, lambda x: x.expand(shape) if isinstance(x, Tensor) else np.broadcast_to(x, shape), records)

    @rule(at=_which)
    def detach(self, at: int) -> None:
        i = self._at(at)
        self._keep(self.ours[i].detach(), self.tape.detach(self.theirs[i]))

    def _view(self, i: int, look: Callable[[Any], Any], records: bool) -> None:
        x, plain = self.ours[i], self.theirs[i]
        with self._mode(records):
            out = look(x)
            if out is x:
                return
            if np.may_share_memory(out._array, x._array):
                self._keep(out, self.tape.view(plain, look))
            else:  # a reshape that had to copy
                copy = self.tape.unary("clone", plain)
                self._keep(out, self.tape.view(copy, lambda places: places.reshape(out.shape)))

    # ------------------------------------------------------------------------------------------------- writes

    @rule(at=_which, name=st.sampled_from(("neg", "tanh", "sigmoid", "relu")), records=_records)
    def unary_in_place(self, at: int, name: str, records: bool) -> None:
        i = self._at(at)
        self._write(
            i,
            records,
            lambda x: getattr(x, f"{name}_")(),
            lambda plain: self.tape.unary(name, plain, into=plain),
        )

    @rule(at=_which, other=_which, name=st.sampled_from(("mul", "add", "sub", "div")), records=_records)
    def binary_in_place(self, at: int, other: int, name: str, records: bool) -> None:
        i, j = self._at(at), self._at(other)
        if not self._broadcast(i, j, into=True):
            j = i
        name = self._safe(name, i, j).replace("maximum", "add")
        y, theirs = self.ours[j], self.theirs[j]
        self._write(
            i,
            records,
            lambda x: getattr(x, f"{name}_")(y),
            lambda plain: self.tape.binary(name, plain, theirs, into=plain),
        )

    @rule(at=_which, other=_which, data=st.data(), records=_records)
    def assign(self, at: int, other: int, data: st.DataObject, records: bool) -> None:
        """x[key] = a tensor, or a number where none fits."""
        i, j = self._at(at), self._at(other)
        key = self._key(i, data)
        part = np.empty(self.ours[i].shape)[key]
        value, theirs = (self.ours[j], self.theirs[j]) if self._fits(j, part.shape) else (0.5, 0.5)
        view = self.tape.view(self.theirs[i], lambda places: places[key])
        self._write(
            i,
            records,
            lambda x: x.__setitem__(key, value),
            lambda _: self.tape.copy(view, theirs),
            view,
        )

    @rule(at=_which, records=_records)
    def fill(self, at: int, records: bool) -> None:
        self._write(self._at(at), records, lambda x: x.fill_(0.5), lambda plain: self.tape.copy(plain, 0.5))

    def _write(
        self,
        i: int,
        records: bool,
        ours: Callable[[Any], Any],
        theirs: Callable[[Any], Any],
        target: Any = None,
    ) -> None:
        with self._mode(records):
            if self.tape.writable(self.theirs[i] if target is None else target):
                ours(self.ours[i])
                theirs(self.theirs[i])
                return
            before = self.ours[i]._array.copy()
            try:
                ours(self.ours[i])
            except RuntimeError:
                assert (self.ours[i]._array == before).all(), "a refused write changed the tensor"
                return
        raise AssertionError("a write that must be refused was not")

    # ----------------------------------------------------------------------------------------------- backward

    @rule(at=_which, seed=_some, retain_graph=st.booleans())
    def backward(self, at: int, seed: int, retain_graph: bool) -> None:
        tracked = self._tracked()
        self._backward(tracked[at % len(tracked)] if tracked and at < 15 else self._at(at), seed, retain_graph)

    def _tracked(self) -> list[int]:
        """What requires a gradient, the newest first."""
        return [i for i in reversed(range(len(self.ours))) if self.ours[i].requires_grad]

    def _backward(self, i: int, seed: int, retain_graph: bool) -> bool:
        """Whether it succeeded, as it should."""
        g = _numbers(seed, self.ours[i].shape)
        verdict = self.tape.verdict(self.theirs[i])
        try:
            self.ours[i].backward(Tensor(g), retain_graph=retain_graph)
        except RuntimeError as error:
            reason = str(error)
            assert any(words in reason for words in verdict.may), f"expected {verdict}, got: {reason}"
            if "does not require grad" not in reason:
                self._start_again()
            return False
        assert not verdict.must, f"backward must raise: {verdict}"
        zeros = self.tape.backward(self.theirs[i], g, retain_graph)
        self._agree_on_unreached(zeros)
        return True

    def _agree_on_unreached(self, zeros: set[int]) -> None:
        """Where no element depends on a tensor, a graph of tensors may still lead there: None or zeros."""
        for x, plain in zip(self.ours, self.theirs, strict=True):
            if plain.grad is None and x.grad is not None and id(plain) in zeros:
                assert not x.grad._array.any(), "a gradient where nothing depends on the tensor"
                self.tape.add_grad(plain, np.zeros(x.shape))
        for ours, theirs in self.hooks:
            seen = [g for g in ours if g.any()]
            expected = [g for g in theirs if g.any()]
            assert len(seen) == len(expected), f"the hook saw {len(seen)} gradients instead of {len(expected)}"
            for a, b in zip(seen, expected, strict=True):
                _close(a.ravel(), b.ravel(), "a gradient that a hook saw")
            ours.clear()
            theirs.clear()

    def _start_again(self) -> None:
        """After a backward that failed midway every tensor starts anew, without graphs and gradients."""
        old = list(zip(self.ours, self.theirs, strict=True))[-3:]
        self.tape = type(self).reference()
        self.ours, self.theirs, self.hooks = [], [], []
        for x, _ in old:
            self._leaf(np.array(x._array), x.requires_grad)

    @rule(at=_which, factor=st.sampled_from((None, 2.0)))
    def hook(self, at: int, factor: float | None) -> None:
        i = self._at(at)
        if not self._is_own(i):
            return
        log: list[np.ndarray] = []

        def seen(g: Any) -> Any:
            log.append(g._array.copy())
            return None if factor is None else g * factor

        self.ours[i].register_hook(seen)
        self.hooks.append((log, self.tape.hook(self.theirs[i], factor or 1.0)))

    @rule(at=_which, kind=st.sampled_from(("retain", "use", "zero", "forget")))
    def gradient(self, at: int, kind: str) -> None:
        """Retain a gradient, take it as a tensor that the next backward adds to, drop it, or drop the tensor."""
        i = self._at(at)
        x, plain = self.ours[i], self.theirs[i]
        if kind == "retain" and self._is_own(i):
            x.retain_grad()
            self.tape.retain(plain)
        elif kind == "use" and x.grad is not None:
            self._keep(x.grad, plain.grad)
        elif kind == "zero":
            x.grad = plain.grad = None
        elif kind == "forget" and not x.is_leaf:
            del self.ours[i], self.theirs[i]

    # ------------------------------------------------------------------------------------------------- shared

    def _at(self, at: int) -> int:
        return len(self.ours) - 1 - at % len(self.ours)

    def _is_large(self, *at: int) -> bool:
        return any(np.abs(self.ours[i]._array).max(initial=0) > _LARGE for i in at)

    def _safe(self, name: str, i: int, j: int) -> str:
        """Another op where this one would overflow."""
        if name == "div" and np.abs(self.ours[j]._array).min(initial=1) < 0.25:
            return "maximum"
        return "sub" if name in ("mul", "div") and self._is_large(i, j) else name

    def _fits(self, j: int, shape: tuple[int, ...]) -> bool:
        given = self.ours[j].shape
        tail = shape[len(shape) - len(given) :]
        return len(given) <= len(shape) and all(a in (1, b) for a, b in zip(given, tail, strict=True))

    def _broadcast(self, i: int, j: int, into: bool = False) -> bool:
        a, b = self.ours[i].shape, self.ours[j].shape
        return self._fits(j, a) or (not into and self._fits(i, b))

    def _key(self, i: int, data: st.DataObject) -> Any:
        """A subscript that leaves at least one element."""
        items: list[Any] = []
        for n in self.ours[i].shape:
            start = data.draw(st.integers(0, n - 1))
            stop = data.draw(st.integers(start + 1, n))
            items.append(data.draw(st.sampled_from((slice(start, stop), slice(start, None, 2), start))))
        return tuple(items) or ...

    def _is_own(self, i: int) -> bool:
        """Whether this is a tracked tensor that looks into nobody's storage: its node is the newest of its family."""
        x, plain = self.ours[i], self.theirs[i]
        return x.requires_grad and x._view is None and plain.is_whole

    def _mode(self, records: bool) -> Any:
        self.tape.recording = records
        return nullcontext() if records else no_grad()

    def _keep(self, x: Any, plain: Any) -> None:
        self.ours.append(x)
        self.theirs.append(plain)

    def teardown(self) -> None:
        """In the end the newest tensors are differentiated, one after the other."""
        for i in [i for i in self._tracked() if not self.ours[i].is_leaf][:4]:
            if not self._backward(i, 0, True):
                break
            self.agree()

    @invariant()
    def agree(self) -> None:
        """All that can be seen of every tensor agrees."""
        self.tape.recording = True
        for x, plain in zip(self.ours, self.theirs, strict=True):
            assert x.shape == plain.places.shape
            _close(x._array, plain.value, "a value")
            plain.storage.values[plain.places] = x._array  # so that both take the same side of the next kink
            assert x.requires_grad == plain.family.tracked, f"requires_grad is {x.requires_grad}"
            assert (x.grad is None) == (plain.grad is None), f".grad is {x.grad}, expected {plain.grad}"
            if x.grad is not None:
                _close(x.grad._array, plain.grad.value, "a gradient")


def _close(ours: np.ndarray, theirs: np.ndarray, what: str) -> None:
    error = np.abs(ours - theirs).max(initial=0)
    scale = max(1.0, np.abs(theirs).max(initial=0))
    assert error <= 1e-9 * scale, f"{what} is {ours.tolist()}, expected {theirs.tolist()}"
