"""Random programs against a plain tape of numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn.autograd import grad
from tinygrad_cnn.testing.strategies import arrays

from .tools import Identity, Twice


class Scalar:
    """The slow, obvious reverse mode: a number, its parents and the slopes towards them."""

    def __init__(self, value: float, parents: tuple[tuple[Scalar, float], ...] = ()) -> None:
        self.value = value
        self.parents = parents
        self.grad = 0.0

    def backward(self) -> None:
        order: list[Scalar] = []
        seen: set[int] = set()

        def visit(x: Scalar) -> None:
            if id(x) not in seen:
                seen.add(id(x))
                for parent, _ in x.parents:
                    visit(parent)
                order.append(x)

        visit(self)
        self.grad = 1.0
        for x in reversed(order):
            for parent, slope in x.parents:
                parent.grad += slope * x.grad


def _add(a: Scalar, b: Scalar) -> Scalar:
    return Scalar(a.value + b.value, ((a, 1.0), (b, 1.0)))


def _mul(a: Scalar, b: Scalar) -> Scalar:
    return Scalar(a.value * b.value, ((a, b.value), (b, a.value)))


def _tanh(a: Scalar) -> Scalar:
    t = math.tanh(a.value)
    return Scalar(t, ((a, 1 - t * t),))


N = 3
OPS: list[str] = ["add", "sub", "mul", "tanh", "sum", "flip", "slice", "scale", "detach", "reuse", "stack", "custom"]


def _run(program: list[tuple[str, int, int]], xs: list[Any], ys: list[list[Scalar]]) -> tuple[Any, Scalar]:
    """Run a program on vectors of N: on tensors xs and, element by element, on Scalars ys."""
    for name, i, j in program:
        a, b = xs[i % len(xs)], xs[j % len(xs)]
        c, d = ys[i % len(ys)], ys[j % len(ys)]
        if name == "add":
            new, old = a + b, [_add(p, q) for p, q in zip(c, d, strict=True)]
        elif name == "sub":
            new, old = a - b, [_add(p, _mul(q, Scalar(-1.0))) for p, q in zip(c, d, strict=True)]
        elif name == "mul":
            new, old = a * b * 0.5, [_mul(_mul(p, q), Scalar(0.5)) for p, q in zip(c, d, strict=True)]
        elif name == "tanh":
            new, old = a.tanh(), [_tanh(p) for p in c]
        elif name == "sum":
            total = Scalar(0.0)
            for p in c:
                total = _add(total, p)
            new, old = a.sum() + b * 0.0, [_add(total, _mul(q, Scalar(0.0))) for q in d]
        elif name == "flip":
            new, old = a.flip(0), c[::-1]
        elif name == "slice":
            new, old = tg.cat([a[:1], b[1:]]), [c[0], *d[1:]]
        elif name == "scale":
            new, old = a[:1] * b, [_mul(c[0], q) for q in d]
        elif name == "detach":
            new, old = a.detach() + b, [_add(Scalar(p.value), q) for p, q in zip(c, d, strict=True)]
        elif name == "reuse":
            new, old = a + a + a, [_add(_add(p, p), p) for p in c]
        elif name == "stack":
            new, old = (
                tg.stack([a, b, a])[1:].mean(0),
                [_mul(_add(p, q), Scalar(0.5)) for p, q in zip(d, c, strict=True)],
            )
        else:
            new, old = Identity.apply(a) + Twice.apply(a, b), [_add(p, _add(p, q)) for p, q in zip(c, d, strict=True)]
        xs.append(new)
        ys.append(old)
    last = Scalar(0.0)
    for p in ys[-1]:
        last = _add(last, p)
    return xs[-1].sum(), last


programs = st.lists(st.tuples(st.sampled_from(OPS), st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=12)


@given(programs, arrays((2, N), layout="C"), st.integers(0, 2))
def test_random_programs_match_a_plain_tape(program: Any, values: np.ndarray, backwards: int) -> None:
    leaves = [tg.tensor(row, requires_grad=True) for row in values]
    scalars = [[Scalar(v) for v in row] for row in values]
    out, last = _run(program, list(leaves), list(scalars))
    assert out.item() == pytest.approx(last.value, rel=1e-9, abs=1e-9)
    last.backward()
    if not out.requires_grad:
        return
    expected = np.array([[s.grad for s in row] for row in scalars])
    got = grad(out, leaves, retain_graph=True, allow_unused=True)
    for _ in range(backwards):
        out.backward(retain_graph=True)
    out.backward()
    for x, g, e in zip(leaves, got, expected, strict=True):
        if g is None:
            assert x.grad is None
            assert not e.any()
            continue
        np.testing.assert_allclose(g.numpy(), e, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(x.grad.numpy(), (backwards + 1) * e, rtol=1e-9, atol=1e-9)


@given(programs, arrays((2, N), layout="C"))
def test_random_programs_have_the_same_gradient_with_a_graph_of_it(program: Any, values: np.ndarray) -> None:
    leaves = [tg.tensor(row, requires_grad=True) for row in values]
    scalars = [[Scalar(v) for v in row] for row in values]
    out, _ = _run(program, list(leaves), list(scalars))
    if not out.requires_grad:
        return
    plain = grad(out, leaves, retain_graph=True, allow_unused=True)
    graph = grad(out, leaves, create_graph=True, allow_unused=True)
    for a, b in zip(plain, graph, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a.numpy(), b.detach().numpy())
