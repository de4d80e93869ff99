"""Laws of the ops that need no finite differences: whole numbers, so both sides must be equal to the bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn import nn
from tinygrad_cnn.kernels.cpu import contract, conv_winograd, winograd_weights
from tinygrad_cnn.kernels.spec import Conv2dSpec
from tinygrad_cnn.nn import functional as F
from tinygrad_cnn.testing.strategies import (
    ConvConfig,
    PoolConfig,
    arrays,
    conv_configs,
    integers32,
    labels,
    pool_configs,
)

pytestmark = pytest.mark.gradcheck
MODES = ("zeros", "reflect", "replicate", "circular")


@st.composite
def wide_configs(draw: st.DrawFn) -> ConvConfig:
    """Convolutions with enough channels and pixels for Winograd's kernels."""
    k, o = draw(st.sampled_from((3, 5))), draw(st.integers(10, 13))
    pads = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(2))
    size = tuple(o + k - 1 - before - after for before, after in pads)
    channels = 32, draw(st.sampled_from((64, 32)))
    return ConvConfig(draw(st.integers(8, 9)), *channels, 1, size, (k, k), (1, 1), (1, 1), pads, (o, o))


def whole(data: st.DataObject, *shape: int, largest: int = 4) -> np.ndarray:
    """Whole numbers up to 4: Winograd's sums, of up to 81 * 64 * 16 quarters, stay below 2**24 of them."""
    x: np.ndarray = data.draw(integers32(tuple(shape), 2**16, largest=largest))
    return x


