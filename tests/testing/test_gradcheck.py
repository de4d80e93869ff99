"""The checker is checked: it must refuse wrong gradients, however small, and accept right ones."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_cnn as tg
from tinygrad_cnn import ops
from tinygrad_cnn.autograd import Function
from tinygrad_cnn.kernels import reference
from tinygrad_cnn.kernels.spec import Conv2dSpec
from tinygrad_cnn.testing import GradcheckError, GradReport, adjoint_check, gradcheck, gradgradcheck


def randn(*shape: int, seed: int = 0) -> Any:
    return tg.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def found(*args: Any, check: Callable[..., GradReport] = gradcheck, **options: Any) -> GradReport:
    return check(*args, raise_exception=False, **options)


def scaled(factor: float) -> Callable[[Any], Any]:
    """x -> x * x with a gradient that is wrong by the factor."""

    class Square(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (x,) = ctx.saved_tensors
            return g * x * (2 * factor)

    return Square.apply


# ---------------------------------------------------------------------------------------- five planted bugs


def _flipped(dx: np.ndarray, dw: np.ndarray, w: np.ndarray, wrong_dx: Callable[..., Any]) -> tuple[Any, Any]:
    return wrong_dx(w[:, :, ::-1, ::-1]), dw


def _dead_tap(dx: np.ndarray, dw: np.ndarray, *_: Any) -> tuple[Any, Any]:
    dw[:, :, 0, -1] = 0
    return dx, dw


def _dead_corner(dx: np.ndarray, dw: np.ndarray, *_: Any) -> tuple[Any, Any]:
    dx[0, 0, 0, 0] = 0
    return dx, dw


def _large_dx(dx: np.ndarray, dw: np.ndarray, *_: Any) -> tuple[Any, Any]:
    return dx * 1.002, dw


def _large_dw(dx: np.ndarray, dw: np.ndarray, *_: Any) -> tuple[Any, Any]:
    return dx, dw * 1.0001


def _buggy_conv(bug: Callable[..., Any] | None, spec: Conv2dSpec) -> Callable[..., Any]:
    """The reference convolution as a Function, with a bug in its backward."""

    class Conv(Function):
        @staticmethod
        def forward(ctx: Any, x: Any, w: Any) -> Any:
            ctx.save_for_backward(x, w)
            return tg.from_numpy(reference.conv2d(x.detach().numpy(), w.detach().numpy(), None, spec))

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            x, w = (saved.numpy() for saved in ctx.saved_tensors)
            dx = functools.partial(reference.conv2d_input_grad, g.numpy(), input_hw=x.shape[2:], spec=spec)
            grads = np.array(dx(w)), reference.conv2d_weight_grad(x, g.numpy(), w.shape[2:], spec)
            grads = bug(*grads, w, dx) if bug else grads
            return tuple(tg.from_numpy(np.ascontiguousarray(grad)) for grad in grads)

    return Conv.apply


def _conv_examples(count: int) -> Iterator[tuple[Conv2dSpec, list[Any]]]:
    rng = np.random.default_rng(5)
    for _ in range(count):
        n, c, o, h, w = rng.integers(1, 4), *rng.integers(1, 4, 2), *rng.integers(4, 8, 2)
        k = rng.integers(2, 4, 2)
        x = rng.integers(-32, 33, (n, c, h, w)) / 16 + 1 / 32
        weight = rng.integers(-32, 33, (o, c, *k)) / 16 + 1 / 32
        weight[:, 0, 0, 0] = 3.0  # a symmetric kernel would hide that it is not flipped
        spec = Conv2dSpec(padding=tuple(int(p) for p in rng.integers(0, 2, 4)))
        yield spec, [tg.from_numpy(x), tg.from_numpy(weight)]


@pytest.mark.parametrize(
    ("bug", "wrong"), [(_flipped, 0), (_dead_tap, 1), (_dead_corner, 0), (_large_dx, 0), (_large_dw, 1)]
)
def test_each_planted_bug_is_caught_by_every_single_example(bug: Callable[..., Any], wrong: int) -> None:
    for seed, (spec, inputs) in enumerate(_conv_examples(200)):
        report = found(_buggy_conv(bug, spec), inputs, degree=2, projections=1, seed=seed, invariants=False)
        assert report.status == "failed"
        assert report.input == wrong


def test_the_same_convolution_without_a_bug_passes() -> None:
    for seed, (spec, inputs) in enumerate(_conv_examples(40)):
        assert gradcheck(_buggy_conv(None, spec), inputs, degree=2, seed=seed)


# --------------------------------------------------------------------------------------------- false alarms


def _softmax(x: Any) -> Any:
    e = (x - x.detach().amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


CORRECT: list[tuple[Callable[..., Any], int, int | None]] = [  # function, inputs, degree
    (lambda a, b: a * b + a, 2, 2),
    (lambda a, b: a @ b.mT, 2, 2),
    (lambda a: a.flip(0).cumsum(-1), 1, 1),
    (lambda a: (a * a).sum(), 1, 2),
    (lambda a: a[..., ::2] - a[..., :1], 1, 1),
    (lambda a, b: a / (b * b + 1), 2, None),
    (lambda a: a.exp(), 1, None),
    (lambda a: (a * a + 0.5).log(), 1, None),
    (lambda a: a.tanh() * a.sigmoid(), 1, None),
    (lambda a: a.sin() * a.cos(), 1, None),
    (lambda a: ops.gelu(a), 1, None),
    (lambda a: ops.silu(a) + ops.softplus(a), 1, None),
    (_softmax, 1, None),
    (lambda a: a.logsumexp(-1), 1, None),
    (lambda a: (a * a + 1) ** 1.5, 1, None),
    (lambda a: a.relu(), 1, None),  # kinks from here on
    (lambda a: a.abs() * 3, 1, None),
    (lambda a: ops.elu(a), 1, None),
    (lambda a: ops.leaky_relu(a, 0.25), 1, None),
    (lambda a: a.clamp(-0.5, 1.0), 1, None),
    (lambda a, b: a.maximum(b), 2, None),
    (lambda a, b: a.minimum(b) * a, 2, None),
    (lambda a: a.amax(-1), 1, None),
    (lambda a: a.max(-1), 1, None),
    (lambda a: a.relu() @ a.abs().mT, 1, None),
]


def _false_alarms(count: int) -> int:
    """How many of `count` checks of correct functions fail; every second one lies on kinks and ties."""
    rng = np.random.default_rng(11)
    failures = 0
    for i in range(count):
        fn, arity, degree = CORRECT[i % len(CORRECT)]
        shape = tuple(int(n) for n in rng.integers(1, 4, 2))
        values = rng.integers(-2, 3, (arity, *shape)) / 2 if i % 2 else rng.standard_normal((arity, *shape))
        inputs = [tg.from_numpy(x) for x in values]
        report = found(fn, inputs, degree=degree, seed=i, invariants=i % 5 == 0)
        failures += report.status == "failed"
        if report.status == "failed":
            print(report)
    return failures


def test_a_thousand_checks_of_correct_functions_raise_no_alarm() -> None:
    assert _false_alarms(1000) == 0


@pytest.mark.slow
def test_ten_thousand_checks_of_correct_functions_raise_no_alarm() -> None:
    assert _false_alarms(10_000) == 0


def test_a_slope_of_zero_among_higher_powers_is_settled() -> None:
    zero = tg.zeros(3, dtype=tg.float64)
    for power in (2, 3, 4, 5, 7):
        assert gradcheck(lambda x, power=power: x**power, zero)
        assert gradgradcheck(lambda x, power=power: x**power, zero)
        assert found(lambda x, power=power: x.detach() ** power + (x - x.detach()) * 1e-3, zero).status == "failed"


def test_correct_functions_are_hardly_ever_inconclusive() -> None:
    reports = [found(fn, [randn(3, 4, seed=i) for i in range(n)], degree=d) for fn, n, d in CORRECT]
    assert [r.status for r in reports] == ["passed"] * len(CORRECT)


# ------------------------------------------------------------------------------------- how much is too much


@pytest.mark.parametrize("error", [1e-8, 1e-6, 1e-3, 2.0, -1.0])
def test_an_error_of_a_hundred_millionth_is_seen_in_a_polynomial(error: float) -> None:
    assert found(scaled(1 + error), randn(4, 5), degree=2).status == "failed"


@pytest.mark.parametrize("error", [1e-5, 1e-3, 2.0])
def test_an_error_of_a_hundred_thousandth_is_seen_in_any_function(error: float) -> None:
    assert found(lambda x: scaled(1 + error)(x).sin(), randn(4, 5)).status == "failed"


def test_a_gradient_that_is_missing_fails() -> None:
    report = found(lambda x, y: x * y.detach(), [randn(3), randn(3, seed=1)], degree=2)
    assert (report.status, report.input, report.analytic) == ("failed", 1, 0.0)


def test_a_function_cut_off_from_the_tape_fails() -> None:
    assert found(lambda x: x.detach() * 2, randn(3), degree=1).status == "failed"


def test_a_nan_gradient_fails() -> None:
    class Root(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * float("nan")

    assert found(Root.apply, randn(3), degree=1).status == "failed"


def test_a_large_step_of_a_wrong_degree_is_noticed() -> None:
    assert found(lambda x: x * x * x, randn(3), degree=2).status == "failed"


# ----------------------------------------------------------------------------------------------- the report


def test_the_report_names_the_one_wrong_element() -> None:
    class Dead(Function):
        @staticmethod
        def forward(ctx: Any, x: Any, y: Any) -> Any:
            ctx.save_for_backward(x, y)
            return x * y

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            x, y = ctx.saved_tensors
            dy = (g * x).numpy().copy()
            dy[2, 0, 3] *= 1.5
            return g * y, tg.from_numpy(dy)

    x, y = randn(3, 2, 5), randn(3, 2, 5, seed=1)
    report = found(Dead.apply, [x, y], degree=2)
    assert (report.input, report.index) == (1, (2, 0, 3))
    assert report.analytic == pytest.approx(1.5 * report.numeric)
    report = found(Dead.apply, [x, y], degree=2, full=True)
    assert (report.input, report.index, report.output) == (1, (2, 0, 3), (2, 0, 3))
    assert report.numeric == pytest.approx(x.numpy()[2, 0, 3])
    text = str(report)
    for part in (
        "Dead",
        "input 1",
        "[2, 0, 3]",
        "analytic",
        "numeric",
        "tolerances",
        "float64 (3, 2, 5)",
        "seed 0",
    ):
        assert part in text


def test_an_error_spread_over_many_elements_is_reported_as_such() -> None:
    report = found(scaled(1 + 3e-9), tg.ones(4096, dtype=tg.float64), degree=2)
    assert report.status == "failed"


def _wrong(x: Any, power: int = 2) -> Any:
    return x.detach() * x if power == 2 else x


FACTOR = 3.0


class WrongSquare(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g


def _reproducible_cases() -> list[Any]:
    local = 2.0

    def inner(x: Any) -> Any:
        return _wrong(x) * local * FACTOR

    return [
        _wrong,
        lambda x: x.detach() * x * FACTOR,
        inner,
        functools.partial(_wrong, power=2),
        WrongSquare.apply,
        lambda x, power=2: _wrong(x, power),
        [lambda x: x, lambda x: _wrong(x) * 3.0, lambda x: _wrong(x) * 4.0][2],
    ]


@pytest.mark.parametrize("case", range(7))
@pytest.mark.parametrize("n", [3, 200])
def test_the_reproducer_fails_again_when_pasted(
    case: int, n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where large inputs are written
    report = found(_reproducible_cases()[case], randn(n), degree=2, seed=3)
    assert report.reproducer.count("gradcheck(fn, inputs, degree=2, seed=3)") == 1
    with pytest.raises(GradcheckError) as error:
        exec(report.reproducer, {})
    again = error.value.report
    assert (again.input, again.index, again.analytic) == (report.input, report.index, report.analytic)


# ---------------------------------------------------------------------------------------------------- kinks


class Slope(Function):
    """relu with any value for its slope at 0."""

    @staticmethod
    def forward(ctx: Any, x: Any, at_zero: float) -> Any:
        ctx.save_for_backward(x)
        ctx.at_zero = at_zero
        return x.relu()

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x = ctx.saved_tensors[0].numpy()
        return g * tg.from_numpy(np.where(x > 0, 1.0, np.where(x == 0, ctx.at_zero, 0.0))), None


@pytest.mark.parametrize("at_zero", [0.0, 0.5, 1.0])
def test_any_subgradient_passes_at_a_kink(at_zero: float) -> None:
    x = tg.tensor([-1.0, 0.0, 2.0, 0.0], dtype=tg.float64)
    assert gradcheck(lambda x: Slope.apply(x, at_zero), x)
    assert gradcheck(lambda x: Slope.apply(x, at_zero).sum(), x)
    assert gradcheck(lambda x: Slope.apply(x, at_zero), x, full=True)


@pytest.mark.parametrize("at_zero", [-0.01, 1.01])
def test_what_lies_outside_the_one_sided_derivatives_fails(at_zero: float) -> None:
    x = tg.tensor([-1.0, 0.0, 2.0, 0.0, 3.0], dtype=tg.float64)
    for fn in (lambda x: Slope.apply(x, at_zero), lambda x: Slope.apply(x, at_zero).sum()):
        report = found(fn, x)
        assert (report.status, report.index) == ("failed", (1,))
        assert isinstance(report.numeric, tuple)


def test_a_kink_does_not_hide_a_wrong_element_beside_it() -> None:
    x = tg.tensor([0.0, 1.0, 0.0, 2.0, 0.0], dtype=tg.float64)
    for fn in (lambda x: x.relu() * x.detach(), lambda x: (x.relu() * x.detach()).sum()):
        report = found(fn, x)
        assert (report.status, report.index in [(1,), (3,)]) == ("failed", True)


def test_kinks_can_be_rejected_or_refused() -> None:
    x = tg.tensor([1.0, 0.0], dtype=tg.float64)
    assert found(ops.relu, x, kinks="reject").status == "inconclusive"
    report = found(ops.relu, x, kinks="fail")
    assert report.status == "failed"
    assert "kink" in report.reason
    assert gradcheck(ops.relu, x + 1, kinks="fail")


def test_the_full_gradient_for_every_tied_maximum_fails() -> None:
    class Max(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x.amax(1)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            x = ctx.saved_tensors[0].numpy()
            return tg.from_numpy((x == x.max(1, keepdims=True)) * g.numpy()[:, None])

    # no single element moves the maximum down: only all tied ones together show the fault
    assert found(Max.apply, tg.ones(2, 3, dtype=tg.float64)).status == "failed"
    assert gradcheck(Max.apply, randn(2, 3))


def test_a_step_across_a_kink_is_made_smaller() -> None:
    near = tg.tensor([1e-3, -1e-3, 1e-4], dtype=tg.float64)
    assert gradcheck(ops.relu, near)
    assert gradcheck(lambda x: x.log(), near.abs())


def test_where_there_is_no_derivative_the_point_is_inconclusive() -> None:
    zero = tg.zeros(2, dtype=tg.float64)
    assert found(lambda x: x.sign() + x * 0.0, zero).status == "inconclusive"  # a jump
    assert found(lambda x: x * float("nan"), zero).status in ("inconclusive", "failed")
    assert not found(lambda x: x.sign() + x * 0.0, zero)


# ------------------------------------------------------------------------------------- more than one output


def test_several_outputs_integers_among_them() -> None:
    assert gradcheck(lambda x, y: (x * y, x.argmax(), y + x), [randn(4), randn(4, seed=1)], degree=2)
    assert found(lambda x: (x * 2, x.detach() * 3), randn(4), degree=1).status == "failed"


def test_other_inputs_pass_through() -> None:
    index = tg.tensor([2, 0, 0])
    assert gradcheck(lambda x, i, n: x.index_select(0, i) * n, [randn(3, 2), index, 5], degree=1)


def test_wrt_limits_the_check() -> None:
    fn = lambda x, y: x * y.detach()
    assert gradcheck(fn, [randn(3), randn(3, seed=1)], wrt=0, degree=2)
    assert found(fn, [randn(3), randn(3, seed=1)], wrt=[1], degree=2).status == "failed"


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1, 1, 1)])
def test_scalars_and_empty_tensors(shape: tuple[int, ...]) -> None:
    x = tg.full(shape, 0.5, dtype=tg.float64)
    assert gradcheck(lambda x: x * x, x, degree=2)
    assert gradcheck(lambda x: x.exp(), x, full=True)
    assert gradgradcheck(lambda x: x.exp(), x)


def test_the_cost_is_a_few_calls_whatever_the_size() -> None:
    calls = []

    def fn(x: Any) -> Any:
        calls.append(x.numel())
        return x * x

    counts = []
    for n in (2, 50_000):
        calls.clear()
        gradcheck(fn, randn(n), degree=2, invariants=False)
        counts.append(len(calls))
    assert counts[0] == counts[1] <= 6


# --------------------------------------------------------------------------------------------- second order


def test_second_gradients_of_correct_functions_pass() -> None:
    for fn, arity, degree in CORRECT[:15]:
        assert gradgradcheck(fn, [randn(2, 3, seed=i) for i in range(arity)], degree=degree, invariants=True)


def test_a_backward_that_is_right_but_not_differentiable_fails() -> None:
    class Cube(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * x * x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (x,) = ctx.saved_tensors
            return g * (x * x * 3.0).detach()

    assert gradcheck(Cube.apply, randn(3))
    report = found(Cube.apply, randn(3), check=gradgradcheck)
    assert (report.status, report.input) == ("failed", 0)
    with pytest.raises(GradcheckError):
        exec(report.reproducer.replace("fn = ...", "fn = Cube.apply"), {"Cube": Cube})


def test_grad_outputs_may_be_given() -> None:
    x, v = randn(3), tg.tensor([1.0, 0.0, -2.0], dtype=tg.float64)
    assert gradgradcheck(lambda x: x.exp(), x, v)
    with pytest.raises(ValueError, match="2 grad_outputs for 1 output"):
        gradgradcheck(lambda x: x.exp(), x, [v, v])


# -------------------------------------------------------------------------------------------------- float32


def test_float32_is_compared_with_float64_when_asked_for() -> None:
    x = randn(5, 4).float()
    assert gradcheck(lambda x: x.exp() * x, x, rtol=1e-5)

    class Sloppy(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (x,) = ctx.saved_tensors
            return g * x * (2.0 if x.dtype == tg.float64 else 2.001)

    report = found(Sloppy.apply, x, degree=2, rtol=1e-5)
    assert report.status == "failed"
    assert "float32 gradient of input 0" in report.reason


def test_a_float32_gradient_whose_terms_cancel_may_round() -> None:
    """It is 1 - 1 in exact numbers, with the rounding of 1 in float32."""
    x = tg.full((2,), 1.0, requires_grad=True)
    assert gradcheck(lambda x: x / 3 * 3 - x, x, rtol=1e-6)
    assert not gradcheck(lambda x: x / 3 * 3 - x + 1e-4 * x.detach() * x, x.detach(), rtol=1e-6, raise_exception=False)


# ------------------------------------------------------------------------------------------------ wrong use


def _noise(x: Any) -> Any:
    return x * float(np.random.default_rng().standard_normal())


@pytest.mark.parametrize(
    ("fn", "inputs", "options", "error", "message"),
    [
        (ops.neg, tg.tensor([1, 2]), {}, TypeError, "at least one floating-point Tensor input, got int64"),
        (ops.neg, np.ones((3, 4)), {}, TypeError, r"got ndarray float64 \(3, 4\); use tg\.from_numpy\(\)"),
        (ops.mul, [randn(2), tg.tensor([1, 2])], {"wrt": 1}, TypeError, "input 1 is int64"),
        (ops.neg, randn(2), {"wrt": 1}, IndexError, "input 1 of 1"),
        (ops.neg, randn(2).float(), {}, TypeError, r"use \.double\(\)"),
        (lambda x: x.float(), randn(2), {}, TypeError, "returned float32 from float64"),
        (lambda x: 3.0, randn(2), {}, TypeError, "must return a Tensor or a tuple of Tensors, got float"),
        (lambda x: (x, None), randn(2), {}, TypeError, "got NoneType"),
        (lambda x: x.argmax(), randn(2), {}, TypeError, "no floating-point"),
        (_noise, randn(2), {}, ValueError, "not deterministic"),
        (ops.neg, randn(2), {"kinks": "skip"}, ValueError, "kinks must be one of"),
        (ops.neg, randn(2), {"degree": 3}, ValueError, "degree must be"),
        (ops.neg, [], {}, TypeError, "got none"),
    ],
)
def test_wrong_use_is_told(fn: Any, inputs: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        gradcheck(fn, inputs, **options)


# ----------------------------------------------------------------------------------------------- invariants


def _custom(forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Any]:
    """A Function of one input that works on arrays."""

    class Custom(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.x = x.detach().numpy()
            ctx.out = forward(ctx.x)
            return tg.from_numpy(ctx.out)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return tg.from_numpy(backward(g.numpy(), ctx))

    return Custom.apply


def _spoil(x: np.ndarray) -> np.ndarray:
    x += 1
    return x * 2


def _overwrite(array: np.ndarray, value: float) -> np.ndarray:
    array[...] = value
    return array


_calls = 0


def _sometimes(g: np.ndarray, ctx: Any) -> np.ndarray:
    global _calls
    _calls += 1
    return 2 * g * (1 + 1e-15 * (_calls % 3))


def _threads(x: np.ndarray) -> np.ndarray:
    return 2 * x * (1 + 1e-15 * tg.get_num_threads())


BROKEN: list[tuple[str, Callable[..., Any]]] = [
    ("forward changes input 0", _custom(_spoil, lambda g, ctx: 2 * g)),
    ("backward changes input 0", _custom(lambda x: 2 * x, lambda g, ctx: 2 * g + 0 * _overwrite(ctx.x, 1.0))),
    (
        "backward changes output 0",
        _custom(lambda x: 2 * x, lambda g, ctx: 2 * g + 0 * _overwrite(ctx.out, 1.0)),
    ),
    ("memory of input 0", _custom(lambda x: x.T.T, lambda g, ctx: 1 * g)),
    ("gives other bits", _custom(lambda x: 2 * x, _sometimes)),
    ("not linear", _custom(lambda x: 2 * x, lambda g, ctx: 2 * g + 1e-12 * g * g)),
    ("zero cotangent", _custom(lambda x: 2 * x, lambda g, ctx: 2 * g + 1e-12 * (g == 0))),
    ("layout", _custom(lambda x: 2 * x, lambda g, ctx: 2 * g * (1 + ctx.x.flags.f_contiguous * 1e-3))),
    ("threads give other bits", _custom(_threads, lambda g, ctx: 2 * g)),
]


@pytest.mark.parametrize(("words", "fn"), BROKEN, ids=[words for words, _ in BROKEN])
def test_each_broken_invariant_is_named(words: str, fn: Callable[..., Any]) -> None:
    x = tg.from_numpy(np.arange(1.0, 7.0).reshape(2, 3))
    report = found(fn, x, degree=1)
    assert report.status == "failed"
    assert words in report.reason


def test_a_gradient_that_depends_on_who_else_needs_one_fails() -> None:
    class Shy(Function):
        @staticmethod
        def forward(ctx: Any, x: Any, y: Any) -> Any:
            return x + y

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * (1.0 if ctx.needs_input_grad[1] else 1.001), g

    report = found(Shy.apply, [randn(3), randn(4, 3)[0]], degree=1)
    assert "only inputs [0] require grad" in report.reason


# ------------------------------------------------------------------------------------------------- adjoints


@pytest.mark.parametrize("dtype", [tg.float64, tg.float32])
def test_linear_functions_pass_the_adjoint_check(dtype: Any) -> None:
    x = randn(6, 4).to(dtype)
    for fn in (lambda x: x.flip(0).cumsum(1), lambda x: x[::2] * 3 - 1, lambda x: x.detach() * 0.0):
        assert adjoint_check(fn, x)
    assert adjoint_check(lambda w, x: w @ x, [randn(3, 6).to(dtype), x], wrt=1)


def test_what_is_not_the_adjoint_or_not_linear_fails_it() -> None:
    assert "not linear" in found(lambda x: x * x, randn(3), check=adjoint_check).reason
    report = found(lambda x: x + x.detach(), randn(3), check=adjoint_check)
    assert "not the adjoint" in report.reason
    with pytest.raises(GradcheckError):
        exec(report.reproducer, {})
    with pytest.raises(TypeError, match="input 0 is int64"):
        adjoint_check(ops.neg, tg.tensor([1, 2]))
