"""Elementwise ops: values, gradients, promotion of dtypes, and what happens at kinks, ties, NaN and bad input."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_cnn as tg
from tinygrad_cnn import ops
from tinygrad_cnn.testing import gradcheck, gradgradcheck

# ------------------------------------------------------------------------------------- kinks, ties, NaN, limits


def grads(fn: Callable[..., Any], *values: Any) -> list[Any]:
    xs = [tg.tensor(v, dtype=tg.float64, requires_grad=True) for v in values]
    return [g.tolist() for g in tg.autograd.grad(fn(*xs).sum(), xs)]


@pytest.mark.parametrize(
    ("fn", "at", "gradient"),
    [
        (tg.relu, 0.0, 0.0),
        (tg.abs, 0.0, 0.0),
        (tg.sign, 0.0, 0.0),
        (ops.leaky_relu, 0.0, 0.01),
        (lambda x: ops.elu(x, 0.7), 0.0, 0.7),
        (lambda x: x.clamp(0, 1), 0.0, 1.0),
        (lambda x: x.clamp(0, 1), 1.0, 1.0),
        (ops.hardtanh, 1.0, 0.0),
        (lambda x: x**0, 0.0, 0.0),
        (lambda x: x**1, 0.0, 1.0),
        (lambda x: x**2, 0.0, 0.0),
    ],
)
def test_the_gradient_at_a_kink_is_pytorchs(fn: Any, at: float, gradient: float) -> None:
    """Where several gradients would do, the choice is fixed."""
    assert grads(fn, [at]) == [[gradient]]


def test_ties_share_the_gradient() -> None:
    """maximum and minimum of equal numbers give each half."""
    for fn in (tg.maximum, tg.minimum):
        assert grads(fn, [1.0, 2.0], [1.0, 2.0]) == [[0.5, 0.5], [0.5, 0.5]]


def test_zero_to_the_zero() -> None:
    """0 ** 0 is 1, and flat in both directions."""
    assert grads(lambda a, b: a**b, [0.0, 0.0, 2.0], [0.0, 2.0, 0.0]) == [[0.0, 0.0, 0.0], [0.0, 0.0, math.log(2)]]


def test_nan_survives() -> None:
    """NaN wins in maximum, minimum, clamp and relu, and passes its gradient through relu, as in PyTorch."""
    nan = tg.tensor([math.nan, 1.0])
    for fn in (tg.relu, lambda x: x.clamp(0, 1), lambda x: tg.maximum(x, tg.zeros(2)), tg.sign, ops.elu):
        assert math.isnan(fn(nan)[0].item())
    assert math.isnan(tg.minimum(tg.zeros(2), nan)[0].item())
    assert tg.isnan(nan).tolist() == [True, False]
    assert grads(tg.relu, [math.nan]) == [[1.0]]


def test_infinite_gradients_do_not_leak_through_a_zero() -> None:
    """The gradient of sign, and that of what was overwritten, is 0 and not inf * 0."""
    x = tg.tensor([1.0], requires_grad=True)
    x.sign().backward(tg.tensor([math.inf]))
    assert x.grad is not None
    assert x.grad.tolist() == [0.0]
    x.grad = None
    (x * 1).copy_(tg.tensor([2.0])).backward(tg.tensor([math.inf]))
    assert x.grad is None or x.grad.tolist() == [0.0]


def test_out_of_the_domain_is_inf_or_nan_without_a_warning() -> None:
    """As in PyTorch: no exception and no warning, forward and backward."""
    x = tg.tensor([0.0, -1.0, 4.0], requires_grad=True)
    assert x.log().tolist()[0] == -math.inf
    assert math.isnan(x.sqrt()[1].item())
    assert (1 / x)[0].item() == math.inf
    assert (x * 1e38 * 1e38).tolist()[1:] == [-math.inf, math.inf]
    for y in (x.log(), x.sqrt(), 1 / x, x**-1, x.exp() / x, x.rsqrt(), x % 0.0, x // 0.0):
        if y.requires_grad:
            y.sum().backward()


def test_extreme_arguments_of_the_activations() -> None:
    """No overflow in the tails."""
    x = tg.tensor([-1e4, -100.0, 100.0, 1e4])
    assert tg.sigmoid(x).tolist() == pytest.approx([0, 3.8e-44, 1, 1], abs=1e-44)
    assert ops.softplus(x).tolist() == pytest.approx([0, 3.8e-44, 100, 1e4], abs=1e-44)
    assert ops.silu(x).tolist() == pytest.approx([0, -3.8e-42, 100, 1e4], abs=1e-42)
    assert ops.elu(x).tolist() == [-1, -1, 100, 1e4]


@pytest.mark.parametrize("fn", [ops.silu, ops.gelu, lambda x: ops.gelu(x, "tanh"), ops.softplus, tg.sigmoid, tg.tanh])
@pytest.mark.parametrize("dtype", [tg.float32, tg.float64])
def test_activations_and_their_derivatives_reach_their_limits(fn: Any, dtype: Any) -> None:
    """From where on they are straight lines in the dtype: at infinity as at 1500, without inf * 0."""
    x = tg.tensor([-1500.0, -1e20, -math.inf, 1500.0, 1e20, math.inf], dtype=dtype, requires_grad=True)
    y = fn(x)
    (slope,) = tg.autograd.grad(y.sum(), x, create_graph=True)
    (bend,) = tg.autograd.grad(slope.sum(), x)
    low, high = y[0].item(), y[3].item()
    assert y.tolist()[:3] == [low] * 3
    assert y.tolist()[3:] == (x.tolist()[3:] if high == 1500 else [high] * 3)
    assert slope.tolist() == [0.0] * 3 + [float(high == 1500)] * 3
    assert bend.tolist() == [0.0] * 6


# ------------------------------------------------------------------------------------------------------- dtypes

DTYPES = {
    "b": tg.bool,
    "u": tg.uint8,
    "i": tg.int32,
    "l": tg.int64,
    "f": tg.float32,
    "d": tg.float64,
}

# result[row][column], as torch.result_type says it; rows and columns in the order b u i l f d
TENSORS = ["builfd", "uuilfd", "iiilfd", "llllfd", "fffffd", "dddddd"]
TENSOR_AND_0D = ["builfd", "uuuufd", "iiiifd", "llllfd", "ffffff", "dddddd"]
TENSOR_AND_PYTHON = {True: "builfd", 2: "luilfd", 2.5: "fffffd"}


@pytest.mark.parametrize("a", DTYPES)
@pytest.mark.parametrize("b", DTYPES)
def test_promotion(a: str, b: str) -> None:
    """Two tensors promote as PyTorch's do; a 0-d tensor only lifts the kind."""
    row, column = "builfd".index(a), "builfd".index(b)
    x, y, scalar = tg.ones(2, dtype=DTYPES[a]), tg.ones(2, dtype=DTYPES[b]), tg.ones((), dtype=DTYPES[b])
    assert (x * y).dtype == DTYPES[TENSORS[row][column]]
    assert (x * scalar).dtype == (scalar * x).dtype == DTYPES[TENSOR_AND_0D[row][column]]
    assert tg.where(tg.tensor([True, False]), x, y).dtype == (x * y).dtype
    assert tg.cat([x, y]).dtype == (x * y).dtype
    quotient = (x / y).dtype
    assert quotient == ((x * y).dtype if "f" in (a, b) or "d" in (a, b) else tg.float32)
    for compare in (operator.eq, operator.lt, operator.ge):
        assert compare(x, y).dtype == tg.bool


