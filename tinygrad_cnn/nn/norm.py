"""Normalisation layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..creation import ones, tensor, zeros
from ..ops.arguments import integer, real
from ..ops.norm import batch_norm_or_relu, features_of
from ..tensor import Tensor
from . import functional as F
from .module import Module, Parameter


class _BatchNorm(Module):
    """Batch norm for inputs of certain numbers of dimensions."""

    ranks: tuple[int, ...]
    form: str
    weight: Parameter | None
    bias: Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_features = n = integer(type(self).__name__, "num_features", num_features, 1)
        self.eps = real(type(self).__name__, "eps", eps, 0)
        self.momentum = None if momentum is None else real(type(self).__name__, "momentum", momentum)
        self.affine = affine
        self.track_running_stats = track_running_stats
        like = {"device": device, "dtype": dtype}
        self.register_parameter("weight", Parameter(ones(n, **like)) if affine else None)
        self.register_parameter("bias", Parameter(zeros(n, **like)) if affine else None)
        self.register_buffer("running_mean", zeros(n, **like) if track_running_stats else None)
        self.register_buffer("running_var", ones(n, **like) if track_running_stats else None)
        self.register_buffer(
            "num_batches_tracked", tensor(0, dtype=np.int64, device=device) if track_running_stats else None
        )

    def reset_running_stats(self) -> None:
        """Forget the statistics: mean 0, variance 1, no batches."""
        for buffer, value in ((self.running_mean, 0), (self.running_var, 1), (self.num_batches_tracked, 0)):
            if buffer is not None:
                buffer.fill_(value)

    def reset_parameters(self) -> None:
        """Weight 1, bias 0, and no statistics."""
        self.reset_running_stats()
        for p, value in ((self.weight, 1.0), (self.bias, 0.0)):
            if p is not None:
                p.detach().fill_(value)

    def forward(self, input: Any) -> Any:
        return self._normalised(input, relu=False)

    def _forward_relu(self, input: Any) -> Any:
        return self._normalised(input, relu=True)

    def _normalised(self, input: Any, relu: bool) -> Any:
        if input.ndim not in self.ranks:
            raise ValueError(f"{type(self).__name__} expects an input of {self.form}, got {input.shape}")
        mean, var = self.running_mean, self.running_var
        if not self.training:
            return batch_norm_or_relu(input, mean, var, self.weight, self.bias, mean is None, 0.0, self.eps, relu)
        momentum = self.momentum
        tracked = self.num_batches_tracked
        if tracked is not None and momentum is None:
            momentum = 1.0 / (int(tracked.item()) + 1)  # the mean of all batches so far
        out = batch_norm_or_relu(input, mean, var, self.weight, self.bias, True, momentum or 0.0, self.eps, relu)
        if tracked is not None:
            tracked._array += 1
            tracked._version.n += 1
        return out

    def _fixed_affine(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift of each channel, in float64, that the running statistics amount to."""
        assert self.running_mean is not None
        assert self.running_var is not None
        scale = 1 / np.sqrt(self.running_var._array.astype(np.float64) + self.eps)
        scale = scale if self.weight is None else scale * self.weight._array
        shift = -self.running_mean._array * scale
        return scale, shift if self.bias is None else shift + self.bias._array

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(_BatchNorm):
    """Batch norm of features (N, C) or signals (N, C, L), channel by channel; see `nn.functional.batch_norm`.

    Keeps running statistics for evaluation unless track_running_stats is False; momentum None makes them the
    plain mean over all batches.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.BatchNorm1d(3)(tg.randn(8, 3)).shape
    (8, 3)
    """

    ranks = (2, 3)
    form = "(N, C) or (N, C, L)"


class BatchNorm2d(_BatchNorm):
    """Batch norm of images (N, C, H, W), channel by channel; otherwise as BatchNorm1d.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.BatchNorm2d(3)(tg.randn(8, 3, 4, 4)).shape
    (8, 3, 4, 4)
    """

    ranks = (4,)
    form = "(N, C, H, W)"


class LayerNorm(Module):
    """Normalise each item over its last dimensions; see `nn.functional.layer_norm`.

    >>> import tinygrad_cnn as tg
    >>> tg.nn.LayerNorm(10)(tg.randn(4, 5, 10)).shape
    (4, 5, 10)
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        normalized_shape: Any,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = features_of(normalized_shape)
        self.eps = real("LayerNorm", "eps", eps, 0)
        self.elementwise_affine = elementwise_affine
        like = {"device": device, "dtype": dtype}
        self.register_parameter(
            "weight", Parameter(ones(*self.normalized_shape, **like)) if elementwise_affine else None
        )
        self.register_parameter(
            "bias", Parameter(zeros(*self.normalized_shape, **like)) if elementwise_affine and bias else None
        )

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        for p, value in ((self.weight, 1.0), (self.bias, 0.0)):
            if p is not None:
                p.detach().fill_(value)

    def forward(self, input: Any) -> Any:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )
