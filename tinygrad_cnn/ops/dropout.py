"""Dropout: zeros at random in training (Srivastava et al. 2014). The mask is part of the graph, a constant of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autograd import Variable
from ..inplace import write
from ..kernels import on
from ..op import op
from ..random import default_generator
from .arguments import check_floats, real


@op(aux=("mask",))
def _dropout(input: Any, p: float, key: tuple[int, int]) -> Any:
    """input / (1 - p) where the key's random number keeps it, 0 elsewhere; and where it does."""
    return on(input).dropout(input, p, *key)


@op
def _dropout_grad(g: Any, mask: Any, p: float) -> Any:
    """g / (1 - p) where the mask keeps it, 0 elsewhere."""
    return on(g).dropout_grad(g, mask, p)


_dropout.vjps(input=lambda g, mask, p: _dropout_grad(g, mask=mask, p=p))
_dropout_grad.vjps(g=lambda v, mask, p: _dropout_grad(v, mask=mask, p=p))


def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """When training, zero each element with probability p and divide the others by 1 - p.

    input of any shape, floating; given back as it is when not training. The mask comes from the default
    generator and the elements' places, so that it does not depend on the number of threads; backward uses the
    same one. Raises ValueError for p outside [0, 1].

    >>> import tinygrad_cnn as tg
    >>> y = tg.nn.functional.dropout(tg.ones(1000), p=0.5)
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    """
    _check("dropout", input, p)
    if not training or p == 0:
        return input
    out = _dropout(input, p=float(p), key=default_generator.next_key())
    return write(input, out) if inplace else out


def dropout2d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """As dropout, with one decision for each channel of each item: input (N, C, ...).

    Raises ValueError for p outside [0, 1] or fewer than two dimensions.
    """
    _check("dropout2d", input, p)
    shape = input._array.shape
    if len(shape) < 2:
        raise ValueError(f"dropout2d expects an input of (N, C, ...), got {len(shape)} dimensions: {shape}")
    if not training or p == 0:
        return input
    ones = np.ones((*shape[:2], *[1] * (len(shape) - 2)), input.dtype)
    kept, _ = on(ones).dropout(ones, float(p), *default_generator.next_key())
    out = input * Variable.new(kept)
    return write(input, out) if inplace else out


def _check(name: str, input: Any, p: float) -> None:
    check_floats(name, input)
    real(name, "a probability p", p, 0, 1)