@pytest.mark.parametrize("number", TENSOR_AND_PYTHON)
@pytest.mark.parametrize("a", DTYPES)
def test_python_numbers_are_weak(number: Any, a: str) -> None:
    """They lift the kind of a tensor (bool < integer < float) but never widen it."""
    x = tg.ones(2, dtype=DTYPES[a])
    expected = DTYPES[TENSOR_AND_PYTHON[number]["builfd".index(a)]]
    assert (x * number).dtype == (number * x).dtype == (x + number).dtype == expected
    assert tg.maximum(x, tg.tensor(number)).dtype == expected


def test_numpy_numbers_are_weak_too() -> None:
    """A stray np.float64 does not make a float32 tensor double."""
    assert (tg.ones(2) * np.float64(2)).dtype == tg.float32
    assert (np.float64(2) * tg.ones(2)).dtype == tg.float32


@pytest.mark.parametrize("fn", [tg.exp, tg.log, tg.sqrt, tg.tanh, tg.sigmoid, tg.erf, tg.reciprocal, tg.sin])
def test_functions_of_integers_are_float32(fn: Any) -> None:
    """Integers and bools have no other answer."""
    for dtype in (tg.bool, tg.uint8, tg.int32, tg.int64):
        assert fn(tg.ones(2, dtype=dtype)).dtype == tg.float32


