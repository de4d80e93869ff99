"""Convolutions to few channels, and their max-pool, against the reference; and where they are chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn import kernels
from tinygrad_cnn.kernels import reference
from tinygrad_cnn.kernels.cpu import conv, conv_pixel_grads, conv_pixels, pool, simd
from tinygrad_cnn.kernels.spec import Conv2dSpec

from .test_conv import Case, close, operands


@st.composite
def cases(draw, c=3, out=(1, 12)):  # type: ignore[no-untyped-def]
    """Up to c channels in and eight out; rows of less than a vector and of several, with any padding."""
    kernel, dilation = (draw(st.tuples(st.integers(1, most), st.integers(1, most))) for most in (5, 3))
    pads = [draw(st.integers(0, 4)) for _ in range(4)]
    sizes = draw(st.tuples(st.integers(*out), st.integers(out[0], 40)))
    hw = [
        max(out[0], size + (k - 1) * d - a - b)
        for size, k, d, a, b in zip(sizes, kernel, dilation, pads[::2], pads[1::2], strict=True)
    ]
    spec = Conv2dSpec(padding=tuple(pads), dilation=dilation)
    c, o, n = (draw(st.integers(1, most)) for most in (c, conv_pixels.CHANNELS, 9))
    return Case(n, c, tuple(hw), o, kernel, spec, draw(st.sampled_from("fd")), draw(st.integers(0, 2**16)))


@contextmanager
def always() -> Iterator[None]:
    """Every shape that can go by planes does, in bands of few rows and in one part for each thread."""
    before = kernels.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        for module in (conv_pixels, conv_pixel_grads):
            patch.setattr(module, "_pays", lambda *args: True)
            patch.setattr(module, "PLANE_BYTES", 8 << 10)
        patch.setattr(kernels, "PARALLEL_WORK", 0)
        cached = (conv_pixels.find, conv_pixel_grads.find, conv._forward, conv._pool_plan)
        for function in cached:
            function.cache_clear()
        yield
        for function in cached:
            function.cache_clear()
    kernels.set_num_threads(before)


def planned(case: Case, pooled: bool) -> bool:
    work = conv_pixels.find(case.dtype, (case.n, case.c, *case.hw), (case.o, case.c, *case.kernel), False, case.spec,
                            False, pooled)  # fmt: skip
    return work is not None


@given(cases(), st.sampled_from(["channels_last", "nchw", "strided", "read_only"]), st.booleans())
@always()
def test_the_outputs_agree_with_the_float64_reference(case: Case, layout: str, biased: bool) -> None:
    x, w, bias, _ = operands(case, layout)
    wide = [a.astype(np.float64) for a in (x, w, bias)]
    assert planned(case, False)
    y = conv.conv2d(x, w, bias if biased else None, case.spec)
    close(y, reference.conv2d(wide[0], wide[1], wide[2] if biased else None, case.spec), w[0].size + 1)
    clamped = conv.conv2d(x, w, bias if biased else None, case.spec, relu=True)
    np.testing.assert_array_equal(clamped, reference.relu(y))
    np.testing.assert_array_equal(np.signbit(clamped), np.signbit(reference.relu(y)))


@given(cases(), st.sampled_from([0, 0, np.nan, np.inf]), st.booleans())
@always()
def test_the_pool_of_the_planes_is_that_of_the_map(case: Case, value: float, biased: bool) -> None:
    """The same bits and winners, with ties, NaN and infinities; odd rows and columns are left over."""
    x, w, bias, _ = operands(case)
    x, w, bias = np.round(x), np.round(w), np.round(bias) if biased else None  # small whole numbers: windows tie
    x[0, 0, 0, 0] = value
    hw = case.spec.output_hw(case.hw, case.kernel)
    window = (2, 2), (2, 2), (0, 0), (1, 1), (hw[0] // 2, hw[1] // 2)
    for relu in (False, True) if min(hw) > 1 else ():
        assert planned(case, True)
        expected = pool.max_pool2d(conv.conv2d(x, w, bias, case.spec), *window, relu)
        with mock.patch.object(conv, "max_pool2d", None):
            found = conv.conv2d_max_pool(x, w, bias, case.spec, *window, relu)
            alone, nobody = conv.conv2d_max_pool(x, w, bias, case.spec, *window, relu, winners=False)
        np.testing.assert_array_equal(alone, found[0])
        assert nobody is None
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
            np.testing.assert_array_equal(np.signbit(one), np.signbit(other))


def pooled_gradient(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The input, what each window got, each window's winner and the map's gradient, of at least one window."""
    hw = case.spec.output_hw(case.hw, case.kernel)
    rng = np.random.default_rng(case.seed)
    shape = (case.n, case.o, hw[0] // 2, hw[1] // 2)
    g, winner = rng.standard_normal(shape).astype(case.dtype), rng.integers(0, 5, shape, np.uint8)
    return operands(case)[0], g, winner, pool.max_pool2d_scatter(g, winner, hw, (2, 2), (2, 2), (0, 0), (1, 1))


@given(cases(out=(2, 14)))
@always()
def test_the_gradients_from_the_winners_are_those_from_the_map(case: Case) -> None:
    x, g, winner, whole = pooled_gradient(case)
    found = conv.conv2d_max_pool_grads(g, winner, x, (case.o, case.c, *case.kernel), case.spec)
    if case.spec.output_hw(case.hw, case.kernel)[0] % 2:
        assert found is None
        return
    assert found is not None
    wide = whole.astype(np.float64)
    close(found[0], reference.conv2d_weight_grad(x.astype(np.float64), wide, case.kernel, case.spec), wide[:, 0].size)
    close(found[1], wide.sum((0, 2, 3)), wide[:, 0].size)


@given(cases(out=(2, 14)), st.sampled_from([np.nan, np.inf]), st.data())
@always()
def test_gradients_with_infinities_are_left_to_the_map(case: Case, value: float, data: st.DataObject) -> None:
    x, g, winner, whole = pooled_gradient(case)
    x[tuple(data.draw(st.integers(0, size - 1)) for size in x.shape)] = value
    with np.errstate(all="ignore"):
        exact = reference.conv2d_weight_grad(x, whole, case.kernel, case.spec)
    found = conv.conv2d_max_pool_grads(g, winner, x, (case.o, case.c, *case.kernel), case.spec)
    assert found is None or np.isfinite(exact).all()


@given(cases(), st.sampled_from(["channels_last", "nchw", "strided", "read_only"]))
@always()
def test_weight_gradients_agree_with_the_float64_reference(case: Case, layout: str) -> None:
    x, _, _, g = operands(case, layout)
    with mock.patch.object(conv, "weight_grad", None):  # there is no other way
        found = conv.conv2d_weight_grad(x, g, case.kernel, case.spec)
    wide = g.astype(np.float64)
    close(found, reference.conv2d_weight_grad(x.astype(np.float64), wide, case.kernel, case.spec), wide[:, 0].size)


@given(cases(), st.sampled_from([np.nan, np.inf, -np.inf]), st.booleans(), st.data())
@always()
def test_weight_gradients_have_nan_and_inf_where_taps_meet_them(
    case: Case, value: float, in_x: bool, data: st.DataObject
) -> None:
    """At any place, and a second one elsewhere; what only meets the padding may become NaN or not."""
    x, _, _, g = operands(case)
    for one in (x, x) if in_x else (x, g):
        one[tuple(data.draw(st.integers(0, size - 1)) for size in one.shape)] = value
    with np.errstate(all="ignore"):
        exact = reference.conv2d_weight_grad(x, g, case.kernel, case.spec)
    pairs = (~np.isfinite(x), np.ones(g.shape)), (np.ones(x.shape), ~np.isfinite(g))
    met = sum(reference.conv2d_weight_grad(a * 1.0, b * 1.0, case.kernel, case.spec) for a, b in pairs) > 0.5
    finite = np.isfinite(conv.conv2d_weight_grad(x, g, case.kernel, case.spec))
    assert not finite[met].any() and finite[np.isfinite(exact)].all()


@given(cases(out=(2, 14)))
@always()
def test_the_bits_do_not_depend_on_the_number_of_parts(case: Case) -> None:
    x, w, bias, whole = operands(case)
    _, g, winner, _ = pooled_gradient(case)
    found = []
    for threads in (1, 2, 3, 5):
        kernels.set_num_threads(threads)
        grads = conv.conv2d_max_pool_grads(g, winner, x, w.shape, case.spec) or ()
        weights = conv.conv2d_weight_grad(x, whole, case.kernel, case.spec)
        found.append([conv.conv2d(x, w, bias, case.spec), weights, *grads])
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("hw", [(28, 28), (27, 26)])
@always()
def test_a_first_layer_with_its_pool_has_the_gradients_of_the_two_apart(hw: tuple[int, int], ceil_mode: bool) -> None:
    tg.manual_seed(0)
    layers = tg.nn.Conv2d(1, 3, 5), tg.nn.ReLU(), tg.nn.MaxPool2d(2, ceil_mode=ceil_mode)
    net, x, found = tg.nn.Sequential(*layers), tg.randn(4, 1, *hw), []
    for forward in (net, lambda x: layers[2](layers[1](layers[0](x)))):
        net.zero_grad()
        (forward(x) ** 2).sum().backward()
        found.append([p.grad.numpy() for p in net.parameters()])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(other).max())


