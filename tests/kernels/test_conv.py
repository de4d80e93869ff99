"""Convolution kernels against the loops, the reference and their own laws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinygrad_cnn import kernels
from tinygrad_cnn.kernels import reference
from tinygrad_cnn.kernels.cpu import conv, conv_shared, conv_weights, simd
from tinygrad_cnn.kernels.spec import Conv2dSpec

from . import naive


class Case(NamedTuple):
    n: int
    c: int
    hw: tuple[int, int]
    o: int
    kernel: tuple[int, int]
    spec: Conv2dSpec
    dtype: str
    seed: int


@st.composite
def cases(draw, channels=(1, 40), out=(1, 10)):  # type: ignore[no-untyped-def]
    """Windows that fit by construction: the output size and a remainder are drawn, the input size follows."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 5]))
    low, high = channels
    kind = draw(st.sampled_from(["dense", "dense", "depthwise"]))
    c = groups * draw(st.integers(low, max(low, high // groups)))
    o = groups * draw(st.integers(low, max(low, high // groups)))
    if kind == "depthwise":
        groups, o = c, c * draw(st.sampled_from([1, 1, 2]))
    axes = []
    for _ in range(2):
        kernel, dilation, stride = (draw(st.integers(1, most)) for most in (5, 3, 3))
        span = (kernel - 1) * dilation + 1
        size = (draw(st.integers(*out)) - 1) * stride + span + draw(st.integers(0, stride - 1))
        before = draw(st.integers(0, min(size - 1, span + 1)))
        after = draw(st.integers(0, min(size - 1 - before, span + 1)))
        axes.append((kernel, dilation, stride, before, after, size - before - after))
    (kh, dh, sh, top, bottom, h), (kw, dw, sw, left, right, w) = axes
    spec = Conv2dSpec((sh, sw), (top, bottom, left, right), (dh, dw), groups)
    n, seed = draw(st.integers(1, 3)), draw(st.integers(0, 2**16))
    return Case(n, c, (h, w), o, (kh, kw), spec, draw(st.sampled_from("fd")), seed)


def operands(case: Case, layout: str = "channels_last") -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(case.seed)

    def array(*shape: int) -> np.ndarray:
        x = rng.standard_normal(shape).astype(case.dtype)
        if layout == "channels_last":
            return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        if layout == "strided":
            wide = np.zeros((*shape[:3], 2 * shape[3]), case.dtype)
            wide[..., ::2] = x
            return wide[..., ::2]
        if layout == "read_only":
            x.flags.writeable = False
        return x

    x = array(case.n, case.c, *case.hw)
    w = array(case.o, case.c // case.spec.groups, *case.kernel)
    p, q = case.spec.output_hw(case.hw, case.kernel)
    return x, w, rng.standard_normal(case.o).astype(case.dtype), array(case.n, case.o, p, q)


def close(actual: np.ndarray, exact: np.ndarray, terms: int, scale: float = 1.0) -> None:
    """Within the rounding of `terms` products of normal numbers, summed in any order."""
    assert actual.shape == exact.shape
    bound = 2 * np.finfo(actual.dtype).eps * (8 + np.sqrt(terms) * 4) * scale
    error = np.abs(actual - exact).max(initial=0)
    assert error <= bound * max(1, np.sqrt(terms)), (error, bound, terms)


@settings(max_examples=200, deadline=None)
@given(cases(), st.sampled_from(["channels_last", "nchw", "strided", "read_only"]), st.booleans())
def test_all_three_agree_with_the_float64_reference(case: Case, layout: str, biased: bool) -> None:
    x, w, bias, g = operands(case, layout)
    wide = [a.astype(np.float64) for a in (x, w, bias, g)]
    spec = case.spec
    taps = w[0].size
    y = conv.conv2d(x, w, bias if biased else None, spec)
    close(y, reference.conv2d(wide[0], wide[1], wide[2] if biased else None, spec), taps + 1)
    clamped = conv.conv2d(x, w, bias if biased else None, spec, relu=True)
    np.testing.assert_array_equal(clamped, reference.relu(y))
    dx = conv.conv2d_input_grad(g, w, case.hw, spec)
    close(dx, reference.conv2d_input_grad(wide[3], wide[1], case.hw, spec), taps * case.o // spec.groups)
    dw = conv.conv2d_weight_grad(x, g, case.kernel, spec)
    close(dw, reference.conv2d_weight_grad(wide[0], wide[3], case.kernel, spec), g[:, 0].size)
    close(conv.conv2d_bias_grad(g), wide[3].sum((0, 2, 3)), g[:, 0].size)
    assert y.dtype == dx.dtype == dw.dtype == np.dtype(case.dtype)
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous and dx.transpose(0, 2, 3, 1).flags.c_contiguous
    assert dw.transpose(2, 3, 1, 0).flags.c_contiguous


def assert_as_in_float64(
    case: Case, biased: bool, x: np.ndarray, w: np.ndarray, bias: np.ndarray, g: np.ndarray
) -> None:
    """Forward, its ReLU and both gradients, as the plain reference computes them in float64."""
    wide = [a.astype(np.float64) for a in (x, w, bias, g)]
    y = conv.conv2d(x, w, bias if biased else None, case.spec)
    close(y, reference.conv2d(wide[0], wide[1], wide[2] if biased else None, case.spec), w[0].size + 1)
    clamped = conv.conv2d(x, w, bias if biased else None, case.spec, relu=True)
    np.testing.assert_array_equal(clamped, reference.relu(y))
    dx = conv.conv2d_input_grad(g, w, case.hw, case.spec)
    close(dx, reference.conv2d_input_grad(wide[3], wide[1], case.hw, case.spec), w[:, 0].size)
    dw = conv.conv2d_weight_grad(x, g, case.kernel, case.spec)
    close(dw, reference.conv2d_weight_grad(wide[0], wide[3], case.kernel, case.spec), g[:, 0].size)


@pytest.mark.parametrize(
    "case",
    [
        Case(16, 1, (28, 28), 6, (5, 5), Conv2dSpec(padding=(2, 2, 2, 2)), "f", 0),  # by planes of pixels
        Case(32, 1, (28, 26), 3, (5, 5), Conv2dSpec(padding=(2, 2, 1, 1)), "f", 10),
        Case(16, 6, (14, 14), 16, (5, 5), Conv2dSpec(), "f", 1),  # taps across the vector, gradients spread
        Case(9, 6, (14, 13), 16, (5, 3), Conv2dSpec((2, 1), (1, 2, 0, 3), (2, 1)), "f", 2),  # spread, rows far apart
        Case(2, 40, (40, 41), 40, (3, 3), Conv2dSpec(padding=(1, 1, 1, 1)), "f", 3),  # an image in bands
        Case(37, 16, (8, 8), 32, (3, 3), Conv2dSpec(padding=(1, 1, 1, 1)), "f", 4),  # blocks of images, one short
        Case(38, 12, (8, 8), 20, (3, 3), Conv2dSpec(padding=(1, 1, 1, 1)), "f", 9),  # and one of two, without Winograd
        Case(3, 48, (17, 17), 48, (3, 5), Conv2dSpec(padding=(1, 1, 2, 2), groups=48), "f", 5),
        Case(2, 100, (12, 12), 24, (1, 1), Conv2dSpec(), "f", 6),
        Case(1, 90, (3, 900), 70, (1, 1), Conv2dSpec(), "f", 7),  # a row larger than a block
        Case(48, 10, (4, 6), 7, (1, 1), Conv2dSpec(), "f", 11),  # three small images in a row
        Case(4, 3, (16, 16), 64, (3, 3), Conv2dSpec(padding=(1, 1, 1, 1)), "f", 8),  # a panel of four vectors
    ],
    ids=str,
)
def test_layers_of_the_size_of_real_ones(case: Case) -> None:
    test_all_three_agree_with_the_float64_reference.hypothesis.inner_test(case, "channels_last", True)


@pytest.mark.parametrize(("c", "o", "kernel"), [(16, 64, 3), (8, 128, 3), (16, 16, 5), (32, 32, 5), (128, 128, 5)])
def test_errors_are_at_most_twice_those_of_numpy(c: int, o: int, kernel: int) -> None:
    """Of the root mean square, forward and for the input gradient, by the direct kernels and by Winograd's."""
    spec = Conv2dSpec(padding=(kernel // 2,) * 4)
    x, w, _, g = operands(Case(4, c, (12, 12), o, (kernel, kernel), spec, "f", 0))
    wide = [a.astype(np.float64) for a in (x, w, g)]

    def error(y: np.ndarray, exact: np.ndarray) -> float:
        return float(np.sqrt(np.mean((y - exact) ** 2)))

    exact = reference.conv2d(wide[0], wide[1], None, spec)
    assert error(conv.conv2d(x, w, None, spec), exact) <= 2 * error(reference.conv2d(x, w, None, spec), exact)
    exact = reference.conv2d_input_grad(wide[2], wide[1], (12, 12), spec)
    ours, numpys = (door.conv2d_input_grad(g, w, (12, 12), spec) for door in (conv, reference))
    assert error(ours, exact) <= 2 * error(numpys, exact)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(8, 12),
    st.sampled_from([1, 3]),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.integers(1, 2),
    st.booleans(),
    st.data(),
)
def test_arrays_too_large_for_the_caches(
    monkeypatch: pytest.MonkeyPatch,
    hw: int,
    kernel: int,
    stride: tuple[int, int],
    groups: int,
    relu: bool,
    data: st.DataObject,
) -> None:
    """Outputs that go around them and lines asked for ahead, here for any size, leave the bits as they are."""
    c, o = (groups * lanes * simd.lanes("f") for lanes in data.draw(st.tuples(st.integers(1, 3), st.integers(1, 5))))
    spec = Conv2dSpec(stride, (kernel // 2,) * 4, (1, 1), groups)
    x, w, bias, g = operands(Case(20, c, (hw, hw), o, (kernel, kernel), spec, "f", hw))
    found = []
    for sizes in ((conv.STREAM_BYTES, conv_shared.FAR_BYTES), (0, 0)):
        monkeypatch.setattr(conv, "STREAM_BYTES", sizes[0])
        monkeypatch.setattr(conv_shared, "FAR_BYTES", sizes[1])
        for plans in (conv._forward, conv._input_grad, conv_weights._find):
            plans.cache_clear()
        weights = conv_weights.weight_grad(*(conv.layout(a, conv.NHWC) for a in (x, g)), (kernel, kernel), spec)
        found.append((conv.conv2d(x, w, bias, spec, relu), conv.conv2d_input_grad(g, w, (hw, hw), spec), weights))
        monkeypatch.undo()
    for plans in (conv._forward, conv._input_grad, conv_weights._find):
        plans.cache_clear()
    for near, far in zip(*found, strict=True):
        np.testing.assert_array_equal(near, far)


@settings(max_examples=25, deadline=None)
@given(cases(channels=(1, 3), out=(1, 4)))
def test_the_reference_agrees_with_plain_loops(case: Case) -> None:
    case = case._replace(dtype="d")
    x, w, bias, g = operands(case)
    np.testing.assert_allclose(
        reference.conv2d(x, w, bias, case.spec), naive.conv2d(x, w, bias, case.spec), rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(
        reference.conv2d_input_grad(g, w, case.hw, case.spec),
        naive.conv2d_input_grad(g, w, x.shape, case.spec), rtol=1e-9, atol=1e-12,
    )  # fmt: skip
    np.testing.assert_allclose(
        reference.conv2d_weight_grad(x, g, case.kernel, case.spec),
        naive.conv2d_weight_grad(x, g, w.shape, case.spec), rtol=1e-9, atol=1e-12,
    )  # fmt: skip


@pytest.fixture(scope="module")
def parts_of_any_size() -> Iterator[Callable[[int], None]]:
    """Sets the number of parts; even the smallest kernel runs in that many."""
    before = kernels.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "PARALLEL_WORK", 0)
        yield kernels.set_num_threads
    kernels.set_num_threads(before)


@settings(max_examples=25, deadline=None)
@given(cases(out=(1, 20)))
def test_the_bits_do_not_depend_on_the_number_of_parts(parts_of_any_size: Callable[[int], None], case: Case) -> None:
    x, w, bias, g = operands(case)

    def results() -> list[np.ndarray]:
        return [
            conv.conv2d(x, w, bias, case.spec),
            conv.conv2d_input_grad(g, w, case.hw, case.spec),
            conv.conv2d_weight_grad(x, g, case.kernel, case.spec),
            conv.conv2d_bias_grad(g),
        ]

    parts_of_any_size(1)
    first = results()
    for parts in (2, 3, 4):
        parts_of_any_size(parts)
        for a, b in zip(first, results(), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("shape", "o"), [((0, 4, 8, 8), 4), ((2, 0, 8, 8), 4), ((2, 4, 8, 8), 0), ((0, 4, 8, 8), 0)])
def test_empty_batches_and_channels(shape: tuple[int, ...], o: int, groups: int) -> None:
    x, spec = np.ones(shape, "f"), Conv2dSpec(padding=(1, 1, 1, 1), groups=groups)
    w = np.ones((o, shape[1] // groups, 3, 3), "f")
    bias = np.arange(o, dtype="f")
    y = conv.conv2d(x, w, bias, spec)
    assert y.shape == (shape[0], o, 8, 8)
    np.testing.assert_array_equal(conv.conv2d_bias_grad(y), y.sum((0, 2, 3)))
    np.testing.assert_array_equal(y, np.broadcast_to(bias[:, None, None], y.shape))
    assert not conv.conv2d_input_grad(y, w, (8, 8), spec).any()
    assert not conv.conv2d_weight_grad(x, y, (3, 3), spec).any()


def test_nan_and_inf_propagate_to_exactly_the_windows_that_hold_them() -> None:
    x = np.zeros((1, 1, 9, 9), "f")
    x[0, 0, 4, 4] = np.nan
    y = conv.conv2d(x, np.ones((20, 1, 3, 3), "f"), None, Conv2dSpec())
    assert np.isnan(y[0, :, 2:5, 2:5]).all() and np.isnan(y).sum() == 20 * 9


def test_a_window_that_does_not_fit_names_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"\(5, 5\) kernel.*\(3, 4\).*2"):
        conv.conv2d(np.zeros((1, 1, 3, 4), "f"), np.zeros((1, 1, 5, 5), "f"), None, Conv2dSpec())
