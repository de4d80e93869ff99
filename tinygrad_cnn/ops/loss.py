"""Losses. None of them broadcasts: input and target have the shapes that belong together, or ValueError.

Letters: N items, C classes, R rows: the items, or the pixels of all items where the input has more
dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..autograd import Variable
from ..kernels import on
from ..op import op
from .arguments import check_floats, check_tensors, integer, real
from .elementwise import _softplus

REDUCTIONS = ("none", "mean", "sum")


def check_reduction(name: str, reduction: Any) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"{name} expects reduction 'none', 'mean' or 'sum', got {reduction!r}")


def _reduced(loss: Any, reduction: str) -> Any:
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


# ---------------------------------------------------------------------------------------------- cross-entropy


@op(aux=("share", "lse"))
def _cross_entropy(
    input: Any, target: Any, weight: Any, ignore_index: int, label_smoothing: float, reduction: str
) -> Any:
    """(R, C), (R,), (C,) -> (R,) or (); also a row's share in the result, and log(sum(e ** input)) (R,)."""
    labels = target.astype(np.int64, copy=False)
    kernels = on(input)
    loss, row_weight, lse = kernels.cross_entropy(input, labels, weight, ignore_index, label_smoothing)
    if reduction == "none":
        return loss, 1.0, lse
    total, count = kernels.totals(loss, row_weight)
    share = 1.0
    if reduction == "mean":
        # Where every row is ignored the mean is 0 / 0, and no row has a gradient.
        share, total = (1 / count, total / count) if count else (0.0, np.nan)
    return np.asarray(total, input.dtype), share, lse


def _cross_entropy_grad(
    g: Any,
    wanted: Sequence[bool],
    input: Any,
    target: Any,
    weight: Any,
    share: float,
    lse: Any,
    ignore_index: int,
    label_smoothing: float,
) -> Any:
    labels = target.astype(np.int64, copy=False)
    rows = np.empty(len(lse), g.dtype)
    if g.ndim:
        np.multiply(g, share, out=rows)
    else:
        rows.fill(g.item() * share)  # a fifth of the time
    return on(g).cross_entropy_grad(rows, input, lse, labels, weight, ignore_index, label_smoothing), None, None


def _cross_entropy_vjp(
    g: Any,
    wanted: Sequence[bool],
    input: Any,
    target: Any,
    weight: Any,
    share: float,
    ignore_index: int,
    label_smoothing: float,
) -> Any:
    """g * (a * softmax(input) - q) for the class weights q that a row's loss gives the classes, and a their sum."""
    classes = input.shape[1]
    each = np.ones(classes, input.dtype) if weight is None else weight._array
    labels = np.where(target._array == ignore_index, 0, target._array).astype(np.int64)
    q = np.tile(each * (label_smoothing / classes), (len(labels), 1))
    q[np.arange(len(labels)), labels] += (1 - label_smoothing) * each[labels]
    q *= share * (target._array != ignore_index)[:, None]
    rows = g.reshape(-1, 1)
    return rows * (input.softmax(1) * Variable.new(q.sum(1, keepdims=True)) - Variable.new(q)), None, None


_cross_entropy.joint_vjp(_cross_entropy_vjp)
_cross_entropy.kernel_vjp(_cross_entropy_grad)


def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """-log(softmax(input)) of the right class: the loss for classification from logits.

    input (N, C), (C,) or (N, C, d1, ...), floating; target integer class labels (N,), () or (N, d1, ...) in
    [0, C), or class probabilities of input's shape and dtype. weight (C,) scales each class; labels equal to
    ignore_index do not count; label_smoothing in [0, 1] gives that share of each target evenly to all classes
    (Szegedy et al. 2016, arXiv:1512.00567). Returns the losses in target's shape for reduction "none"
    (without the class dimension for probabilities), else their sum or their mean: over the weights of the
    labels that count, or over the items for probabilities. The mean of nothing is NaN.

    Raises IndexError for a label out of range, ValueError for other shapes or numbers, TypeError for other
    dtypes.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.functional.cross_entropy(tg.tensor([[0.0, 0.0]]), tg.tensor([1]))
    tensor(0.6931)
    """
    name = "cross_entropy"
    check_reduction(name, reduction)
    real(name, "label_smoothing", label_smoothing, 0, 1)
    check_floats(name, input, weight)
    if isinstance(target, Variable) and target._array.dtype.kind == "f":
        return _soft_cross_entropy(input, target, weight, reduction, float(label_smoothing))
    _check_labels(name, input, target, weight, ignore_index)
    rows, labels = _rows(input), target
    if labels._array.ndim != 1:
        labels = labels.reshape(-1)
    loss = _cross_entropy(rows, labels, weight, int(ignore_index), float(label_smoothing), reduction)
    return loss.reshape(target.shape) if reduction == "none" and target._array.ndim != 1 else loss