def test_integers_stay_integers_where_they_can() -> None:
    """abs, neg, relu, clamp, sign, square and integer powers keep the dtype; a float limit lifts it."""
    x = tg.tensor([-2, 3], dtype=tg.int32)
    for fn in (
        abs,
        operator.neg,
        tg.relu,
        tg.sign,
        tg.floor,
        tg.ceil,
        tg.round,
        tg.square,
        lambda x: x.clamp(0, 2),
        lambda x: x**2,
    ):
        assert fn(x).dtype == tg.int32
    assert x.clamp(0.5).dtype == tg.float32
    assert (x // 2).tolist() == [-1, 1]
    assert (x % 2).tolist() == [0, 1]


def test_bits() -> None:
    """& | ^ ~ work on the bits of integers, and as logic on bools."""
    a, b = tg.tensor([6, 1]), tg.tensor([3, 1])
    assert [(a & b).tolist(), (a | b).tolist(), (a ^ b).tolist(), (~a).tolist()] == [
        [2, 1],
        [7, 1],
        [5, 0],
        [-7, -2],
    ]
    yes = tg.tensor([True, False])
    assert (~yes).tolist() == [False, True]
    assert (yes & True).dtype == tg.bool
    assert (True & yes).tolist() == [True, False]
    assert tg.logical_and(a, b).dtype == tg.bool
    assert tg.logical_not(a).tolist() == [False, False]
    assert tg.logical_xor(a, tg.tensor([0, 1])).tolist() == [True, False]


def test_casts_have_gradients() -> None:
    """The gradient comes back in the dtype of the tensor."""
    x = tg.ones(2, requires_grad=True)
    (x.double() * 3).sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == tg.float32
    assert x.grad.tolist() == [3, 3]
    assert tg.tensor([1.7, -1.7]).long().tolist() == [1, -1]
    assert tg.tensor([0.0, 2.0]).bool().tolist() == [False, True]


def test_rounding() -> None:
    """Of two nearest numbers the even one, at a given decimal too; the gradient is 0 and not inf * 0."""
    x = tg.tensor([0.5, 1.5, -2.5, -0.25], dtype=tg.float64, requires_grad=True)
    assert x.round().tolist() == [0.0, 2.0, -2.0, -0.0] and tg.round(x, decimals=1).tolist() == [0.5, 1.5, -2.5, -0.2]
    assert x.floor().tolist() == [0.0, 1.0, -3.0, -1.0] and x.ceil().tolist() == [1.0, 2.0, -2.0, -0.0]
    for fn in (tg.floor, tg.ceil, tg.round):
        (g,) = tg.autograd.grad(fn(x), x, tg.tensor([math.inf] * 4, dtype=tg.float64))
        assert g.tolist() == [0.0] * 4


# ----------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "floor_divide", "pow", "maximum", "eq", "logical_and"])
def test_shapes_that_do_not_broadcast(name: str) -> None:
    """PyTorch's kind of error, with the op and all shapes, whatever NumPy raises."""
    with pytest.raises(RuntimeError, match=rf"^{name}: shapes \(2, 3\) and \(2,\) do not broadcast"):
        getattr(tg, name)(tg.ones(2, 3), tg.ones(2))
    with pytest.raises(RuntimeError, match=r"\(2,\) and \(3,\) and \(2,\)"):
        tg.where(tg.ones(2) > 0, tg.ones(3), tg.ones(2))


@pytest.mark.parametrize("other", ["a", None, [1.0], object()])
def test_what_is_no_number_is_refused(other: Any) -> None:
    """A TypeError, from either side."""
    with pytest.raises(TypeError):
        tg.ones(1) + other
    with pytest.raises(TypeError):
        other * tg.ones(1)


def test_integer_division_by_zero() -> None:
    """Floats give inf or NaN; integers have neither and raise."""
    for fn in (operator.floordiv, operator.mod):
        with pytest.raises(RuntimeError, match="divided by 0"):
            fn(tg.tensor([1, 2]), tg.tensor([1, 0]))
        with pytest.raises(RuntimeError, match="divided by 0"):
            fn(tg.tensor([1, 2]), 0)
        with pytest.raises(RuntimeError, match="bool"):
            fn(tg.tensor([True]), tg.tensor([True]))
    with pytest.raises(RuntimeError, match="bool"):
        tg.tensor([True]) ** tg.tensor([True])


def test_arguments_that_mean_nothing() -> None:
    """clamp without a limit, gelu with an unknown formula."""
    with pytest.raises(ValueError, match="min, max or both"):
        tg.ones(1).clamp()
    with pytest.raises(ValueError, match="'exact'"):
        ops.gelu(tg.ones(1), approximate="exact")


def test_arrays_on_the_left_become_tensors() -> None:
    """ndarray * tensor is a tensor with a history, not an array of objects."""
    x = tg.ones(2, requires_grad=True)
    for y in (np.full(2, 3, np.float32) * x, np.full(2, 3, np.float32) @ x, np.float32(3) - x):
        assert isinstance(y, tg.Tensor)
        assert y.requires_grad


def test_a_chain_of_everything_twice_differentiable() -> None:
    """Formulas compose: a function through most ops passes both checks."""

    def fn(x: Any, y: Any) -> Any:
        z = tg.tanh(x * y) + tg.exp(-x.square()) / (1 + y.abs())
        return tg.where(z.detach() > 0.5, (1 + z * z).sqrt(), z**3) * tg.sigmoid(tg.maximum(x, y)) - tg.log1p(
            y.square()
        )

    x, y = (tg.from_numpy(np.random.default_rng(i).normal(size=(3, 4))) for i in range(2))
    gradcheck(fn, [x, y])
    gradgradcheck(fn, [x, y])


def test_inputs_can_be_given_by_name() -> None:
    """Values and gradients are those of the call by position."""
    a = tg.tensor([1.0, -2.0, 3.0], requires_grad=True)
    b = tg.tensor([2.0, -1.0, 1.0], requires_grad=True)
    calls: list[tuple[Callable[..., Any], dict[str, Any]]] = [
        (tg.maximum, {"input": a, "other": b}),
        (tg.mul, {"input": a, "other": b}),
        (tg.div, {"other": b, "input": a}),
        (tg.where, {"condition": a > 0, "input": a, "other": b}),
        (tg.where, {"condition": a > 0, "input": a, "other": 2.0}),
        (tg.exp, {"input": a}),
    ]
    for fn, named in calls:
        order = [named[name] for name in ("condition", "input", "other") if name in named]
        by_name, by_place = fn(**named), fn(*order)
        assert by_name.tolist() == by_place.tolist()
        assert tg.autograd.grad(by_name.sum(), a)[0].tolist() == tg.autograd.grad(by_place.sum(), a)[0].tolist()
    assert a.maximum(other=b).tolist() == [2, -1, 3]


@pytest.mark.parametrize("number", [np.float16(2), np.float64(2), np.int16(2), np.uint8(2), np.bool_(True)], ids=repr)
@pytest.mark.parametrize("dtype", [tg.float32, tg.int64, tg.uint8, tg.bool], ids=str)
def test_numpy_numbers_are_as_weak_as_python_numbers(number: Any, dtype: Any) -> None:
    """No dtype that tensors do not have comes out of them."""
    x = tg.ones(3, dtype=dtype)
    assert (x * number).dtype == (number * x).dtype == (x * number.item()).dtype
    assert (x + number).tolist() == (x + number.item()).tolist()


@pytest.mark.parametrize("array", [np.ones(3, np.complex64), np.array(["x"] * 3), np.ones(3, np.float16)], ids=repr)
def test_arrays_of_other_dtypes_are_refused(array: Any) -> None:
    """A tensor of a dtype outside of the six would fail in a kernel."""
    for fn in (tg.mul, tg.maximum, tg.eq):
        with pytest.raises(TypeError, match=f"{array.dtype}"):
            fn(tg.ones(3, dtype=tg.int64), array)


@pytest.mark.parametrize("value", [1.0, "x", None, [1.0]], ids=repr)
def test_what_is_no_tensor_is_named(value: Any) -> None:
    """A TypeError with the op, not an AttributeError from inside."""
    for fn in (tg.exp, tg.relu, tg.neg, tg.sigmoid, lambda x: tg.pow(2, x)):
        with pytest.raises(TypeError, match=f"got {type(value).__name__}"):
            fn(value)


def test_leaky_relu_and_where_refuse_what_would_give_wrong_numbers() -> None:
    """An integer slope of 0, and numbers or strings as a condition."""
    i = tg.arange(-2, 3)
    with pytest.raises(TypeError, match=r"int64; use .float\(\)"):
        tg.nn.functional.leaky_relu(i, 0.5)
    conditions: list[Any] = [i, "x", 1.0]
    for condition in conditions:
        with pytest.raises(TypeError, match="where expects a bool tensor as condition, got"):
            tg.where(condition, i, 0)
    assert tg.where(i > 0, i, 0).tolist() == [0, 0, 0, 1, 2]
