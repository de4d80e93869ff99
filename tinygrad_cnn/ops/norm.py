"""Batch norm and layer norm: centre and scale by a mean and a variance that are part of the graph.

With x^ = (x - mean) * rstd and h = g * weight, both have the gradient rstd * (h - mean(h) - x^ * mean(h *
x^)), the means over what was normalised together (Ioffe & Szegedy 2015, arXiv:1502.03167; Ba et al. 2016,
arXiv:1607.06450).

Letters: N images, C channels, R rows, F features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from operator import index
from typing import Any

import numpy as np

from ..inplace import check_writable
from ..kernels import on
from ..op import op
from .arguments import check_floats, real
from .elementwise import _relu_grad


def _normalised_grads(
    g: Any,
    wanted: Sequence[bool],
    input: Any,
    weight: Any,
    eps: float,
    dims: tuple[int, ...],
    over: tuple[int, ...],
) -> list[Any]:
    """The gradients in plain ops: `dims` are normalised together, `over` share an element of weight and bias."""
    centred = input - input.mean(dims, keepdim=True)
    rstd = (centred.square().mean(dims, keepdim=True) + eps).rsqrt()
    unit = centred * rstd
    dx = dw = None
    if wanted[0]:
        shape = [1 if dim in over else n for dim, n in enumerate(input.shape)]
        h = g if weight is None else g * weight.reshape(*shape)
        dx = rstd * (h - h.mean(dims, keepdim=True) - unit * (h * unit).mean(dims, keepdim=True))
    if wanted[1]:
        dw = (g * unit).sum(over)
    return [dx, dw, g.sum(over) if wanted[2] else None]


# ------------------------------------------------------------------------------------------------- batch norm


@op(aux=("mean", "rstd", "shift"))
def _batch_norm(input: Any, weight: Any, bias: Any, eps: float, running: Any, relu: bool) -> Any:
    """(N, C, ...), (C,), (C,) -> (N, C, ...), perhaps with a ReLU, and mean, 1 / sqrt(var + eps) and shift (C,).

    Updates the running statistics.
    """
    held = running and (running[0]._array, running[1]._array, running[2])
    y, mean, rstd, shift = on(input).batch_norm_train(input, weight, bias, eps, relu, held)
    if running is not None:
        for x in running[:2]:
            x._version.n += 1
    return y, mean, rstd, shift


def _batch_norm_vjp(
    g: Any, wanted: Sequence[bool], input: Any, weight: Any, mean: Any, rstd: Any, shift: Any, eps: float, relu: bool
) -> Any:
    if relu:  # it looks at the result, which the forward pass may not have kept
        scale = rstd if weight is None else rstd * weight._array
        g = _relu_grad(g, on(mean).channel_affine(input._array, mean, scale, shift))
    dims = (0, *range(2, input.ndim))
    return _normalised_grads(g, wanted, input, weight, eps, dims, dims)


_batch_norm.joint_vjp(_batch_norm_vjp)
_batch_norm.kernel_vjp(
    lambda g, wanted, input, weight, mean, rstd, shift, relu, own: on(g).batch_norm_train_grad(
        g, input, mean, rstd, weight, shift if relu else None, own
    )
)


@_batch_norm.rebuild_from_input
def _normalise_again(weight: Any, mean: Any, rstd: Any, shift: Any, relu: bool) -> Any:
    """What makes the output of the input: as `_batch_norm` does, to the last bit, without its pass for the sums."""
    scale = rstd if weight is None else rstd * weight
    return lambda input: on(input).channel_affine(input, mean, scale, shift, relu)


@op
def _batch_norm_eval(input: Any, weight: Any, bias: Any, mean: Any, rstd: Any) -> Any:
    """(N, C, ...) with the statistics (C,) of another time: an affine map of each channel."""
    return on(input).channel_affine(input, mean, rstd if weight is None else rstd * weight, bias)


def _over_channels(x: Any) -> Any:
    """(N, C, ...) -> (C,): sums."""
    return x.sum((0, *range(2, x.ndim)))


def _eval_input(g: Any, weight: Any, mean: Any, rstd: Any) -> Any:
    return _batch_norm_eval(g, weight, None, mean=np.zeros_like(mean), rstd=rstd)


def _eval_weight(g: Any, input: Any, mean: Any, rstd: Any) -> Any:
    return _over_channels(g * _batch_norm_eval(input, None, None, mean=mean, rstd=rstd))


_batch_norm_eval.vjps(input=_eval_input, weight=_eval_weight, bias=_over_channels)


@op
def _batch_norm_eval_relu(input: Any, weight: Any, bias: Any, mean: Any, rstd: Any) -> Any:
    """The ReLU of _batch_norm_eval."""
    return on(input).channel_affine(input, mean, rstd if weight is None else rstd * weight, bias, relu=True)


def _eval_relu_grads(g: Any, wanted: Sequence[bool], input: Any, weight: Any, mean: Any, rstd: Any, out: Any) -> Any:
    g = _relu_grad(g, out)
    return [
        _eval_input(g, weight, mean, rstd) if wanted[0] else None,
        _eval_weight(g, input, mean, rstd) if wanted[1] else None,
        _over_channels(g) if wanted[2] else None,
    ]


_batch_norm_eval_relu.joint_vjp(_eval_relu_grads)


def batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """(input - mean) / sqrt(var + eps) * weight + bias, channel by channel.

    input (N, C, ...) floating; running_mean, running_var, weight, bias (C,) or None; weight and bias of
    input's dtype. When training, mean and (biased) variance are the batch's, and the running statistics,
    where given, move towards them in place: running = (1 - momentum) * running + momentum * batch, with the
    unbiased variance. Else they are the running statistics. Returns input's shape and dtype.

    Raises ValueError for other shapes, one sample per channel when training, or missing statistics when not,
    and TypeError for dtypes that differ.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.functional.batch_norm(tg.tensor([[1.0], [3.0]]), None, None, training=True, eps=0.0).tolist()
    [[-1.0], [1.0]]
    """
    return batch_norm_or_relu(input, running_mean, running_var, weight, bias, training, momentum, eps, False)


def batch_norm_or_relu(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any,
    bias: Any,
    training: bool,
    momentum: float,
    eps: float,
    relu: bool,
) -> Any:
    """batch_norm, or with `relu` the same followed by a ReLU, for which no pass over memory is needed."""
    check_floats("batch_norm", input, weight, bias)
    for x in (running_mean, running_var):
        if x is not None:
            check_floats("batch_norm", x)
    _check_channels(
        input._array.shape,
        *(None if x is None else x._array.shape for x in (running_mean, running_var, weight, bias)),
    )
    real("batch_norm", "eps", eps, 0)
    if training:
        return _train(input, running_mean, running_var, weight, bias, momentum, float(eps), relu)
    if running_mean is None or running_var is None:
        raise ValueError("batch_norm expects running_mean and running_var when not training; or pass training=True")
    rstd = 1 / np.sqrt(running_var._array.astype(np.float64) + eps)
    mean = running_mean._array.astype(np.float64)  # a copy: training may move the statistics before backward
    affine = _batch_norm_eval_relu if relu else _batch_norm_eval
    out = affine(_flat(input), weight, bias, mean=mean, rstd=rstd)
    return out if input._array.ndim <= 4 else out.reshape(*input.shape)


def _train(
    input: Any, running_mean: Any, running_var: Any, weight: Any, bias: Any, momentum: float, eps: float, relu: bool
) -> Any:
    shape = input._array.shape
    if input._array.size // shape[1] < 2:
        raise ValueError(
            f"batch_norm expects more than one value per channel when training, got an input of {shape}; "
            "use a larger batch, or eval()"
        )
    if (running_mean is None) != (running_var is None):
        raise ValueError("batch_norm expects both running_mean and running_var, or neither")
    running = None
    if running_mean is not None:
        running = running_mean, running_var, float(real("batch_norm", "momentum", momentum))
        check_writable(running_mean)
        check_writable(running_var)
    if len(shape) <= 4:
        return _batch_norm(input, weight, bias, eps=eps, running=running, relu=relu)
    return _batch_norm(_flat(input), weight, bias, eps=eps, running=running, relu=relu).reshape(*shape)


def _flat(input: Any) -> Any:
    """The kernels know up to two dimensions after the channels; more are one."""
    return input if input._array.ndim <= 4 else input.flatten(2)


@lru_cache(4096)
def _check_channels(x: tuple[int, ...], *others: tuple[int, ...] | None) -> None:
    if len(x) < 2:
        raise ValueError(f"batch_norm expects an input of (N, C, ...), got {len(x)} dimensions: {x}")
    if x[1] == 0:
        raise ValueError(f"batch_norm expects at least one channel, got an input of {x}")
    for name, shape in zip(("running_mean", "running_var", "weight", "bias"), others, strict=True):
        if shape is not None and shape != (x[1],):
            raise ValueError(
                f"batch_norm expects {math.prod(shape)} channels, as its {name} of {shape} has, got an "
                f"input of {x}: it has {x[1]}; set num_features={x[1]}"
            )


# ------------------------------------------------------------------------------------------------- layer norm


@op(aux=("mean", "rstd"))
def _layer_norm(input: Any, weight: Any, bias: Any, eps: float) -> Any:
    """(R, F), (F,), (F,) -> (R, F), and mean and 1 / sqrt(var + eps) (R,)."""
    return on(input).layer_norm(input, weight, bias, eps)


def _layer_norm_vjp(g: Any, wanted: Sequence[bool], input: Any, weight: Any, eps: float) -> Any:
    return _normalised_grads(g, wanted, input, weight, eps, (1,), (0,))


_layer_norm.joint_vjp(_layer_norm_vjp)
_layer_norm.kernel_vjp(lambda g, wanted, input, weight, mean, rstd: on(g).layer_norm_grad(g, input, mean, rstd, weight))


def layer_norm(input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """(input - mean) / sqrt(var + eps) * weight + bias, with the statistics of each item's own features.

    The variance is the biased one. normalized_shape, an int or ints, is the end of input's shape; weight and
    bias have that shape, or are None, and input's dtype. Returns input's shape and dtype. Raises ValueError
    for other shapes and TypeError for dtypes that differ.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.functional.layer_norm(tg.tensor([[1.0, 3.0], [2.0, 8.0]]), 2, eps=0.0).tolist()
    [[-1.0, 1.0], [-1.0, 1.0]]
    """
    check_floats("layer_norm", input, weight, bias)
    shape, features = input._array.shape, features_of(normalized_shape)
    if not features or shape[-len(features) :] != features:
        raise ValueError(
            f"layer_norm expects an input that ends in normalized_shape {features}, got {shape}; set "
            f"normalized_shape={shape[-max(len(features), 1) :]}"
        )
    for name, x in (("weight", weight), ("bias", bias)):
        if x is not None and x._array.shape != features:
            raise ValueError(f"layer_norm expects a {name} of normalized_shape {features}, got {x._array.shape}")
    real("layer_norm", "eps", eps, 0)
    if len(features) > 1:
        weight, bias = (None if x is None else x.reshape(-1) for x in (weight, bias))
    rows = input if len(shape) == 2 and len(features) == 1 else input.reshape(-1, math.prod(features))
    out = _layer_norm(rows, weight, bias, eps=float(eps))
    return out if rows is input else out.reshape(*shape)


def features_of(normalized_shape: Any) -> tuple[int, ...]:
    """normalized_shape as a tuple of ints; TypeError for other things, ValueError for sizes below 1."""
    sizes = normalized_shape if isinstance(normalized_shape, tuple | list) else (normalized_shape,)
    try:
        features = tuple(index(n) for n in sizes)
    except TypeError:
        raise TypeError(f"layer_norm expects ints as normalized_shape, got {normalized_shape!r}") from None
    if any(n < 1 for n in features):
        raise ValueError(f"layer_norm expects at least one feature, got normalized_shape {features}")
    return features