def _soft_cross_entropy(input: Any, target: Any, weight: Any, reduction: str, label_smoothing: float) -> Any:
    """The cross-entropy for targets that are probabilities."""
    name = "cross_entropy"
    check_floats(name, input, target)
    if target.shape != input.shape:
        raise ValueError(
            f"{name} expects probabilities of the input's shape {input.shape}, got {target.shape}; class "
            "labels must be integers, use .long()"
        )
    dim = _class_dim(name, input, weight)
    classes = input.shape[dim]
    if label_smoothing > 0:
        target = target * (1 - label_smoothing) + label_smoothing / classes
    terms = input.log_softmax(dim) * target
    if weight is not None:
        terms = terms * weight.reshape(-1, *[1] * (input.ndim - dim - 1))
    loss = -terms.sum(dim)
    return loss.sum() / max(loss.numel(), 1) if reduction == "mean" else _reduced(loss, reduction)


def _rows(input: Any) -> Any:
    """(C,), (N, C) or (N, C, d1, ...) -> (R, C); free for images in channels-last memory."""
    ndim = input._array.ndim
    if ndim == 2:
        return input
    if ndim == 1:
        return input.unsqueeze(0)
    return input.permute(0, *range(2, ndim), 1).reshape(-1, input.shape[1])


def _class_dim(name: str, input: Any, weight: Any) -> int:
    """The dimension of the classes, once input and weight are known to fit."""
    shape = input._array.shape
    if len(shape) == 0:
        raise ValueError(f"{name} expects an input of (N, C), (C,) or (N, C, d1, ...), got a number")
    dim = 0 if len(shape) == 1 else 1
    if shape[dim] == 0:
        raise ValueError(f"{name} expects at least one class, got an input of {shape}")
    if weight is not None and weight._array.shape != (shape[dim],):
        raise ValueError(f"{name} expects one weight per class, {(shape[dim],)}, got {weight._array.shape}")
    return dim


def _check_labels(name: str, input: Any, target: Any, weight: Any, ignore_index: int) -> None:
    """Labels have the input's shape without its classes and lie in range, all before anything is computed."""
    shape = input._array.shape
    dim = _class_dim(name, input, weight)
    integer(name, "ignore_index", ignore_index)
    if not isinstance(target, Variable):
        raise TypeError(f"{name} expects a Tensor as target, got {type(target).__name__}; use tg.tensor()")
    labels = target._array
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{name} expects integer labels, got {labels.dtype}; use .long()")
    expected = shape[:dim] + shape[dim + 1 :]
    if labels.shape != expected:
        raise ValueError(f"{name} expects labels of shape {expected} for an input of {shape}, got {labels.shape}")
    flat = labels.reshape(-1).astype(np.int64, copy=False)
    lowest, highest = on(labels).label_range(flat, int(ignore_index))
    if lowest < 0 or highest >= shape[dim]:
        raise IndexError(
            f"{name} expects labels in [0, {shape[dim]}) for an input of {shape}, or "
            f"ignore_index={ignore_index}, got {lowest if lowest < 0 else highest}"
        )


