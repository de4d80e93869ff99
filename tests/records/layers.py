"""Records of products, convolutions, pools, normalisations, dropout and losses."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tests import naive
from tests.kernels import naive as kernels_naive
from tests.records.reduce import log_softmax
from tinygrad_cnn.kernels.spec import Conv2dSpec
from tinygrad_cnn.nn import functional as F
from tinygrad_cnn.testing import OpRecord
from tinygrad_cnn.testing import strategies as draw

EPS = 0.5  # large enough that batches of equal values stay well conditioned
IGNORE = 1  # an ignore_index that is a class as well


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


# ------------------------------------------------------------------------------------------------------ products


@st.composite
def products(d: st.DrawFn) -> list[Any]:
    shapes = d(draw.matmul_operands(min_side=d(st.integers(0, 1)), max_side=4))
    return [d(draw.arrays(shape)) for shape in shapes]


@st.composite
def affine(d: st.DrawFn) -> list[Any]:
    lead, features, out = d(draw.shapes(0, 3, 0, 3)), d(st.integers(0, 4)), d(st.integers(0, 4))
    shapes = [(*lead, features), (out, features), (out,)][: d(st.integers(2, 3))]
    return [d(draw.arrays(shape)) for shape in shapes]


@st.composite
def of_rank(d: st.DrawFn, ndim: int) -> list[Any]:
    """Two vectors, two matrices, or two batches of them that can be multiplied."""
    b, m, k, n = (d(st.integers(0, 4)) for _ in range(4))
    shapes = {1: ((k,), (k,)), 2: ((m, k), (k, n)), 3: ((b, m, k), (b, k, n))}[ndim]
    return [d(draw.arrays(shape)) for shape in shapes]


@st.composite
def vectors(d: st.DrawFn) -> list[Any]:
    return [d(draw.arrays((d(st.integers(0, 4)),))) for _ in range(2)]


# -------------------------------------------------------------------------------------------------- convolutions


@st.composite
def convolutions(d: st.DrawFn, transposed: bool = False, same: bool = False) -> list[Any]:
    """[configuration, x, w] and, half of the time, a bias; with `same`, padded so that the output has x's size."""
    cfg = d(draw.conv_configs(2, transposed=transposed))
    if same:
        widths = [(k - 1) * e for k, e in zip(cfg.kernel, cfg.dilation, strict=True)]
        pads = tuple((n // 2, n - n // 2) for n in widths)
        cfg = dataclasses.replace(cfg, size=cfg.output, stride=(1, 1), padding=pads)
    shapes = [cfg.input_shape, cfg.weight_shape, (cfg.out_channels,)][: d(st.integers(2, 3))]
    return [cfg, *(d(draw.arrays(shape)) for shape in shapes)]


def conv2d(cfg: Any, x: Any, w: Any, b: Any = None) -> Any:
    return F.conv2d(x, w, b, cfg.stride, cfg.flat_padding, cfg.dilation, cfg.groups)


def conv2d_same(cfg: Any, x: Any, w: Any, b: Any = None) -> Any:
    return F.conv2d(x, w, b, padding="same", dilation=cfg.dilation, groups=cfg.groups)


def conv2d_ref(cfg: Any, x: Any, w: Any, b: Any = None) -> Any:
    return kernels_naive.conv2d(x, w, b, Conv2dSpec(cfg.stride, cfg.flat_padding, cfg.dilation, cfg.groups))


def conv_transpose2d(cfg: Any, x: Any, w: Any, b: Any = None) -> Any:
    padding = tuple(before for before, _ in cfg.padding)
    return F.conv_transpose2d(x, w, b, cfg.stride, padding, cfg.output_padding, cfg.groups, cfg.dilation)


def conv_transpose2d_ref(cfg: Any, x: Any, w: Any, b: Any = None) -> Any:
    padding = tuple(before for before, _ in cfg.padding)
    y = naive.conv_transpose2d(x, w, cfg.stride, padding, cfg.output_padding, cfg.groups, cfg.dilation)
    return y if b is None else y + b[:, None, None]


PLAIN = draw.ConvConfig(1, 4, 8, 1, (6, 6), (3, 3), (1, 1), (1, 1), ((0, 0), (0, 0)), (4, 4), (0, 0))


# --------------------------------------------------------------------------------------------------------- pools


@st.composite
def pools(d: st.DrawFn, kind: Any) -> list[Any]:
    cfg = d(draw.pool_configs(kind))
    return [cfg, d((draw.distinct if kind == "max" else draw.arrays)(cfg.shape))]


def max_pool2d(cfg: Any, x: np.ndarray) -> Any:
    names = "kernel_size", "stride", "padding", "dilation"
    return naive.max_pool2d(x, cfg.output, *(cfg.options[name] for name in names))[0]


def avg_pool2d(cfg: Any, x: np.ndarray) -> Any:
    names = "kernel_size", "stride", "padding", "count_include_pad", "divisor_override"
    return naive.avg_pool2d(x, cfg.output, *(cfg.options[name] for name in names))


def too_large(**options: Any) -> Any:
    return [([draw.PoolConfig((1, 1, 6, 6), (), options), ones(1, 1, 6, 6)], ValueError, "(7, 7)")]


# --------------------------------------------------------------------------------- normalisation and dropout


@st.composite
def batches(d: st.DrawFn, evaluation: bool = False) -> list[Any]:
    """(N, C), (N, C, L), (N, C, H, W) or more, at least two values a channel; weight and bias, or neither."""
    shape = d(st.integers(2, 3)), d(st.integers(1, 3)), *d(st.lists(st.integers(1, 3), max_size=3))
    x = d(draw.distinct(shape))
    affine = [d(draw.arrays(shape[1:2])) for _ in range(2)] if d(st.booleans()) else []
    return [evaluation, x, *affine]


def statistics(c: int) -> tuple[np.ndarray, np.ndarray]:
    return 0.25 * np.arange(c), 0.5 + 0.25 * np.arange(c)


def batch_norm(evaluation: bool, x: Any, *affine: Any) -> Any:
    running = [tg.from_numpy(s.astype(x.dtype)) for s in statistics(x.shape[1])] if evaluation else [None, None]
    return F.batch_norm(x, *running, *(affine or (None, None)), not evaluation, 0.1, EPS)


def batch_norm_ref(evaluation: bool, x: Any, *affine: Any) -> Any:
    c = x.shape[1]
    weight, bias = affine or (np.ones(c), np.zeros(c))
    if not evaluation:
        return naive.batch_norm(x, weight, bias, EPS)
    mean, var, weight, bias = (s.reshape(-1, *[1] * (x.ndim - 2)) for s in (*statistics(c), weight, bias))
    return (x - mean) / np.sqrt(var + EPS) * weight + bias


@st.composite
def items(d: st.DrawFn) -> list[Any]:
    features = tuple(d(st.lists(st.integers(1, 4), min_size=1, max_size=2)))
    x = d(draw.distinct((*d(st.lists(st.integers(1, 3), max_size=2)), *features)))
    return [features, x, *([d(draw.arrays(features)) for _ in range(2)] if d(st.booleans()) else [])]


def layer_norm(features: Any, x: Any, *affine: Any) -> Any:
    return F.layer_norm(x, features, *(affine or (None, None)), EPS)


def layer_norm_ref(features: Any, x: Any, *affine: Any) -> Any:
    return naive.layer_norm(x, len(features), *(affine or (np.ones(features), np.zeros(features))), EPS)


@st.composite
def droppable(d: st.DrawFn, dims: int) -> list[Any]:
    return [d(draw.arrays(draw.shapes(dims, 4, 0, 4))), d(st.sampled_from((0.25, 0.5, 1.0)))]


def dropout(x: Any, p: float) -> Any:
    """The same elements are dropped at each call; laid out alike first, as the mask follows the memory."""
    tg.manual_seed(0)
    return F.dropout(x.contiguous(), p)


def dropout2d(x: Any, p: float) -> Any:
    tg.manual_seed(0)
    return F.dropout2d(x.contiguous(), p)


def by_mask(fn: Any) -> Any:
    """x scaled by what the op makes of ones."""
    return lambda x, p: x * fn(tg.ones(x.shape, dtype=tg.float64), p).numpy()


# -------------------------------------------------------------------------------------------------------- losses

REDUCTIONS = ("none", "mean", "sum")


@st.composite
def classifications(d: st.DrawFn, smoothing: bool) -> list[Any]:
    """[logits (N, C, d1, ...), labels (N, d1, ...), weights of the classes or None, keywords]"""
    n, classes = d(st.integers(1, 4)), d(st.integers(1, 4))
    rest = tuple(d(st.lists(st.integers(1, 3), max_size=2)))
    ignored = d(st.sampled_from((-100, IGNORE)))
    size = n * int(np.prod(rest))
    allowed = [*range(classes), ignored]
    labels = np.array(d(st.lists(st.sampled_from(allowed), min_size=size, max_size=size)), d(st.sampled_from("lq")))
    options = {"ignore_index": ignored, "reduction": d(st.sampled_from(REDUCTIONS))}
    if (labels == ignored).all() and options["reduction"] == "mean":
        options["reduction"] = "sum"  # the mean of nothing is NaN
    if smoothing:
        options["label_smoothing"] = d(st.sampled_from((0.0, 0.25)))
    weight = tuple(0.5 + 0.25 * i for i in range(classes)) if d(st.booleans()) else None
    logits = draw.arrays((n, classes, *rest), low=-4, high=4)  # nearer to certainty, differences of the loss cancel
    return [d(logits), labels.reshape(n, *rest), weight, options]


def weighted(loss: Any) -> Any:
    def op(x: Any, labels: Any, weight: Any, options: dict[str, Any]) -> Any:
        return loss(x, labels, None if weight is None else tg.tensor(weight, dtype=x.dtype), **options)

    return op


def cross_entropy_ref(x: Any, labels: Any, weight: Any, options: dict[str, Any]) -> Any:
    weight = np.ones(x.shape[1]) if weight is None else np.array(weight)
    smoothing = options.get("label_smoothing", 0.0)
    losses, weights = naive.cross_entropy(x, labels, weight, options["ignore_index"], smoothing)
    return reduced(losses, options["reduction"], weights.sum())


def nll_ref(x: Any, labels: Any, weight: Any, options: dict[str, Any]) -> Any:
    weight = np.ones(x.shape[1]) if weight is None else np.array(weight)
    counted = labels != options["ignore_index"]
    safe = np.where(counted, labels, 0)
    own = np.take_along_axis(x, safe[:, None], 1)[:, 0]
    weights = weight[safe] * counted
    return reduced(-weights * own, options["reduction"], weights.sum())


def reduced(losses: np.ndarray, reduction: str, total: float | None = None) -> Any:
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / (losses.size if total is None else total)


@st.composite
def distributions(d: st.DrawFn) -> list[Any]:
    """Logits, and probabilities as targets, of which the loss is linear."""
    shape = d(st.integers(1, 3)), d(st.integers(1, 4)), *d(st.lists(st.integers(1, 3), max_size=1))
    p = d(draw.arrays(shape, low=0, high=1))
    return [d(draw.arrays(shape)), p, d(st.sampled_from(REDUCTIONS)), d(st.sampled_from((0.0, 0.25)))]


def soft_cross_entropy(x: Any, p: Any, reduction: str, smoothing: float) -> Any:
    return F.cross_entropy(x, p, reduction=reduction, label_smoothing=smoothing)


def soft_cross_entropy_ref(x: Any, p: Any, reduction: str, smoothing: float) -> Any:
    p = (1 - smoothing) * p + smoothing / x.shape[1]
    losses = -(p * log_softmax(x, 1)).sum(1)
    return reduced(losses, reduction)


@st.composite
def regressions(d: st.DrawFn) -> list[Any]:
    """No difference is 0 or 1, where there are kinks."""
    shape = tuple(d(st.lists(st.integers(1, 3), max_size=3)))
    x, t = (d(draw.distinct(shape, layout="C")) for _ in range(2))
    return [d(draw.layouts(x)), d(draw.layouts(np.asarray(t + 1 / 64))), d(st.sampled_from(REDUCTIONS))]


def regression(name: str, each: Any, degree: int | None = None) -> OpRecord:
    def op(x: Any, t: Any, reduction: str) -> Any:
        return getattr(F, name)(x, t, reduction=reduction)

    errors = [([ones(4, 3), ones(3), "mean"], ValueError, "(4, 3)"), ([ones(3), ones(3), "avg"], ValueError, "'avg'")]
    return OpRecord(name, op, lambda x, t, r: reduced(each(x, t), r), regressions(), errors, degree)


def bce(x: np.ndarray, t: np.ndarray) -> Any:
    p = 1 / (1 + np.exp(-x))
    return -(t * np.log(p) + (1 - t) * np.log(1 - p))


def smooth_l1(x: np.ndarray, t: np.ndarray) -> Any:
    d = np.abs(x - t)
    return np.where(d < 1, 0.5 * d * d, d - 0.5)


LABEL_3 = ([ones(1, 3), np.array([3]), None, {}], IndexError, "[0, 3)")

RECORDS = [
    OpRecord("matmul", tg.matmul, np.matmul, products(), [([ones(2, 3), ones(2, 3)], RuntimeError, "(2, 3)")], 2),
    OpRecord("mm", tg.mm, np.matmul, of_rank(2), [([ones(1, 2, 3), ones(3, 2)], RuntimeError, "(1, 2, 3)")], 2),
    OpRecord("bmm", tg.bmm, np.matmul, of_rank(3), [([ones(1, 2, 3), ones(4, 3, 2)], RuntimeError, "1 and 4")], 2),
    OpRecord("dot", tg.dot, np.dot, of_rank(1), [([ones(2, 3), ones(3)], RuntimeError, "(2, 3)")], 2),
    OpRecord("outer", tg.outer, np.outer, vectors(), [([ones(2, 3), ones(2)], RuntimeError, "(2, 3)")], 2),
    OpRecord(
        "linear", F.linear, lambda x, w, b=0.0: x @ w.T + b, affine(),
        [([ones(2, 3), ones(4, 5)], RuntimeError, "5 features")], 2,
    ),
    OpRecord(
        "conv2d", conv2d, conv2d_ref, convolutions(), [([PLAIN, ones(1, 3, 6, 6), ones(8, 4, 3, 3)], ValueError,
        "expects 4")], 2,
    ),
    OpRecord(
        "conv2d same", conv2d_same, conv2d_ref, convolutions(same=True),
        [([PLAIN, ones(1, 3, 6, 6), ones(8, 4, 3, 3)], ValueError, "expects 4")], 2,
    ),
    OpRecord(
        "conv_transpose2d", conv_transpose2d, conv_transpose2d_ref, convolutions(transposed=True),
        [([PLAIN, ones(1, 3, 6, 6), ones(8, 4, 3, 3)], ValueError, "expects 8")], 2,
    ),
    OpRecord(
        "max_pool2d", lambda cfg, x: F.max_pool2d(x, **cfg.options), max_pool2d, pools("max"), too_large(kernel_size=7)
    ),
    OpRecord(
        "avg_pool2d", lambda cfg, x: F.avg_pool2d(x, **cfg.options), avg_pool2d, pools("avg"),
        too_large(kernel_size=7), 1,
    ),
    OpRecord(
        "adaptive_avg_pool2d", lambda cfg, x: F.adaptive_avg_pool2d(x, cfg.output),
        lambda cfg, x: naive.adaptive_avg_pool2d(x, cfg.output), pools("adaptive"),
        [([draw.PoolConfig((), (0, 1), {}), ones(1, 1, 2, 2)], ValueError, "output_size >= 1")], 1,
    ),
    OpRecord(
        "batch_norm", batch_norm, batch_norm_ref, batches(), [([False, ones(1, 3)], ValueError, "(1, 3)")], rtol=1e-11
    ),
    OpRecord(
        "batch_norm evaluation", batch_norm, batch_norm_ref, batches(evaluation=True),
        [([True, ones(2, 3), ones(2), ones(2)], ValueError, "weight")], 2,
    ),
    OpRecord(
        "layer_norm", layer_norm, layer_norm_ref, items(), [([(3,), ones(3, 2)], ValueError, "(3,)")], rtol=1e-11
    ),
    OpRecord("dropout", dropout, by_mask(dropout), droppable(0), [([ones(3), 1.5], ValueError, "1.5")], 1),
    OpRecord("dropout2d", dropout2d, by_mask(dropout2d), droppable(2), [([ones(3), 0.5], ValueError, "(3,)")], 1),
    OpRecord("cross_entropy", weighted(F.cross_entropy), cross_entropy_ref, classifications(True), [LABEL_3]),
    OpRecord(
        "cross_entropy of probabilities", soft_cross_entropy, soft_cross_entropy_ref, distributions(),
        [([ones(1, 3), ones(1, 2), "mean", 0.0], ValueError, "(1, 2)")],
    ),
    OpRecord("nll_loss", weighted(F.nll_loss), nll_ref, classifications(False), [LABEL_3], 1),
    regression("mse_loss", lambda x, t: (x - t) ** 2, 2),
    regression("l1_loss", lambda x, t: np.abs(x - t)),
    regression("smooth_l1_loss", smooth_l1),
    regression("binary_cross_entropy_with_logits", bce),
]  # fmt: skip
