"""Elementwise kernels: values, special values, accuracy, memory order and thread counts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_cnn.kernels.cpu import elementwise

from . import naive_more as naive

erf, erfc = np.vectorize(math.erf, [float]), np.vectorize(math.erfc, [float])
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-40, 3e38, -3e38, 1.0, -1.0]


@st.composite
def arrays(draw: Any, shapes: Any = None) -> np.ndarray:
    """A size on both sides of the one from which the kernels work, special values among the rest."""
    some = [(), (0,), (3,), (2, 3, 2, 2), (4, 17, 7, 6), (5, 1, 40, 9), (37, 41)]
    shape = draw(st.sampled_from(some) if shapes is None else shapes)
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    x = rng.standard_normal(shape) * draw(st.sampled_from([0.01, 1, 20]))
    dtype = draw(st.sampled_from("fd"))
    if draw(st.booleans()) and x.size > 1:
        x.flat[:: max(1, x.size // 40)] = np.resize(SPECIAL, x.flat[:: max(1, x.size // 40)].shape)
    with np.errstate(over="ignore"):
        return naive.laid_out(x.astype(dtype), draw(st.sampled_from(naive.LAYOUTS)))


def sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def gelu(x: np.ndarray) -> np.ndarray:
    return np.where(np.isneginf(x), -0.0, 0.5 * np.maximum(x, -1e30) * erfc(-x * math.sqrt(0.5)))


FUNCTIONS = [
    (elementwise.relu, lambda x: np.where(x <= 0, 0, x), 0.0),
    (elementwise.exp, np.exp, 4.0),
    (elementwise.tanh, np.tanh, 4.0),
    (elementwise.sigmoid, sigmoid, 2.0),
    (elementwise.erf, erf, 2.0),
    (elementwise.gelu, gelu, 4.0),
    (lambda x: elementwise.leaky_relu(x, 0.25), lambda x: np.where(x > 0, x, 0.25 * x), 0.0),
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, in exp of large numbers
@pytest.mark.parametrize(("function", "exact", "bound"), FUNCTIONS, ids=lambda f: getattr(f, "__name__", None))
@given(x=arrays())
def test_values(function: Any, exact: Any, bound: float, x: np.ndarray) -> None:
    got = function(x)
    assert type(got) is np.ndarray
    assert (got.dtype, got.shape) == (x.dtype, x.shape)
    expected = exact(x.astype(float))
    overflow = np.isinf(expected.astype(x.dtype)) | np.isnan(expected)
    np.testing.assert_array_equal(got[overflow], expected.astype(x.dtype)[overflow])
    if x.dtype == np.float64:
        bound += 2  # the expected values have an error of their own
    normal = ~overflow & (np.abs(expected) > np.finfo(x.dtype).tiny)
    assert naive.ulps(got[normal], expected[normal]) <= bound
    assert (np.abs(got[~overflow & ~normal]) <= 2 * np.finfo(x.dtype).tiny).all()


@pytest.mark.parametrize("function", [elementwise.erf, elementwise.gelu, elementwise.sigmoid])
def test_float32_is_within_one_unit_everywhere(function: Any) -> None:
    x = np.concatenate([np.linspace(-13, 13, 100_001), np.geomspace(1e-30, 1, 2000)]).astype(np.float32)
    exact = {"erf": erf, "gelu": gelu, "sigmoid": sigmoid}[function.__name__]
    assert naive.ulps(function(x), exact(x.astype(float))) < 1


@given(st.data())
def test_relu_grad_passes_where_the_output_is_positive(data: Any) -> None:
    out = data.draw(arrays())
    g = naive.laid_out(np.random.default_rng(0).standard_normal(out.shape).astype(out.dtype), "channels_last")
    got = elementwise.relu_grad(g, out)
    np.testing.assert_array_equal(got, np.where(out <= 0, 0, g))
    mine = g.copy("K")
    again = elementwise.relu_grad(mine, out, own=True)
    np.testing.assert_array_equal(again, got)
    np.testing.assert_array_equal(again if again is mine else g, mine)
    assert again is mine or out.strides != g.strides
    slope = elementwise.leaky_relu_grad(g, out, 0.5)
    np.testing.assert_array_equal(slope, np.where(out > 0, g, g / 2))
    mask = naive.laid_out(g > 0.3, "reversed")
    np.testing.assert_array_equal(elementwise.where(mask, g, out), np.where(mask, g, out))


UFUNCS = [np.add, np.subtract, np.multiply, np.maximum, np.less, np.equal]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, for infinity minus infinity
@given(
    st.data(), st.sampled_from(UFUNCS), st.sampled_from(["same", "channel", "row", "scalar", "zero_d", "int", "double"])
)
def test_binary_is_numpys_ufunc(data: Any, ufunc: Any, kind: str) -> None:
    a = data.draw(arrays())
    rng = np.random.default_rng(0)
    b: Any = {
        "same": lambda: naive.laid_out(rng.standard_normal(a.shape).astype(a.dtype), "channels_last"),
        "channel": lambda: rng.standard_normal((*a.shape[1:2], *[1] * (a.ndim - 2))).astype(a.dtype),
        "row": lambda: rng.standard_normal((2, *a.shape[:1], *[1] * (a.ndim - 1))).astype(a.dtype),
        "scalar": lambda: 0.5,
        "zero_d": lambda: np.array(0.5, a.dtype),
        "int": lambda: np.full(a.shape, 3),
        "double": lambda: np.full(a.shape[-1:], 1 / 3),
    }[kind]()
    for pair in ((a, b), (b, a)):
        got, expected = elementwise.binary(ufunc, *pair), ufunc(*pair)
        assert type(got) is np.ndarray
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(arrays(st.sampled_from([(), (3,), (2, 3, 2, 2), (90, 32, 10, 10)])), st.sampled_from(naive.LAYOUTS))
def test_add_to(total: np.ndarray, layout: str) -> None:
    x = naive.laid_out(np.random.default_rng(0).standard_normal(total.shape).astype(total.dtype), layout)
    expected = total + x
    total = total if total.flags.writeable else total.copy("K")
    elementwise.add_to(total, x)
    np.testing.assert_array_equal(total, expected)


def test_large_arithmetic_runs_in_parallel() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 600, 1000)).astype(np.float32)
    for ufunc in (np.add, np.subtract, np.multiply):
        np.testing.assert_array_equal(elementwise.binary(ufunc, a, b), ufunc(a, b))


@pytest.mark.parametrize("ufunc", [np.exp, np.sqrt, np.negative, np.isnan])
def test_unary_is_numpys_ufunc(ufunc: Any) -> None:
    for x in (np.ones((4, 16, 9, 9), np.float32), np.ones(2000, np.int64), np.array(2.0)):
        got, expected = elementwise.unary(ufunc, x), ufunc(x)
        assert type(got) is np.ndarray
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


def test_outputs_keep_the_order_in_memory() -> None:
    x = naive.laid_out(np.ones((4, 16, 9, 9), np.float32), "channels_last")
    outputs = [
        elementwise.relu(x),
        elementwise.sigmoid(x),
        elementwise.unary(np.exp, x),
        elementwise.binary(np.add, x, x),
        elementwise.binary(np.add, x, np.ones((16, 1, 1), np.float32)),
        elementwise.binary(np.less, x, 2.0),
        elementwise.relu_grad(np.ascontiguousarray(x), x),
    ]
    for y in outputs:
        assert y.transpose(0, 2, 3, 1).flags.c_contiguous


@given(arrays())
def test_same_bits_on_any_threads(x: np.ndarray) -> None:
    def compute() -> list[np.ndarray]:
        return [
            *(f(x) for f in (elementwise.relu, elementwise.sigmoid, elementwise.erf, elementwise.gelu)),
            elementwise.relu_grad(x, x),
            elementwise.leaky_relu(x, 0.1),
            elementwise.where(x > 0, x, x),
        ]

    naive.same_bits_on_any_threads(compute)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_where_of_a_zero(dtype: type) -> None:
    """To the bit as NumPy, -0.0 and NaN as well, in the array's order of axes; on either side."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 9, 9, 20)).astype(dtype).transpose(0, 3, 1, 2)
    x[0, 0] = np.nan
    condition = rng.random(x.shape) < 0.5
    for a, b in [(x, 0.0), (x, -0.0), (0.0, x), (-0.0, x)]:
        got, expected = elementwise.where(condition, a, b), np.where(condition, a, b)
        assert got.dtype == dtype
        assert got.strides == x.strides
        assert got.tobytes() == expected.tobytes()
