"""Convolution and its transpose: values, gradients of both orders, laws, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, note
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn.nn import functional as F
from tinygrad_cnn.testing import adjoint_check
from tinygrad_cnn.testing.strategies import ConvConfig, arrays, conv_configs, tensors


def conv2d(cfg: ConvConfig) -> Any:
    """The convolution of a configuration, as a function of its tensors."""
    return lambda x, w, b=None: F.conv2d(x, w, b, cfg.stride, cfg.flat_padding, cfg.dilation, cfg.groups)


@st.composite
def problems(draw: st.DrawFn) -> tuple[ConvConfig, Any, Any, Any]:
    """A configuration with input, weight and, half of the time, a bias, in any layout."""
    cfg = draw(conv_configs(ndim=2))
    note(cfg)
    x, w, b = (draw(tensors(arrays(s))) for s in (cfg.input_shape, cfg.weight_shape, (cfg.out_channels,)))
    return cfg, x, w, b if draw(st.booleans()) else None


# ---------------------------------------------------------------------------------------------- gradients


@given(problems())
def test_conv2d_backward_is_its_adjoint(problem: Any) -> None:
    """<conv(x), y> = <x, conv'(y)> in x and in w, without differences."""
    cfg, x, w, _ = problem
    adjoint_check(lambda x: conv2d(cfg)(x, w), x)
    adjoint_check(lambda w: conv2d(cfg)(x, w), w)


def test_third_derivative() -> None:
    """A cubic in which convolution meets itself: x * conv(x, w) * conv(x, w) differentiates as often as you like."""
    rng = np.random.default_rng(0)
    x, w, v = (tg.from_numpy(rng.normal(size=s)) for s in ((1, 2, 5, 5), (2, 2, 3, 3), (1, 2, 5, 5)))
    along = tg.zeros((), dtype=tg.float64, requires_grad=True)

    def f(t: Any) -> Any:
        z = x + t * v
        y = F.conv2d(z, w, padding=1)
        return (z * y * y).sum()

    value = f(along)
    for _ in range(3):
        (value,) = tg.autograd.grad(value, along, create_graph=True)
    expected = 6 * (v * F.conv2d(v, w, padding=1) ** 2).sum()
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)


# --------------------------------------------------------------------------------------------------- laws


def equal(a: Any, b: Any) -> None:
    np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())


