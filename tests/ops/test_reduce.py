"""Reductions, norms and softmax: values, gradients, which element of equals wins, empty and 0-d tensors, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tests.ops.agree import agree
from tinygrad_cnn.testing import gradcheck, gradgradcheck
from tinygrad_cnn.testing import strategies as draw


@given(data=st.data())
def test_prod_with_zeros(data: st.DataObject) -> None:
    """One zero or several: the gradient is the product of all others, twice differentiable."""
    shape = data.draw(draw.shapes(1, 2, 1, 5), "shape")
    dim = data.draw(st.integers(0, len(shape) - 1))
    x = data.draw(draw.tied(shape, values=3))
    agree(lambda x: x.prod(dim), lambda x: x.prod(dim), x, rtol=1e-12)


# --------------------------------------------------------------------------------------------- which element wins


@given(data=st.data())
def test_max_gives_the_gradient_to_the_first_of_equals(data: st.DataObject) -> None:
    """One-hot at NumPy's argmax, along a dim and over all in row-major order; nothing is lost or counted twice."""
    shape = data.draw(draw.shapes(1, 3, 1, 4), "shape")
    dim = data.draw(st.integers(0, len(shape) - 1))
    array = data.draw(draw.tied(shape, values=3))
    for extreme, pick in (("max", np.argmax), ("min", np.argmin)):
        x = tg.from_numpy(array.copy(order="K")).requires_grad_()
        values, indices = getattr(x, extreme)(dim)
        assert indices.dtype == tg.int64
        np.testing.assert_array_equal(indices.numpy(), pick(array, dim))
        (g,) = tg.autograd.grad(values.sum(), x)
        expected = np.zeros(shape)
        np.put_along_axis(expected, np.expand_dims(pick(array, dim), dim), 1, dim)
        np.testing.assert_array_equal(g.numpy(), expected)
        (g,) = tg.autograd.grad(getattr(x, extreme)(), x)
        np.testing.assert_array_equal(g.numpy().ravel(), np.eye(array.size)[pick(array)])


@given(data=st.data())
def test_arg_of_extremes(data: st.DataObject) -> None:
    """argmax and argmin with and without dim and keepdim."""
    shape = data.draw(draw.shapes(1, 3, 1, 4), "shape")
    array = data.draw(draw.tied(shape, values=3))
    x, keepdim = tg.from_numpy(array), data.draw(st.booleans())
    dim = data.draw(st.none() | st.integers(-len(shape), len(shape) - 1), "dim")
    np.testing.assert_array_equal(x.argmax(dim, keepdim).numpy(), array.argmax(dim, keepdims=keepdim))
    np.testing.assert_array_equal(x.argmin(dim, keepdim).numpy(), array.argmin(dim, keepdims=keepdim))


def test_amax_shares_among_equals() -> None:
    """As PyTorch documents: amax and amin in equal parts, max and min not at all."""
    x = tg.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]], requires_grad=True)
    (g,) = tg.autograd.grad(x.amax(1).sum(), x)
    np.testing.assert_allclose(g.numpy(), [[0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]])
    (g,) = tg.autograd.grad(x.amin(), x)
    assert g.tolist() == [[1, 0, 0], [0, 0, 0]]


def test_nan_wins() -> None:
    """NaN is the largest and the smallest, and says where it is."""
    x = tg.tensor([1.0, math.nan, 3.0])
    for value in (x.max(), x.min(), x.amax(), x.amin(), x.max(0).values, x.min(0).values):
        assert math.isnan(value.item())
    assert x.argmax().item() == x.argmin().item() == x.max(0).indices.item() == 1
    assert math.isnan(x.sum().item())
    assert math.isnan(x.norm(math.inf).item())


def test_max_of_two_tensors_is_maximum() -> None:
    """As torch.max(input, other)."""
    a, b = tg.tensor([1.0, 5.0]), tg.tensor([3.0, 2.0])
    assert tg.max(a, b).tolist() == tg.max(a, other=b).tolist() == a.max(b).tolist() == [3, 5]
    assert tg.min(a, b).tolist() == [1, 2]
    values, indices = tg.max(a, dim=0)
    assert (values.item(), indices.item()) == (5, 1)


