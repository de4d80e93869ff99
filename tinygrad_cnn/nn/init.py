"""How weights start. Every function fills its tensor in place, outside the graph, and returns it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ..autograd import no_grad
from ..random import Generator, stream_of
from ..tensor import Tensor

T = TypeVar("T", bound=Tensor)


def _fill(tensor: T, values: Any) -> T:
    with no_grad():
        tensor.copy_(Tensor(np.asarray(values)))
    return tensor


def uniform_(tensor: T, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> T:
    """Uniform numbers from [a, b)."""
    return _fill(tensor, stream_of(generator).uniform(a, b, tensor.shape))


def normal_(tensor: T, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> T:
    """Normal numbers."""
    return _fill(tensor, stream_of(generator).normal(mean, std, tensor.shape))


def trunc_normal_(
    tensor: T,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> T:
    """Normal numbers, drawn again where they fall outside [a, b]. Raises ValueError where hardly any fall inside."""
    inside = 0.5 * (math.erf((b - mean) / (std * math.sqrt(2))) - math.erf((a - mean) / (std * math.sqrt(2))))
    if inside < 1e-3:
        raise ValueError(f"trunc_normal_ expects [a, b] near the mean, got [{a}, {b}] for mean {mean} and std {std}")
    stream = stream_of(generator)
    values = stream.normal(mean, std, tensor.shape)
    while (outside := (values < a) | (values > b)).any():
        values[outside] = stream.normal(mean, std, int(outside.sum()))
    return _fill(tensor, values)


def constant_(tensor: T, val: float) -> T:
    """The same number everywhere."""
    return _fill(tensor, val)


def zeros_(tensor: T) -> T:
    """Zeros."""
    return _fill(tensor, 0.0)


def ones_(tensor: T) -> T:
    """Ones."""
    return _fill(tensor, 1.0)


def eye_(tensor: T) -> T:
    """Ones on the diagonal of a matrix, zeros elsewhere; ValueError for another number of dimensions."""
    if tensor.ndim != 2:
        raise ValueError(f"eye_ expects a matrix, got {tensor.ndim} dimensions: {tensor.shape}")
    return _fill(tensor, np.eye(tensor.shape[0], tensor.shape[1]))


def orthogonal_(tensor: T, gain: float = 1.0, generator: Generator | None = None) -> T:
    """Rows (or columns, whichever are fewer) that are orthogonal and of length gain.

    (Saxe et al. 2014, arXiv:1312.6120.) Dimensions after the first count as columns. Raises ValueError for
    fewer than two dimensions.
    """
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_ expects at least 2 dimensions, got {tensor.ndim}: {tensor.shape}")
    rows = tensor.shape[0]
    if tensor.numel() == 0:
        return tensor
    columns = tensor.numel() // rows
    normal = stream_of(generator).normal(size=(max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(normal)
    q *= np.sign(np.diag(r))  # makes the distribution uniform
    return _fill(tensor, gain * (q if rows >= columns else q.T).reshape(tensor.shape))


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor on the standard deviation that keeps the scale of activations behind a nonlinearity.

    ValueError for an unknown name.
    """
    gains: dict[str, Callable[[], float]] = {
        **dict.fromkeys(("linear", "sigmoid", "conv1d", "conv2d", "conv3d"), lambda: 1.0),
        **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), lambda: 1.0),
        "tanh": lambda: 5.0 / 3,
        "relu": lambda: math.sqrt(2.0),
        "leaky_relu": lambda: math.sqrt(2.0 / (1 + (0.01 if param is None else param) ** 2)),
        "selu": lambda: 3.0 / 4,
    }
    if nonlinearity not in gains:
        raise ValueError(f"unknown nonlinearity {nonlinearity!r}; use one of {', '.join(sorted(gains))}")
    return gains[nonlinearity]()


def _fans(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out): the inputs that an output sums, and the outputs that an input reaches."""
    if tensor.ndim < 2:
        raise ValueError(f"fan in and fan out need at least 2 dimensions, got {tensor.ndim}: {tensor.shape}")
    taps = math.prod(tensor.shape[2:])
    return tensor.shape[1] * taps, tensor.shape[0] * taps


def xavier_uniform_(tensor: T, gain: float = 1.0, generator: Generator | None = None) -> T:
    """Uniform in +-gain * sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010); ValueError below two dimensions."""
    bound = gain * math.sqrt(6.0 / sum(_fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: T, gain: float = 1.0, generator: Generator | None = None) -> T:
    """Normal with std gain * sqrt(2 / (fan_in + fan_out)) (Glorot & Bengio 2010); ValueError below two dimensions."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(_fans(tensor))), generator)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    fans = dict(zip(("fan_in", "fan_out"), _fans(tensor), strict=True))
    if mode not in fans:
        raise ValueError(f"mode must be 'fan_in' or 'fan_out', got {mode!r}")
    return calculate_gain(nonlinearity, a) / math.sqrt(fans[mode])


def kaiming_uniform_(
    tensor: T,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> T:
    """Uniform in +-gain * sqrt(3 / fan) (He et al. 2015, arXiv:1502.01852), a the slope of a leaky ReLU.

    Raises ValueError below two dimensions and for an unknown mode or nonlinearity.
    """
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: T,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> T:
    """Normal with std gain / sqrt(fan) (He et al. 2015, arXiv:1502.01852), a the slope of a leaky ReLU.

    Raises ValueError below two dimensions and for an unknown mode or nonlinearity.
    """
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)