@given(cases(), st.sampled_from([np.nan, np.inf, -np.inf]), st.data())
@always()
def test_nan_and_inf_go_where_windows_hold_them(case: Case, value: float, data: st.DataObject) -> None:
    x, w, bias, _ = operands(case)
    x[tuple(data.draw(st.integers(0, size - 1)) for size in x.shape)] = value
    with np.errstate(all="ignore"):
        exact = reference.conv2d(x, w, bias, case.spec)
    np.testing.assert_array_equal(np.isfinite(conv.conv2d(x, w, bias, case.spec)), np.isfinite(exact))


@always()
def test_the_error_is_no_larger_than_that_of_a_matrix_product() -> None:
    case = Case(32, 3, (28, 28), 6, (7, 7), Conv2dSpec(padding=(3, 3, 3, 3)), "f", 0)
    x, w, bias, _ = operands(case)
    x = np.maximum(x, 0)  # activations are positive: nothing cancels
    assert planned(case, False)
    exact = reference.conv2d(*(a.astype(np.float64) for a in (x, w, bias)), case.spec)
    errors = [np.sqrt(np.mean((f(x, w, bias, case.spec) - exact) ** 2)) for f in (conv.conv2d, reference.conv2d)]
    assert errors[0] <= 2 * errors[1]