# ---------------------------------------------------------------------------------------- where formulas break down


def grad_of(fn: Callable[[Any], Any], values: Any) -> Any:
    x = tg.tensor(values, dtype=tg.float64, requires_grad=True)
    (g,) = tg.autograd.grad(fn(x).sum(), x, create_graph=True)
    if g.requires_grad:
        (second,) = tg.autograd.grad(g.sum(), x, allow_unused=True)
        assert second is None or not second.isnan().any()
    return g.tolist()


def test_norms_are_flat_at_zero() -> None:
    """The subgradient 0, where a formula would give 0 / 0; also twice."""
    for p in (0.5, 1, 2, 3, math.inf):
        assert grad_of(lambda x, p=p: x.norm(p), [0.0, 0.0]) == [0, 0]
    assert grad_of(lambda x: x.norm(2, dim=1), [[0.0, 0.0], [0.0, 5.0]]) == [[0, 0], [0, 1]]


def test_std_of_equal_numbers_has_gradient_zero() -> None:
    """As in PyTorch; the standard deviation has a kink there."""
    assert grad_of(lambda x: x.std(), [2.0, 2.0, 2.0]) == [0, 0, 0]


def test_variance_of_one_number() -> None:
    """No degree of freedom is left: NaN, value and gradient, as in PyTorch; without correction it is 0."""
    x = tg.ones(1, requires_grad=True)
    assert math.isnan(x.var().item())
    (g,) = tg.autograd.grad(x.var(), x)
    assert math.isnan(g.item())
    assert x.var(unbiased=False).item() == 0
    assert tg.ones(3, 2).var(0, correction=5).tolist() == pytest.approx([math.nan] * 2, nan_ok=True)


def test_variance_does_not_cancel() -> None:
    """Two passes: numbers around 1e6 have their variance to float32's precision."""
    array = np.random.default_rng(0).normal(1e6, 1.0, 10_000).astype(np.float32)
    assert tg.from_numpy(array).var().item() == pytest.approx(array.astype(np.float64).var(ddof=1), rel=1e-4)


def test_float32_sums_keep_their_digits() -> None:
    """A million small numbers, over every kind of axis, within a few ulp of the float64 sum."""
    array = np.random.default_rng(0).random((64, 32, 24, 24), np.float32)
    for layout in (array, array.transpose(0, 2, 3, 1), array[:, :, ::2]):
        for dim in (None, 0, 1, (0, 2, 3), (1,), (2, 3), -1):
            axes = dim if dim is None or isinstance(dim, int) else tuple(dim)
            value = tg.from_numpy(layout).sum(dim).numpy()
            np.testing.assert_allclose(value, layout.astype(np.float64).sum(axes), rtol=1e-6)


def test_logsumexp_and_softmax_at_the_ends() -> None:
    """Large numbers do not overflow; rows of -inf give -inf with gradient 0; +inf wins."""
    inf = math.inf
    x = tg.tensor([[-inf, -inf], [1e4, 1e4], [inf, 0.0], [-inf, 1.0]], dtype=tg.float64)
    assert x.logsumexp(1).tolist() == [-inf, 1e4 + math.log(2), inf, 1.0]
    assert grad_of(lambda x: x.logsumexp(1), [[-inf, -inf], [1e4, 1e4]]) == [
        [0, 0],
        pytest.approx([0.5, 0.5]),
    ]
    assert x.softmax(1)[1].tolist() == [0.5, 0.5]
    assert x.softmax(1)[3].tolist() == [0, 1]
    assert x.log_softmax(1)[3].tolist() == [-inf, 0]
    assert x.log_softmax(1)[1].tolist() == pytest.approx([-math.log(2)] * 2)


def test_softmax_sums_to_one() -> None:
    """In float32, over many classes, in any layout, along any dim."""
    x = tg.from_numpy(np.random.default_rng(0).normal(0, 10, (8, 33, 5)).astype(np.float32))
    for dim in (0, 1, -1):
        for y in (x, x.transpose(0, 2)):
            np.testing.assert_allclose(y.softmax(dim).sum(dim).numpy(), 1, rtol=1e-6)
            np.testing.assert_allclose(y.log_softmax(dim).exp().numpy(), y.softmax(dim).numpy(), rtol=1e-4, atol=1e-30)


