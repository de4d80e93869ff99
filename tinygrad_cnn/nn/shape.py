"""Layers that only change the shape."""

from __future__ import annotations

from typing import Any

from ..ops.arguments import integer
from ..ops.dims import size_of
from .module import Module


class Flatten(Module):
    """One dimension out of those from start_dim to end_dim: (N, C, H, W) -> (N, C*H*W)."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = integer("Flatten", "start_dim", start_dim)
        self.end_dim = integer("Flatten", "end_dim", end_dim)

    def forward(self, input: Any) -> Any:
        return input.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Several dimensions out of one: (N, C*H*W) -> (N, C, H, W) for dim 1 and unflattened_size (C, H, W)."""

    def __init__(self, dim: int, unflattened_size: Any) -> None:
        super().__init__()
        self.dim = integer("Unflatten", "dim", dim)
        self.unflattened_size = size_of(unflattened_size)

    def forward(self, input: Any) -> Any:
        return input.unflatten(self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