def pull(fn: Callable[..., Any], inputs: Sequence[np.ndarray], cotangent: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """The output, and the gradients of all inputs for a cotangent (an array, or a function of the output's shape)."""
    xs = [tg.tensor(x).requires_grad_() for x in inputs]
    out = fn(*xs)
    v = cotangent(out.shape) if callable(cotangent) else cotangent
    out.backward(tg.tensor(v.copy()))
    return out.detach().numpy(), [np.array(x.grad.numpy()) for x in xs]


def same(data: st.DataObject, a: Callable[..., Any], b: Callable[..., Any], *inputs: np.ndarray) -> None:
    """Two functions have the same values and gradients, to the bit."""
    shape = a(*[tg.tensor(x) for x in inputs]).shape
    v = whole(data, *shape)
    (out, grads), (expected, others) = pull(a, inputs, v), pull(b, inputs, v)
    np.testing.assert_array_equal(out, expected)
    for g, other in zip(grads, others, strict=True):
        np.testing.assert_array_equal(g, other)


def conv(c: ConvConfig, **changed: Any) -> Callable[..., Any]:
    options = {"stride": c.stride, "padding": c.flat_padding, "dilation": c.dilation, "groups": c.groups} | changed
    return lambda x, w, b=None: F.conv2d(x, w, b, **options)


def operands(data: st.DataObject, c: ConvConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return whole(data, *c.input_shape), whole(data, *c.weight_shape), whole(data, c.out_channels)


either = st.one_of(conv_configs(2), wide_configs())


@pytest.mark.skipif(not contract.ENABLED, reason="without vector kernels there are no tiles")
def test_wide_configurations_reach_the_tiles() -> None:
    assert conv_winograd.find("f", (8, 11, 11, 32), 32, (3, 3), (11, 11), (-1, -1), Conv2dSpec(), False)
    assert winograd_weights.find("f", (8, 10, 10, 32), 64, (5, 5), (10, 10), (-2, -2), Conv2dSpec())


# --------------------------------------------------------------------------------------------------------- conservation


@given(st.data(), pool_configs("max"))
def test_max_pools_hand_every_gradient_on(data: st.DataObject, c: PoolConfig) -> None:
    x, v = whole(data, *c.shape), whole(data, *c.shape[:2], *c.output)
    alone = np.isinf(F.max_pool2d(tg.tensor(x), **c.options).numpy())  # windows of nothing but padding
    v = np.where(alone, np.float32(0), v)
    _, (g,) = pull(lambda x: F.max_pool2d(x, **c.options), [x], v)
    np.testing.assert_array_equal(g.sum((2, 3)), v.sum((2, 3)))


@given(st.data(), st.sampled_from((1, 2, 4)), st.sampled_from((1, 2)), st.integers(1, 4), st.integers(1, 20))
def test_disjoint_average_pools_hand_every_gradient_on(data: st.DataObject, k: int, l: int, p: int, q: int) -> None:
    x, v = whole(data, 2, 3, p * k, q * l), whole(data, 2, 3, p, q)
    _, (g,) = pull(lambda x: F.avg_pool2d(x, (k, l)), [x], v)
    np.testing.assert_array_equal(g.sum((2, 3)), v.sum((2, 3)))


@given(st.data(), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_nearest_upsampling_hands_every_gradient_on(data: st.DataObject, times: int, h: int, w: int) -> None:
    x, v = whole(data, 2, h, w), whole(data, 2, h * times, w * times)
    up = lambda x: x[:, :, None, :, None].expand(2, h, times, w, times).reshape(2, h * times, w * times)
    out, (g,) = pull(up, [x], v)
    np.testing.assert_array_equal(out, np.kron(x, np.ones((1, times, times), np.float32)))
    np.testing.assert_array_equal(g.sum((1, 2)), v.sum((1, 2)))


# ---------------------------------------------------------------------------------------------------------- adjointness


def dot(a: np.ndarray, b: np.ndarray) -> float:
    return float((a.astype(np.float64) * b).sum())


@given(st.data(), st.one_of(conv_configs(2, asymmetric=False), wide_configs()))
def test_transposed_convolution_is_the_adjoint(data: st.DataObject, c: ConvConfig) -> None:
    x, w, _ = operands(data, c)
    y = whole(data, *c.output_shape)
    out, (gx, _) = pull(conv(c), [x, w], y)
    dims = zip(c.size, c.kernel, c.stride, c.dilation, c.padding, c.output, strict=True)
    beyond = tuple(n - ((o - 1) * s - sum(p) + d * (k - 1) + 1) for n, k, s, d, p, o in dims)
    assert dot(out, y) == dot(x, gx)
    if all(before == after for before, after in c.padding):
        pads = tuple(before for before, _ in c.padding)
        ty, tw = tg.tensor(y), tg.tensor(w)
        if all(r < max(s, d) for r, s, d in zip(beyond, c.stride, c.dilation, strict=True)):
            back = F.conv_transpose2d(ty, tw, None, c.stride, pads, beyond, c.groups, c.dilation)
            np.testing.assert_array_equal(back.numpy(), gx)


@given(st.data(), conv_configs(2, modes=MODES))
def test_every_padding_has_the_adjoint_of_numpys(data: st.DataObject, c: ConvConfig) -> None:
    """<pad(x), y> == <x, vjp(y)>, where pad is NumPy's; with zeros vjp is to crop."""
    mode = "constant" if c.mode == "zeros" else c.mode
    theirs = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[c.mode]
    x = whole(data, *c.input_shape)
    padded = np.pad(x, ((0, 0), (0, 0), *c.padding), mode=theirs)
    y = whole(data, *padded.shape)
    out, (g,) = pull(lambda x: F.pad(x, (*c.padding[1], *c.padding[0]), mode=mode), [x], y)
    np.testing.assert_array_equal(out, padded)
    assert dot(out, y) == dot(x, g)
    if c.mode == "zeros":
        (top, _), (left, _) = c.padding
        np.testing.assert_array_equal(g, y[:, :, top : top + x.shape[2], left : left + x.shape[3]])


# ------------------------------------------------------------------------------------------------------------ linearity


@given(st.data(), either, st.sampled_from(("conv", "max", "avg", "matmul", "relu", "product")))
def test_gradients_are_linear_in_the_cotangent(data: st.DataObject, c: ConvConfig, kind: str) -> None:
    x, w, b = operands(data, c)
    fns: dict[str, tuple[Callable[..., Any], list[np.ndarray]]] = {
        "conv": (conv(c), [x, w, b]),
        "max": (lambda x: F.max_pool2d(x, 1, 2), [x]),
        "avg": (lambda x: F.avg_pool2d(x, (1, 1)), [x]),
        "matmul": (lambda a, b: a.flatten(1) @ b.flatten(1).T, [x, x[:1]]),
        "relu": (lambda x: x.relu(), [x]),
        "product": (lambda a, b: a * b, [x, x[:, :1]]),
    }
    fn, inputs = fns[kind]
    shape = fn(*[tg.tensor(x) for x in inputs]).shape
    u, v = whole(data, *shape, largest=1), whole(data, *shape, largest=1)
    of_u, of_v, of_both = (pull(fn, inputs, g)[1] for g in (u, v, 2 * u - v))
    for a, b, both in zip(of_u, of_v, of_both, strict=True):
        np.testing.assert_array_equal(2 * a - b, both)


# -------------------------------------------------------------------------------------------------- batch and channels


@given(st.data(), either)
def test_the_order_of_a_batch_does_not_matter(data: st.DataObject, c: ConvConfig) -> None:
    order = data.draw(st.permutations(range(c.batch)))
    back = np.argsort(order)
    fn = lambda x, w, b: F.max_pool2d(conv(c)(x, w, b).relu(), 1, 1)
    same(data, fn, lambda x, w, b: fn(x[order], w, b)[back], *operands(data, c))


@given(st.data(), either)
def test_a_batch_is_its_parts(data: st.DataObject, c: ConvConfig) -> None:
    at = data.draw(st.integers(0, c.batch))
    parts = lambda x, w, b: tg.cat([conv(c)(part, w, b) for part in (x[:at], x[at:]) if len(part)])
    same(data, conv(c), parts, *operands(data, c))


@given(st.data(), st.integers(1, 5), st.integers(1, 20), st.integers(1, 20))
def test_a_batch_of_rows_is_its_parts(data: st.DataObject, n: int, m: int, k: int) -> None:
    at = data.draw(st.integers(0, n))
    parts = lambda x, w, b: tg.cat([F.linear(part, w, b) for part in (x[:at], x[at:])])
    same(data, F.linear, parts, whole(data, n, k), whole(data, m, k), whole(data, m))


@given(st.data(), st.one_of(conv_configs(2, groups=False), wide_configs()))
def test_the_order_of_channels_does_not_matter(data: st.DataObject, c: ConvConfig) -> None:
    order = data.draw(st.permutations(range(c.channels)))
    outs = data.draw(st.permutations(range(c.out_channels)))
    back = np.argsort(outs)
    permuted = lambda x, w, b: conv(c)(x[:, order], w[:, order][outs], b[outs])[:, back]
    same(data, conv(c), permuted, *operands(data, c))


# ---------------------------------------------------------------------------------------- one convolution and another


@given(st.data(), conv_configs(2))
def test_groups_are_a_block_diagonal(data: st.DataObject, c: ConvConfig) -> None:
    per_out, per_in = c.out_channels // c.groups, c.channels // c.groups

    def dense(x: Any, w: Any, b: Any) -> Any:
        rows = [
            F.pad(w[i * per_out : (i + 1) * per_out], (0, 0, 0, 0, i * per_in, (c.groups - 1 - i) * per_in))
            for i in range(c.groups)
        ]
        return conv(c, groups=1)(x, tg.cat(rows), b)

    same(data, conv(c), dense, *operands(data, c))


@given(st.data(), conv_configs(2), st.sampled_from((1, 2)))
def test_depthwise_is_a_loop_over_channels(data: st.DataObject, c: ConvConfig, multiplier: int) -> None:
    channels = c.channels
    x, w = whole(data, *c.input_shape), whole(data, channels * multiplier, 1, *c.kernel)
    one = conv(c, groups=1)
    loop = lambda x, w: tg.cat(
        [one(x[:, i : i + 1], w[i * multiplier : (i + 1) * multiplier]) for i in range(channels)], 1
    )
    same(data, conv(c, groups=channels), loop, x, w)


@given(st.data(), either, st.sampled_from((2, 3)))
def test_stride_leaves_outputs_out(data: st.DataObject, c: ConvConfig, stride: int) -> None:
    s, t = (c.stride if c.stride != (1, 1) else (stride, 1))[:2]
    same(
        data,
        conv(c, stride=(s, t)),
        lambda x, w, b: conv(c, stride=1)(x, w, b)[:, :, ::s, ::t],
        *operands(data, c),
    )


@given(st.data(), conv_configs(2))
def test_dilation_stuffs_the_kernel_with_zeros(data: st.DataObject, c: ConvConfig) -> None:
    (k, l), (d, e) = c.kernel, c.dilation

    def stuffed(x: Any, w: Any, b: Any) -> Any:
        wide = tg.zeros(*w.shape[:2], (k - 1) * d + 1, (l - 1) * e + 1)
        wide[:, :, ::d, ::e] = w
        return conv(c, dilation=1)(x, wide, b)

    same(data, conv(c), stuffed, *operands(data, c))


@given(
    st.data(), st.integers(1, 3), st.sampled_from((1, 3, 16, 33)), st.sampled_from((1, 2, 16, 20)), st.integers(1, 9)
)
def test_a_kernel_of_one_is_a_matrix_product(data: st.DataObject, n: int, c: int, o: int, side: int) -> None:
    product = lambda x, w: (w.reshape(o, c) @ x.reshape(n, c, side * side)).reshape(n, o, side, side)
    same(data, F.conv2d, product, whole(data, n, c, side, side), whole(data, o, c, 1, 1))


@given(st.data(), either)
def test_padding_is_to_pad_and_then_convolve(data: st.DataObject, c: ConvConfig) -> None:
    padded = lambda x, w, b: conv(c, padding=0)(F.pad(x, (*c.padding[1], *c.padding[0])), w, b)
    same(data, conv(c), padded, *operands(data, c))


@given(st.data(), conv_configs(2, asymmetric=False, modes=MODES))
def test_every_padding_mode_of_the_layer_is_to_pad_and_then_convolve(data: st.DataObject, c: ConvConfig) -> None:
    (top, _), (left, _) = c.padding
    layer = nn.Conv2d(
        c.channels, c.out_channels, c.kernel, c.stride, (top, left), c.dilation, c.groups, padding_mode=c.mode
    )

    def by_layer(x: Any, w: Any, b: Any) -> Any:
        layer.__dict__["weight"], layer.__dict__["bias"] = w, b
        return layer(x)

    mode = "constant" if c.mode == "zeros" else c.mode
    padded = lambda x, w, b: conv(c, padding=0)(F.pad(x, (left, left, top, top), mode=mode), w, b)
    same(data, by_layer, padded, *operands(data, c))


# ------------------------------------------------------------------------------------------ norms, losses and training


@given(st.data(), st.integers(1, 3), st.integers(1, 20), st.integers(1, 6))
def test_batch_norm_of_fixed_statistics_is_affine(data: st.DataObject, n: int, c: int, side: int) -> None:
    """Variances of 0, 3 and 15 with eps = 1 have exact roots, all powers of two."""
    x, w, b, mean = whole(data, n, c, side, side), whole(data, c), whole(data, c), whole(data, c)
    root = np.float32(2) ** data.draw(st.lists(st.integers(0, 2), min_size=c, max_size=c))
    stats = tg.tensor(mean), tg.tensor((root * root - 1).astype(np.float32))
    norm = lambda x, w, b: F.batch_norm(x, *stats, w, b, training=False, eps=1.0)
    column = lambda v: v.reshape(1, c, 1, 1)
    inverse, shift = tg.tensor((1 / root).astype(np.float32)), tg.tensor(mean)
    affine = lambda x, w, b: (x - column(shift)) * column(w * inverse) + column(b)
    same(data, norm, affine, x, w, b)


@given(st.data(), arrays((3, 5), layout="C"), arrays((3, 5), layout="C"))
def test_gradients_of_softmax_sum_to_zero(data: st.DataObject, x: np.ndarray, v: np.ndarray) -> None:
    axis = data.draw(st.sampled_from((0, 1)))
    _, (g,) = pull(lambda x: F.softmax(x, axis), [x], v)
    assert np.abs(g.sum(axis)).max() <= 1e-15
    _, (g,) = pull(lambda x: F.log_softmax(x, axis), [x], v)
    assert np.abs(g.sum(axis)).max() <= 1e-14


@given(
    st.data(),
    st.sampled_from(((4, 3), (2, 3, 2, 2), (5, 1))),
    st.sampled_from(("mean", "sum", "none")),
    st.booleans(),
    st.sampled_from((-100, 0)),
)
def test_cross_entropy_is_nll_of_log_softmax(
    data: st.DataObject, shape: tuple[int, ...], reduction: str, weighted: bool, ignored: int
) -> None:
    x = data.draw(arrays(shape, layout="C"))
    places = (shape[0], *shape[2:])
    target = tg.tensor(data.draw(labels(int(np.prod(places)), shape[1])).reshape(places))
    weight = tg.tensor(data.draw(arrays((shape[1],), low=0.5, layout="C"))) if weighted else None
    options: dict[str, Any] = {"ignore_index": ignored, "reduction": reduction}
    v = lambda shape: np.arange(1.0, 1 + int(np.prod(shape))).reshape(shape)
    out, (g,) = pull(lambda x: F.cross_entropy(x, target, weight, **options), [x], v)
    apart, (h,) = pull(lambda x: F.nll_loss(F.log_softmax(x, 1), target, weight, **options), [x], v)
    np.testing.assert_allclose(out, apart, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(g, h, rtol=1e-12, atol=1e-12)


@given(st.data(), either, st.integers(1, 3))
def test_accumulated_parts_are_one_batch(data: st.DataObject, c: ConvConfig, pieces: int) -> None:
    x, w, b = operands(data, c)
    x = np.concatenate([x] * pieces)
    x[c.batch :] = np.roll(x[c.batch :], 1, -1)
    scores = whole(data, *c.output_shape[1:], largest=1)

    def gradients(batches: list[np.ndarray]) -> list[np.ndarray]:
        net = nn.Sequential(
            nn.Conv2d(c.channels, c.out_channels, c.kernel, c.stride, 0, c.dilation, c.groups), nn.ReLU()
        )
        with tg.no_grad():
            net[0].weight.copy_(tg.tensor(w))
            net[0].bias.copy_(tg.tensor(b))
        for batch in batches:
            padded = F.pad(tg.tensor(batch), (*c.padding[1], *c.padding[0]))
            (net(padded) * tg.tensor(scores)).sum().backward()
        return [p.grad.numpy() for p in net.parameters()]

    for one, many in zip(gradients([x]), gradients(np.array_split(x, pieces)), strict=True):
        np.testing.assert_array_equal(one, many)