# ------------------------------------------------------------------------------------- empty, 0-d, integers, dtypes


def test_nothing_to_reduce() -> None:
    """The neutral element where there is one."""
    x = tg.zeros(2, 0, requires_grad=True)
    assert x.sum(1).tolist() == [0, 0]
    assert x.prod(1).tolist() == [1, 1]
    assert x.logsumexp(1).tolist() == [-math.inf] * 2
    assert all(map(math.isnan, x.mean(1).tolist()))
    assert x.any(1).tolist() == [False, False]
    assert x.all(1).tolist() == [True, True]
    assert x.cumsum(1).shape == x.softmax(1).shape == x.softmax(0).shape == (2, 0)
    assert x.max(0).values.shape == (0,)
    for y in (x.sum(1), x.prod(1), x.mean(1), x.softmax(1), x.logsumexp(1), x.norm(dim=1)):
        (g,) = tg.autograd.grad(y.sum(), x)
        assert g.shape == (2, 0)


def test_scalars() -> None:
    """A 0-d tensor counts as one of one dimension, 0 or -1."""
    x = tg.tensor(2.0, requires_grad=True)
    for y in (x.sum(0), x.mean(-1), x.prod(0), x.max(0).values, x.amax(0), x.cumsum(0), x.norm(), x.logsumexp(0)):
        assert y.shape == ()
        assert y.item() == 2
        assert tg.autograd.grad(y, x)[0].item() == 1
    assert x.softmax(0).item() == 1
    assert x.argmax(0).item() == x.max(0).indices.item() == 0
    with pytest.raises(IndexError, match="dim 1 is out of range"):
        x.sum(1)


def test_dtypes() -> None:
    """Integers and bools sum to int64, extremes keep the dtype, means need floats; `dtype` casts first."""
    for dtype in (tg.bool, tg.uint8, tg.int32):
        x = tg.tensor([1, 0, 1], dtype=dtype)
        assert x.sum().dtype == x.prod().dtype == x.cumsum(0).dtype == tg.int64
        assert x.sum().item() == 2
        assert x.max().dtype == x.amin().dtype == dtype
        assert x.sum(dtype=tg.float32).dtype == tg.float32
        assert x.mean(dtype=tg.float64).item() == pytest.approx(2 / 3)
        for fn in (tg.mean, tg.std, tg.var, tg.norm, lambda x: x.softmax(0)):
            with pytest.raises(RuntimeError, match="floating-point"):
                fn(x)
        assert x.any().dtype == x.all(0).dtype == tg.bool
    assert tg.tensor([200, 100], dtype=tg.uint8).sum().item() == 300


@pytest.mark.parametrize(
    ("fn", "error", "match"),
    [
        (lambda x: x.sum(2), IndexError, r"dim 2 is out of range for a tensor of 2 dimensions; use -2 to 1"),
        (lambda x: x.sum((0, -2)), RuntimeError, "more than once"),
        (lambda x: x.sum(1.0), TypeError, "float"),
        (lambda x: x.mean(-3), IndexError, "dim -3"),
        (lambda x: x.softmax(5), IndexError, "softmax: dim 5"),
        (lambda x: x[:0].max(), RuntimeError, r"\(0, 3\)"),
        (lambda x: x[:0].max(0), IndexError, r"dimension 0 of shape \(0, 3\)"),
        (lambda x: x[:0].amax(0), IndexError, r"shape \(0, 3\)"),
        (lambda x: x[:0].argmax(), IndexError, r"\(0, 3\)"),
        (lambda x: x.norm("nuc"), ValueError, "'nuc'"),
        (lambda x: x.var(correction=1, unbiased=True), TypeError, "not both"),
        (lambda x: x.sum_to_size(2, 2), RuntimeError, r"\(2, 2\).*\(2, 3\)"),
        (lambda x: tg.sum(x.numpy()), TypeError, "Tensor, got ndarray"),
    ],
)
def test_errors(fn: Any, error: type[Exception], match: str) -> None:
    """Typed, with the numbers."""
    with pytest.raises(error, match=match):
        fn(tg.ones(2, 3))