@pytest.mark.parametrize(("n", "c", "size"), [(300, 1, 12), (2, 1, 90), (64, 3, 28)])
def test_the_error_of_a_weight_gradient_is_no_larger_than_that_of_a_matrix_product(n: int, c: int, size: int) -> None:
    """Of many images, of large ones and of those of several channels; what is summed up is positive."""
    case = Case(n, c, (size, size), 4, (3, 3), Conv2dSpec(), "f", 0)
    x, _, _, g = (np.abs(a) for a in operands(case))
    exact = reference.conv2d_weight_grad(x.astype(np.float64), g.astype(np.float64), case.kernel, case.spec)
    with always(), mock.patch.object(conv, "weight_grad", None):
        ours = conv.conv2d_weight_grad(x, g, case.kernel, case.spec)
    numpys = reference.conv2d_weight_grad(x, g, case.kernel, case.spec)
    errors = [np.sqrt(np.mean((grad - exact) ** 2)) for grad in (ours, numpys)]
    assert errors[0] <= 2 * errors[1]


def test_many_channels_strides_groups_single_taps_and_few_pixels_are_left_to_lanes_of_channels() -> None:
    def chosen(c: int, o: int, k: int, pooled: bool = False, **spec: Any) -> bool:
        shapes = (32, c, 28, 28), (o, c // spec.get("groups", 1), k, k)
        return conv_pixels.find("f", *shapes, True, Conv2dSpec(**spec), True, pooled) is not None

    def summed(c: int, o: int, size: int, k: int, pooled: bool = False, **spec: Any) -> bool:
        shapes = (32, c, size, size), (o, c // spec.get("groups", 1), k, k)
        return conv_pixel_grads.find("f", *shapes, Conv2dSpec(**spec), pooled) is not None

    few = simd.lanes("f") * 3 // 8
    assert summed(1, few, 28, 5) and summed(1, few, 28, 5, pooled=True)
    assert summed(3, few, 28, 5) or simd.lanes("f") < 16  # there the taps fill a vector as well
    assert not summed(1, few, 6, 5) and not summed(1, 16, 28, 5) and not summed(16, 1, 28, 3)
    assert not summed(1, 2, 28, 5, stride=(1, 2)) and not summed(2, 2, 28, 5, groups=2)
    assert chosen(1, few, 5) and chosen(1, few, 5, pooled=True) and chosen(3, few, 5)
    assert not chosen(1, 16, 5) and not chosen(40, few, 3) and not chosen(8, 8, 1)
    assert not chosen(1, few, 5, stride=(2, 2)) and not chosen(2, 2 * few, 5, groups=2)
