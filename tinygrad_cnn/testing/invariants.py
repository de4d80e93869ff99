"""What holds for every op whatever it computes, and costs a few more runs to see."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import autograd
from ..autograd import Variable
from ..kernels import get_num_threads, set_num_threads
from ..tensor import Tensor
from .layouts import LAYOUTS, broadcast

#: Two results of one formula, summed in another order, in units of eps * the largest element.
REORDERED = 1e5


class _Run(NamedTuple):
    leaves: list[Any]
    outputs: list[Any]
    grads: list[np.ndarray]


class _Subject(NamedTuple):
    """The function under check with its inputs (float64), and one random cotangent per output."""

    fn: Callable[..., Any]
    inputs: Sequence[Any]
    wrt: Sequence[int]
    cotangents: Sequence[Any]

    def run(
        self,
        scale: float = 1.0,
        wrt: Sequence[int] | None = None,
        layout: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> _Run:
        """Forward on copies in the given layout, then the gradients of wrt for scale * cotangents."""
        layout = layout or (lambda x: x.copy(order="K"))
        args = [Tensor(layout(x._array)) if isinstance(x, Variable) else x for x in self.inputs]
        wrt = self.wrt if wrt is None else wrt
        leaves = [args[i].requires_grad_() for i in wrt]
        outputs = _outputs(self.fn(*args))
        return _Run(leaves, outputs, self.grads(outputs, leaves, scale))

    def grads(self, outputs: Sequence[Any], leaves: Sequence[Any], scale: float = 1.0) -> list[np.ndarray]:
        live = [(out, c) for out, c in zip(outputs, self.cotangents, strict=True) if _is_live(out)]
        if not live:
            return [np.zeros(x.shape) for x in leaves]
        grads = autograd.grad(
            [out for out, _ in live],
            leaves,
            [Tensor(c._array * scale) for _, c in live],
            retain_graph=True,
            allow_unused=True,
        )
        return [np.zeros(x.shape) if g is None else g._array for x, g in zip(leaves, grads, strict=True)]


def _is_live(out: Any) -> bool:
    return out.dtype.kind == "f" and bool(out.requires_grad)


def _outputs(result: Any) -> list[Any]:
    return list(result) if isinstance(result, tuple | list) else [result]


def broken_invariant(
    fn: Callable[..., Any], inputs: Sequence[Any], wrt: Sequence[int], cotangents: Sequence[Any], seed: int
) -> str | None:
    """The first invariant that does not hold, in words, or None."""
    subject = _Subject(fn, inputs, wrt, cotangents)
    base = subject.run()
    if not all(np.isfinite(g).all() for g in base.grads):
        return None  # NaN and infinity follow other rules
    for check in (_mutates, _shares, _repeats, _is_linear, _accumulates, _subsets, _partial, _aliased):
        if (found := check(subject, base)) is not None:
            return found
    return _layouts(subject, base, seed) or _threads(subject, base)


def _mutates(subject: _Subject, base: _Run) -> str | None:
    args = [Tensor(x._array.copy(order="K")) if isinstance(x, Variable) else x for x in subject.inputs]
    leaves = [args[i].requires_grad_() for i in subject.wrt]
    watched = {f"input {i}": x for i, x in enumerate(args) if isinstance(x, Variable)}
    before = {name: x._array.copy() for name, x in watched.items()}
    outputs = _outputs(subject.fn(*args))
    for name, x in watched.items():
        if not _same(x._array, before[name]):
            return f"the forward changes {name}"
        for i, out in enumerate(outputs):
            if out._version is not x._version and np.may_share_memory(out._array, x._array):
                return f"output {i} lies in the memory of {name}, but a write to one does not count as one to the other"
    watched |= {f"output {i}": x for i, x in enumerate(outputs)}
    before = {name: x._array.copy() for name, x in watched.items()}
    live = [(out, Tensor(c._array.copy())) for out, c in zip(outputs, subject.cotangents, strict=True) if _is_live(out)]
    if not live:
        return None
    given = [c._array.copy() for _, c in live]
    autograd.grad([out for out, _ in live], leaves, [c for _, c in live], allow_unused=True)
    for name, x in watched.items():
        if not _same(x._array, before[name]):
            return f"the backward changes {name}"
    if not all(_same(c._array, was) for (_, c), was in zip(live, given, strict=True)):
        return "the backward changes the cotangent it is given"
    return None


def _shares(subject: _Subject, base: _Run) -> str | None:
    arrays = [(f"the gradient of input {i}", g) for i, g in zip(subject.wrt, base.grads, strict=True)]
    others = [(f"input {i}", x._array) for i, x in zip(subject.wrt, base.leaves, strict=True)]
    others += [(f"output {i}", x._array) for i, x in enumerate(base.outputs)]
    others += [(f"cotangent {i}", c._array) for i, c in enumerate(subject.cotangents) if c is not None]
    pairs = [*itertools.combinations(arrays, 2), *itertools.product(arrays, others)]
    for (name, a), (other, b) in pairs:
        if np.may_share_memory(a, b):
            return f"{name} shares memory with {other}"
    return None


def _repeats(subject: _Subject, base: _Run) -> str | None:
    if not _all_same(subject.grads(base.outputs, base.leaves), base.grads):
        return "a second backward through the same graph gives other bits"
    again = subject.run()
    if not _all_same([x._array for x in again.outputs], [x._array for x in base.outputs]):
        return "a second forward on the same inputs gives other bits"
    if not _all_same(again.grads, base.grads):
        return "a second forward and backward on the same inputs gives other bits"
    return None


def _is_linear(subject: _Subject, base: _Run) -> str | None:
    if not _all_same(subject.grads(base.outputs, base.leaves, -2.0), [-2.0 * g for g in base.grads]):
        return "the backward is not linear: -2 times the cotangent does not give -2 times the gradient"
    if any(g.any() for g in subject.grads(base.outputs, base.leaves, 0.0)):
        return "a zero cotangent gives a gradient that is not zero"
    return None


def _accumulates(subject: _Subject, base: _Run) -> str | None:
    """`.grad` after two backwards is twice the gradient."""
    live = [(out, c) for out, c in zip(base.outputs, subject.cotangents, strict=True) if _is_live(out)]
    if not live:
        return None
    for _ in range(2):
        autograd.backward([out for out, _ in live], [Tensor(c._array.copy()) for _, c in live], retain_graph=True)
    for i, x, g in zip(subject.wrt, base.leaves, base.grads, strict=True):
        if x.grad is None:
            if g.any():
                return f"backward() leaves no .grad on input {i}"
        elif not _same(x.grad._array, 2 * g):
            return f"after two backwards, .grad of input {i} is not twice the gradient"
    return None


def _subsets(subject: _Subject, base: _Run) -> str | None:
    n = len(subject.wrt)
    chosen = itertools.chain.from_iterable(
        itertools.combinations(range(n), size) for size in ((1,) if n > 3 or _is_large(base) else range(1, n))
    )
    for subset in chosen:
        grads = subject.run(wrt=[subject.wrt[k] for k in subset]).grads
        if not _all_close(grads, [base.grads[k] for k in subset]):
            return f"the gradients differ when only inputs {[subject.wrt[k] for k in subset]} require grad"
    return None


def _partial(subject: _Subject, base: _Run) -> str | None:
    """A missing cotangent means zero."""
    live = [i for i, out in enumerate(base.outputs) if _is_live(out)]
    for i in live if len(live) > 1 else ():
        out, c = base.outputs[i], subject.cotangents[i]
        alone = autograd.grad(out, base.leaves, Tensor(c._array.copy()), retain_graph=True, allow_unused=True)
        zeros = [Tensor(subject.cotangents[j]._array * float(i == j)) for j in live]
        padded = autograd.grad(
            [base.outputs[j] for j in live], base.leaves, zeros, retain_graph=True, allow_unused=True
        )
        for x, a, p in zip(base.leaves, alone, padded, strict=True):
            left, right = (np.zeros(x.shape) if g is None else g._array for g in (a, p))
            if not _close(left, right):
                return f"the gradient of output {i} alone differs from that with zero cotangents for the others"
    return None


def _aliased(subject: _Subject, base: _Run) -> str | None:
    """One tensor in two places gets the sum of the two gradients."""
    places = itertools.combinations(range(len(subject.wrt)), 2)
    alike = [(k, m) for k, m in places if base.leaves[k].shape == base.leaves[m].shape]
    if not alike:
        return None
    k, m = alike[0]
    i, j = subject.wrt[k], subject.wrt[m]
    args = list(subject.inputs)
    args[j] = args[i]
    try:
        apart = subject._replace(inputs=args).run()
    except (ValueError, RuntimeError):
        return None  # no legal input for this function
    args[i] = args[j] = leaf = Tensor(subject.inputs[i]._array.copy(order="K")).requires_grad_()
    together = subject.grads(_outputs(subject.fn(*args)), [leaf])[0]
    if not _close(together, apart.grads[k] + apart.grads[m], [apart.grads[k], apart.grads[m]]):
        return f"one tensor as inputs {i} and {j} does not get the sum of their gradients"
    return None


def _layouts(subject: _Subject, base: _Run, seed: int) -> str | None:
    names = list(LAYOUTS)
    if _is_large(base):
        names = [names[seed % len(names)]]
    for name in names:
        run = subject.run(layout=LAYOUTS[name])
        if not _all_close([x._array for x in run.outputs], [x._array for x in base.outputs]):
            return f"inputs in the layout {name!r} give other outputs"
        if not _all_close(run.grads, base.grads):
            return f"inputs in the layout {name!r} give other gradients"
    return _expanded(subject)


def _expanded(subject: _Subject) -> str | None:
    """Inputs with stride 0 against contiguous copies of them."""

    def expand(x: np.ndarray) -> np.ndarray:
        return broadcast(x) if x.dtype.kind == "f" and x.ndim and x.shape[0] > 1 else x.copy(order="K")

    try:
        copied = subject.run(layout=lambda x: expand(x).copy())
    except (ValueError, RuntimeError):
        return None
    run = subject.run(layout=expand)
    outputs = [x._array for x in run.outputs], [x._array for x in copied.outputs]
    if not _all_close(*outputs) or not _all_close(run.grads, copied.grads):
        return "inputs that are expanded (stride 0) give other results than their copies"
    return None


def _threads(subject: _Subject, base: _Run) -> str | None:
    before = get_num_threads()
    try:
        for n in (1, 3) if _is_large(base) else (1, 2, 3):
            set_num_threads(n)
            run = subject.run()
            if not _all_same([x._array for x in run.outputs], [x._array for x in base.outputs]) or not _all_same(
                run.grads, base.grads
            ):
                return f"{n} threads give other bits than {before}"
    finally:
        set_num_threads(before)
    return None


def _is_large(base: _Run) -> bool:
    """Whether each run costs so much that a few of a kind must do."""
    return bool(sum(x._array.size for x in base.leaves) > 20_000)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _all_same(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> bool:
    return all(_same(x, y) for x, y in zip(a, b, strict=True))


def _close(a: np.ndarray, b: np.ndarray, terms: Sequence[np.ndarray] = ()) -> bool:
    if a.dtype.kind != "f":
        return np.array_equal(a, b)
    finite = [np.abs(x[np.isfinite(x)]).max(initial=0.0) for x in (a, b, *terms)]
    unit = REORDERED * float(np.finfo(a.dtype).eps)
    return a.shape == b.shape and np.allclose(a, b, rtol=unit, atol=unit * max(finite), equal_nan=True)


def _all_close(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> bool:
    return all(_close(x, y) for x, y in zip(a, b, strict=True))
