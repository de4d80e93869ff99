"""Limits on gradients, and all parameters as one vector."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..autograd import no_grad
from ..ops import cat
from ..tensor import Tensor


def _listed(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [parameters] if isinstance(parameters, Tensor) else list(parameters)


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [p.grad for p in _listed(parameters) if p.grad is not None]


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients, in place, so that their common norm is at most max_norm.

    Returns the norm from before. It is summed in float64. With error_if_nonfinite, RuntimeError, before any
    change, for a norm of NaN or infinity.
    """
    grads = _gradients(parameters)
    total = _norm([g._array for g in grads], float(norm_type))
    if error_if_nonfinite and not np.isfinite(total):
        raise RuntimeError(f"the norm of order {norm_type} of the gradients is {total}, so they cannot be clipped")
    scale = max_norm / (total + 1e-6)
    if not scale >= 1:
        with no_grad():
            for g in grads:
                g.mul_(scale)
    return Tensor(np.asarray(total, grads[0].dtype if grads else np.float32))


def _norm(arrays: list[np.ndarray], order: float) -> float:
    """The norm of all elements together."""
    if order == np.inf:
        return float(np.max([np.abs(a).max(initial=0) for a in arrays], initial=0))
    powers = [np.sum(np.abs(a) ** order, dtype=np.float64) for a in arrays]
    return math.pow(math.fsum(powers), 1 / order)


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Limit every element of the gradients, in place, to [-clip_value, clip_value]."""
    with no_grad():
        for g in _gradients(parameters):
            g.clamp_(-clip_value, clip_value)


def parameters_to_vector(parameters: Iterable[Tensor]) -> Any:
    """All parameters as one 1-D tensor, in order; differentiable."""
    return cat([p.reshape(-1) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Copy the elements of a vector into the parameters, in order.

    Raises TypeError for what is no tensor, and ValueError, before any change, for another number of elements.
    """
    if not isinstance(vec, Tensor):
        raise TypeError(f"vector_to_parameters expects a Tensor, got {type(vec).__name__}")
    params = list(parameters)
    count = sum(p.numel() for p in params)
    if vec.shape != (count,):
        raise ValueError(f"vector_to_parameters expects a vector of {count} elements, got shape {vec.shape}")
    with no_grad():
        at = 0
        for p in params:
            p.copy_(vec[at : at + p.numel()].reshape(p.shape))
            at += p.numel()