@given(problems())
def test_one_image_needs_no_batch(problem: Any) -> None:
    """(C, H, W) gives what the batch gives for its image."""
    cfg, x, w, b = problem
    equal(conv2d(cfg)(x[0], w, b), conv2d(cfg)(x, w, b)[0])


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, (2, 5)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_padding_keeps_the_size(kernel: Any, dilation: int) -> None:
    """An even kernel's odd row and column of padding go to the bottom and the right, as in PyTorch."""
    rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
    x = tg.arange(2.0 * 6 * 7).reshape(1, 2, 6, 7)
    w = tg.ones(1, 2, rows, columns)
    y = F.conv2d(x, w, padding="same", dilation=dilation)
    assert y.shape == (1, 1, 6, 7)
    up, across = dilation * (rows - 1), dilation * (columns - 1)
    padded = F.pad(x, (across // 2, across - across // 2, up // 2, up - up // 2))
    equal(y, F.conv2d(padded, w, dilation=dilation))


@pytest.mark.parametrize("shape", [(0, 3, 5, 5), (2, 3, 5, 5)])
def test_an_empty_batch_has_gradients(shape: tuple[int, ...]) -> None:
    """No images give no outputs, and zero gradients for the weights."""
    x, w = tg.ones(*shape, requires_grad=True), tg.ones(4, 3, 2, 2, requires_grad=True)
    y = F.conv2d(x, w)
    assert y.shape == (shape[0], 4, 4, 4)
    y.sum().backward()
    assert x.grad is not None and x.grad.shape == shape
    assert w.grad is not None and (w.grad == 16.0 * shape[0]).all()


def test_only_what_is_asked_for_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first layer of a network never computes the gradient of its images."""
    from tinygrad_cnn.kernels import cpu

    monkeypatch.delattr(cpu, "conv2d_input_grad")
    w = tg.ones(1, 1, 2, 2, requires_grad=True)
    F.conv2d(tg.ones(1, 1, 3, 3), w).sum().backward()
    assert w.grad is not None and (w.grad == 4.0).all()


def test_nan_stays_where_a_window_saw_it() -> None:
    """One NaN in the image reaches the windows over it, and no others."""
    x = tg.ones(1, 1, 5, 5)
    x[0, 0, 0, 0] = float("nan")
    y = F.conv2d(x, tg.ones(1, 1, 3, 3))
    assert y.isnan().sum().item() == 1 and y[0, 0, 0, 0].isnan().item()


def test_gradient_dtype_and_layout_follow_the_tensors() -> None:
    """float32 stays float32; a weight's gradient lies in memory as the weight does."""
    conv = tg.nn.Conv2d(3, 5, 3)
    conv(tg.ones(2, 3, 6, 6)).sum().backward()
    assert conv.weight.grad is not None and conv.weight.grad.dtype == np.float32
    assert conv.weight.grad.stride() == conv.weight.stride()


# ------------------------------------------------------------------------------------------------- errors

X, W = tg.ones(2, 4, 6, 6), tg.ones(8, 4, 3, 3)
ERRORS: list[tuple[str, Any, type[Exception], list[str]]] = [
    ("not a tensor", lambda: F.conv2d(X.numpy(), W), TypeError, ["Tensor", "ndarray"]),
    ("integers", lambda: F.conv2d(X.long(), W), TypeError, ["int64", ".float()"]),
    ("two dtypes", lambda: F.conv2d(X.double(), W), TypeError, ["float64", ".to(tg.float32) on the input"]),
    ("bias dtype", lambda: F.conv2d(X, W, tg.ones(8).double()), TypeError, ["float32", "float64"]),
    ("channels", lambda: F.conv2d(X[:, :3], W), ValueError, ["expects 4", "(2, 3, 6, 6)", "in_channels=3"]),
    ("a matrix", lambda: F.conv2d(X[0, 0], W), ValueError, ["(6, 6)", "unsqueeze"]),
    ("five dimensions", lambda: F.conv2d(X[None], W), ValueError, ["5 dimensions"]),
    ("flat weight", lambda: F.conv2d(X, W[0]), ValueError, ["(4, 3, 3)"]),
    ("no taps", lambda: F.conv2d(X, W[:, :, :0]), ValueError, ["(8, 4, 0, 3)"]),
    ("groups", lambda: F.conv2d(X, W[:, :2][:7], groups=2), ValueError, ["groups=2", "7"]),
    ("zero groups", lambda: F.conv2d(X, W, groups=0), ValueError, ["groups >= 1"]),
    ("bias shape", lambda: F.conv2d(X, W, tg.ones(7)), ValueError, ["(8,)", "(7,)"]),
    ("too small", lambda: F.conv2d(X, W, dilation=3), ValueError, ["(6, 6)", "(3, 3)", "1"]),
    ("stride 0", lambda: F.conv2d(X, W, stride=0), ValueError, ["stride >= 1", "0"]),
    ("stride 1.5", lambda: F.conv2d(X, W, stride=1.5), TypeError, ["stride", "1.5"]),
    ("three strides", lambda: F.conv2d(X, W, stride=(1, 1, 1)), ValueError, ["stride", "3"]),
    ("padding -1", lambda: F.conv2d(X, W, padding=-1), ValueError, ["padding >= 0", "-1"]),
    ("padding word", lambda: F.conv2d(X, W, padding="full"), ValueError, ["'same'", "'full'"]),
    ("same, strided", lambda: F.conv2d(X, W, padding="same", stride=2), ValueError, ["same", "stride 1"]),
    ("transposed channels", lambda: F.conv_transpose2d(X, W), ValueError, ["expects 8", "in_channels=4"]),
    ("transposed bias", lambda: F.conv_transpose2d(X, W[:4], tg.ones(3)), ValueError, ["(4,)", "(3,)"]),
    ("transposed groups", lambda: F.conv_transpose2d(X, W[:4], groups=3), ValueError, ["groups=3"]),
    ("output padding", lambda: F.conv_transpose2d(X, W[:4], output_padding=1), ValueError, ["output_padding"]),
    ("no output", lambda: F.conv_transpose2d(X, W[:4], padding=5), ValueError, ["at least 1 x 1", "-2"]),
    ("transposed dtypes", lambda: F.conv_transpose2d(X, W[:4].double()), TypeError, ["float64"]),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "parts"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS])
def test_errors_show_the_numbers(call: Any, error: type[Exception], parts: list[str]) -> None:
    """Each bad argument is a typed exception with the shapes and the value that would work."""
    with pytest.raises(error) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("weight", [None, "x", 1.0], ids=repr)
def test_a_weight_that_is_no_tensor_is_named(weight: Any) -> None:
    """None is fine for the bias alone."""
    for convolve in (F.conv2d, F.conv_transpose2d):
        with pytest.raises(TypeError, match="expects a Tensor as weight"):
            convolve(tg.ones(1, 2, 4, 4), weight)


@pytest.mark.parametrize("options", [{"padding": 10**12}, {"padding": 10**12, "stride": 10**12}])
def test_a_padding_by_mistake_is_refused_at_once(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"padded input.*16777216 pixels a side.*2000000000008 x 2000000000008"):
        F.conv2d(tg.ones(1, 1, 8, 8), tg.ones(1, 1, 3, 3), **options)


@pytest.mark.parametrize("options", [{"stride": 10**12}, {"stride": 10**12, "padding": 3 * 10**12}])
def test_a_stride_by_mistake_is_refused_at_once(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"output.*16777216 pixels a side"):
        F.conv_transpose2d(tg.ones(1, 1, 8, 8), tg.ones(1, 1, 3, 3), **options)
