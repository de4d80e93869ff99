"""Layers and losses as functions: the ops under PyTorch's names."""

from __future__ import annotations

from typing import Any

from .. import ops
from ..inplace import write
from ..ops.conv import conv2d as conv2d
from ..ops.conv import conv_transpose2d as conv_transpose2d
from ..ops.dropout import dropout as dropout
from ..ops.dropout import dropout2d as dropout2d
from ..ops.elementwise import gelu as gelu
from ..ops.elementwise import relu as relu
from ..ops.elementwise import sigmoid as sigmoid
from ..ops.elementwise import softplus as softplus
from ..ops.elementwise import tanh as tanh
from ..ops.index import one_hot as one_hot
from ..ops.loss import binary_cross_entropy_with_logits as binary_cross_entropy_with_logits
from ..ops.loss import cross_entropy as cross_entropy
from ..ops.loss import l1_loss as l1_loss
from ..ops.loss import mse_loss as mse_loss
from ..ops.loss import nll_loss as nll_loss
from ..ops.loss import smooth_l1_loss as smooth_l1_loss
from ..ops.matmul import linear as linear
from ..ops.norm import batch_norm as batch_norm
from ..ops.norm import layer_norm as layer_norm
from ..ops.pool import adaptive_avg_pool2d as adaptive_avg_pool2d
from ..ops.pool import avg_pool2d as avg_pool2d
from ..ops.pool import max_pool2d as max_pool2d
from ..ops.reduce import log_softmax as log_softmax
from ..ops.reduce import normalize as normalize
from ..ops.reduce import softmax as softmax
from ..ops.shape import pad as pad


def _into(input: Any, out: Any, inplace: bool) -> Any:
    return write(input, out) if inplace else out


def leaky_relu(input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    """input where positive, negative_slope * input elsewhere; the gradient at 0 is negative_slope.

    TypeError for integers, which would round the slope to 0.
    """
    return _into(input, ops.leaky_relu(input, negative_slope), inplace)


def elu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    """input where positive, alpha * (exp(input) - 1) elsewhere (Clevert et al. 2016, arXiv:1511.07289)."""
    return _into(input, ops.elu(input, alpha), inplace)


def silu(input: Any, inplace: bool = False) -> Any:
    """input * sigmoid(input)."""
    return _into(input, ops.silu(input), inplace)


def hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:
    """input limited to [min_val, max_val]; the gradient on the limits is 0."""
    return _into(input, ops.hardtanh(input, min_val, max_val), inplace)


def relu6(input: Any, inplace: bool = False) -> Any:
    """input limited to [0, 6]; the gradient on the limits is 0."""
    return hardtanh(input, 0.0, 6.0, inplace)
