"""Matrix products: every pair of ranks, broadcast batches, linear with bias, and what does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn import ops
from tinygrad_cnn.testing import strategies as draw


@given(data=st.data())
def test_matmul_is_exact_on_whole_numbers(data: st.DataObject) -> None:
    """float32 kernels agree with NumPy bit for bit where nothing rounds, at sizes around those of their tiles."""
    m, k, n = (data.draw(st.integers(1, 70)) for _ in range(3))
    x, y = data.draw(draw.integers32((m, k), k)), data.draw(draw.integers32((k, n), k))
    np.testing.assert_array_equal((tg.from_numpy(x) @ tg.from_numpy(y)).numpy(), x @ y)


def test_integers_multiply() -> None:
    """Without a fast kernel, but exactly."""
    a = tg.arange(6).reshape(2, 3)
    assert (a @ a.t()).tolist() == [[5, 14], [14, 50]]
    assert (a @ a.t()).dtype == tg.int64


def test_names_and_operators() -> None:
    """@, matmul, mm, bmm and dot are one op; arrays may stand on the left."""
    a, b = tg.ones(2, 3), tg.ones(3, 4)
    for c in (a @ b, tg.matmul(a, b), a.mm(b), tg.mm(a, b), tg.bmm(a[None], b[None])[0], np.ones((2, 3), "f") @ b):
        assert isinstance(c, tg.Tensor)
        assert c.tolist() == [[3.0] * 4] * 2
    assert tg.dot(a[0], b[:, 0]).item() == 3


def test_a_matrix_on_the_right_is_shared_by_a_batch() -> None:
    """One product of (B*M, K) @ (K, N): the gradient of the matrix adds up over the batch inside it."""
    x, w = tg.ones(5, 2, 3, requires_grad=True), tg.ones(3, 4, requires_grad=True)
    gx, gw = tg.autograd.grad((x @ w).sum(), [x, w])
    assert gx.tolist() == [[[4.0] * 3] * 2] * 5
    assert gw.tolist() == [[10.0] * 4] * 3


@pytest.mark.parametrize(
    ("fn", "match"),
    [
        (lambda x: x @ x, r"\(2, 3\) @ \(2, 3\).*3.*2"),
        (lambda x: x @ tg.ones(2), r"\(2, 3\) @ \(2,\)"),
        (lambda x: x @ tg.tensor(1.0), "0-d"),
        (lambda x: tg.ones(2, 2, 3) @ tg.ones(3, 3, 2), r"\(2,\) and \(3,\)"),
        (lambda x: x @ x.t().double(), "float32 and float64"),
        (lambda x: tg.outer(x, x), r"\(2, 3\)"),
        (lambda x: ops.linear(x, tg.ones(4, 5)), "5 features.*3"),
        (lambda x: ops.linear(x, tg.ones(4, 3), tg.ones(3)), "4"),
        (lambda x: ops.linear(x, tg.ones(4, 3).double()), r"float64.*use \.to\(tg\.float64\) on the input"),
        (lambda x: ops.linear(x, tg.ones(3)), r"\(3,\)"),
    ],
)
def test_errors(fn: Any, match: str) -> None:
    """Typed, with the shapes."""
    with pytest.raises((RuntimeError, ValueError, TypeError), match=match):
        fn(tg.ones(2, 3))


def test_a_number_is_no_matrix() -> None:
    """`x @ 3` is a TypeError."""
    with pytest.raises(TypeError, match="int"):
        tg.ones(2) @ 3


@pytest.mark.parametrize(
    ("a", "b"), [((0,), (0, 0, 0)), ((3, 0), (2, 0, 4)), ((2, 0, 3), (2, 3, 4)), ((0,), (2, 0, 4))]
)
def test_batches_of_matrices_without_elements(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    """The number of matrices cannot be told from the number of elements."""
    x, y = tg.zeros(a, requires_grad=True), tg.zeros(b, requires_grad=True)
    out = x @ y
    assert out.tolist() == (np.zeros(a) @ np.zeros(b)).tolist()
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.shape == a


@given(data=st.data())
def test_products_of_one_rank_only(data: st.DataObject) -> None:
    """mm, bmm and dot are matmul for matrices, batches and vectors, and errors for all else."""
    a, b = (data.draw(draw.shapes(1, 4, 1, 3)) for _ in range(2))
    if len(b) > 1 and data.draw(st.booleans()):
        b = (*a[:-2], a[-1], b[-1])
    x, y = tg.ones(*a), tg.ones(*b)
    for name, ndim in (("dot", 1), ("mm", 2), ("bmm", 3)):
        fits = len(a) == len(b) == ndim and a[-1] == b[-2 if ndim > 1 else 0] and (ndim < 3 or a[0] == b[0])
        for fn in (getattr(tg, name), getattr(tg.Tensor, name)):
            if fits:
                assert fn(x, y).tolist() == (x @ y).tolist()
            else:
                with pytest.raises(RuntimeError, match=name if {len(a), len(b)} != {ndim} else "rows of|batches of"):
                    fn(x, y)