def nll_loss(input: Any, target: Any, weight: Any = None, *, ignore_index: int = -100, reduction: str = "mean") -> Any:
    """-input of the right class: the loss for classification from log-probabilities.

    Shapes, weight, ignore_index, reduction and errors as in cross_entropy, with class labels only;
    nll_loss(log_softmax(x, 1), t) is cross_entropy(x, t).

    >>> import tinygrad_cnn as tg
    >>> tg.nn.functional.nll_loss(tg.tensor([[-0.1, -2.3]]), tg.tensor([1]))
    tensor(2.3000)
    """
    name = "nll_loss"
    check_reduction(name, reduction)
    check_floats(name, input, weight)
    _check_labels(name, input, target, weight, ignore_index)
    labels = target._array.reshape(-1)
    counts = labels != ignore_index
    safe = np.where(counts, labels, 0).astype(np.int64)
    each = np.ones(input.shape[0 if input.ndim == 1 else 1], input.dtype) if weight is None else weight._array
    row_weight = Variable.new(np.where(counts, each[safe], 0))
    picked = _rows(input).gather(1, Variable.new(safe[:, None])).squeeze(1)
    loss = (-picked * row_weight).masked_fill(Variable.new(~counts), 0.0)
    if reduction == "none":
        return loss.reshape(*target.shape)
    return loss.sum() if reduction == "sum" else loss.sum() / row_weight.sum()


# ------------------------------------------------------------------------------------------------- regression


def _check_alike(name: str, input: Any, target: Any) -> None:
    check_tensors(name, target=target)
    check_floats(name, input, target)
    if input._array.shape != target._array.shape:
        raise ValueError(
            f"{name} expects input and target of one shape, got {input._array.shape} and "
            f"{target._array.shape}; reshape one of them, as broadcasting here is nearly always a mistake"
        )


def mse_loss(input: Any, target: Any, *, reduction: str = "mean") -> Any:
    """(input - target) ** 2, elementwise for reduction "none", else its mean or sum.

    Raises ValueError for shapes that differ and TypeError for dtypes that do.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.functional.mse_loss(tg.tensor([1.0, 2.0]), tg.tensor([0.0, 0.0]))
    tensor(2.5000)
    """
    check_reduction("mse_loss", reduction)
    _check_alike("mse_loss", input, target)
    return _reduced((input - target).square(), reduction)


def l1_loss(input: Any, target: Any, *, reduction: str = "mean") -> Any:
    """|input - target|, elementwise for reduction "none", else its mean or sum; errors as in mse_loss."""
    check_reduction("l1_loss", reduction)
    _check_alike("l1_loss", input, target)
    return _reduced((input - target).abs(), reduction)


def smooth_l1_loss(input: Any, target: Any, *, reduction: str = "mean", beta: float = 1.0) -> Any:
    """d ** 2 / (2 * beta) where d = |input - target| is below beta, d - beta / 2 elsewhere; errors as in mse_loss."""
    check_reduction("smooth_l1_loss", reduction)
    _check_alike("smooth_l1_loss", input, target)
    real("smooth_l1_loss", "beta", beta, 0)
    if beta == 0:
        return l1_loss(input, target, reduction=reduction)
    d = (input - target).abs()
    near = d.clamp(max=beta)  # both branches of a `where` have gradients, and that of d * d is NaN at infinity
    return _reduced(near * near * (0.5 / beta) + (d - near), reduction)


def binary_cross_entropy_with_logits(
    input: Any, target: Any, weight: Any = None, *, reduction: str = "mean", pos_weight: Any = None
) -> Any:
    """-target * log(sigmoid(input)) - (1 - target) * log(1 - sigmoid(input)), without overflow.

    input and target of one shape; weight broadcasts to it and scales each loss, pos_weight broadcasts to it
    and scales the first term. reduction and errors as in mse_loss.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.functional.binary_cross_entropy_with_logits(tg.tensor([0.0]), tg.tensor([1.0]))
    tensor(0.6931)
    """
    name = "binary_cross_entropy_with_logits"
    check_reduction(name, reduction)
    _check_alike(name, input, target)
    check_floats(name, input, weight, pos_weight)
    for what, factor in (("weight", weight), ("pos_weight", pos_weight)):
        if factor is not None:
            _check_broadcasts(name, what, factor.shape, input.shape)
    missed = _softplus(-input)  # -log(sigmoid(input))
    if pos_weight is not None:
        missed = missed * ((pos_weight - 1) * target + 1)
    loss = (1 - target) * input + missed
    return _reduced(loss if weight is None else loss * weight, reduction)


def _check_broadcasts(name: str, what: str, shape: tuple[int, ...], to: tuple[int, ...]) -> None:
    tail = to[len(to) - len(shape) :]
    if len(shape) > len(to) or any(n not in (1, m) for n, m in zip(shape, tail, strict=True)):
        raise ValueError(f"{name} expects a {what} that broadcasts to the input's shape {to}, got {shape}")