def test_spellings_of_pytorch() -> None:
    """Positional and keyword arguments as PyTorch takes them."""
    x = tg.arange(6.0).reshape(2, 3)
    assert x.std(False).item() == x.std(correction=0).item() == x.std(unbiased=False).item()
    assert x.var(1, False).tolist() == x.var(dim=1, unbiased=False).tolist()
    assert x.sum(()).item() == x.sum(None).item() == x.sum(dim=(0, 1)).item() == 15
    assert x.max(dim=1, keepdim=True).indices.shape == (2, 1)
    assert tg.norm(x, p="fro").item() == x.norm().item()
    assert tg.softmax(x, dim=1, dtype=tg.float64).dtype == tg.float64


def test_second_order_through_softmax_and_norm() -> None:
    """A Hessian-vector product through a composed formula."""
    x = tg.from_numpy(np.random.default_rng(0).normal(size=(3, 4)))
    fn: Callable[[Any], Any] = lambda x: (x.softmax(1) * x.log_softmax(1)).sum(1).norm() + x.std(0).prod()
    gradcheck(fn, x)
    gradgradcheck(fn, x)


KEEPDIMS: dict[str, Any] = {"keepdims": True}
AXIS: dict[str, dict[str, Any]] = {  # what takes a dim, and its other arguments
    "sum": KEEPDIMS,
    "mean": KEEPDIMS,
    "var": KEEPDIMS,
    "std": KEEPDIMS,
    "prod": KEEPDIMS,
    "max": KEEPDIMS,
    "min": KEEPDIMS,
    "amax": KEEPDIMS,
    "amin": KEEPDIMS,
    "argmax": KEEPDIMS,
    "argmin": KEEPDIMS,
    "logsumexp": KEEPDIMS,
    "any": KEEPDIMS,
    "all": KEEPDIMS,
    "cumsum": {},
    "softmax": {},
    "log_softmax": {},
    "squeeze": {},
    "unsqueeze": {},
    "unbind": {},
    "sort": {},
    "argsort": {},
    "chunk": {"chunks": 2},
    "narrow": {"start": 0, "length": 2},
    "select": {"index": 1},
    "topk": {"k": 2},
    "gather": {"index": tg.tensor([[1, 0, 1]])},
    "take_along_dim": {"indices": tg.tensor([[1, 0, 1]])},
    "index_select": {"index": tg.tensor([1, 0])},
    "scatter_add": {"index": tg.tensor([[1, 0, 1]]), "src": tg.ones(1, 3)},
    "cat": {},
    "stack": {},
}


@pytest.mark.parametrize("name", AXIS)
def test_numpys_names_of_dim_and_keepdim(name: str) -> None:
    """Where PyTorch takes `axis` and `keepdims` too; one argument by both names is refused."""
    fn, others, x = getattr(tg, name), AXIS[name], tg.tensor([[3.0, 1.0, 2.0], [2.0, 2.0, 5.0]])
    x = [x, x] if name in ("cat", "stack") else x
    plain = {"keepdim": True} if others is KEEPDIMS else others
    assert str(fn(x, axis=-2, **others)) == str(fn(x, dim=-2, **plain))
    with pytest.raises(TypeError, match=rf"^{name}.*axis"):
        fn(x, dim=0, axis=0, **others)


@pytest.mark.parametrize(("p", "dim"), [(2.0, 1), (1, 0), (2, (0, 1)), (3.0, -1)])
def test_normalize(p: float, dim: Any) -> None:
    """Every vector has the p-norm 1; a vector of zeros stays one, and has PyTorch's gradient, 1 / eps."""
    normalize = tg.nn.functional.normalize
    x = np.random.default_rng(0).normal(size=(2, 3))
    expected = lambda x: x / (np.abs(x) ** p).sum(dim, keepdims=True) ** (1 / p)
    agree(lambda x: normalize(x, p, dim), expected, x)
    zero = tg.zeros(1, 3, requires_grad=True)
    normalize(zero, eps=0.125).sum().backward()
    assert zero.grad is not None and zero.grad.tolist() == [[8.0, 8.0, 8.0]]
