"""Image transforms with torchvision's names; for one image (C, H, W) or a batch (N, C, H, W)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..creation import from_numpy
from ..tensor import Tensor


class Compose:
    """Apply transforms one after the other.

    >>> transform = Compose([ToTensor(), Normalize((0.5,), (0.5,))])
    >>> transform(np.zeros((28, 28), np.uint8)).shape
    (1, 28, 28)
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    @property
    def takes_batches(self) -> bool:
        """Whether all transforms do what they do to an image to each of a batch, so that one call will do."""
        return all(getattr(transform, "takes_batches", False) for transform in self.transforms)

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image

    def __repr__(self) -> str:
        return f"Compose({self.transforms})"


class ToTensor:
    """Turn an array (H, W) or (H, W, C) into a tensor (C, H, W), uint8 scaled to float32 in [0, 1].

    The datasets here hand their transform such a tensor already; it passes unchanged, so that a torchvision
    pipeline keeps its meaning. Raises TypeError for anything else, ValueError for an array of another rank.
    """

    takes_batches = True

    def __call__(self, image: Tensor | npt.NDArray[Any]) -> Tensor:
        if isinstance(image, Tensor):
            return image
        if not isinstance(image, np.ndarray):
            raise TypeError(f"ToTensor expects a NumPy array or a Tensor, got {type(image).__name__}")
        if image.ndim not in (2, 3):
            raise ValueError(f"ToTensor expects an array (H, W) or (H, W, C), got shape {image.shape}")
        planes = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)  # (H, W, C) -> (C, H, W)
        scaled = planes.astype(np.float32) / np.float32(255) if image.dtype == np.uint8 else planes
        return from_numpy(np.ascontiguousarray(scaled))

    def __repr__(self) -> str:
        return "ToTensor()"


class Normalize:
    """(image - mean) / std for each channel of a floating-point image (C, H, W) or batch (N, C, H, W).

    Raises ValueError for a std of 0 or means and stds that do not match the channels, TypeError for integers.

    >>> Normalize((0.5,), (0.25,))(from_numpy(np.ones((1, 2, 2), np.float32))).tolist()
    [[[2.0, 2.0], [2.0, 2.0]]]
    """

    takes_batches = True

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if len(mean) != len(std):
            raise ValueError(f"Normalize expects a mean and a std per channel, got {len(mean)} and {len(std)}")
        if not all(value > 0 for value in std):
            raise ValueError(f"Normalize divides by std, which must be positive, got {tuple(std)}")
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, image: Tensor) -> Tensor:
        values = image.detach().numpy()
        if not np.issubdtype(values.dtype, np.floating):
            raise TypeError(f"Normalize expects a floating-point image, got {values.dtype}; scale it to [0, 1] first")
        channels = values.shape[-3] if values.ndim >= 3 else None
        if channels != len(self.mean) and not (channels and len(self.mean) == 1):
            raise ValueError(f"Normalize has {len(self.mean)} channels, the image has shape {values.shape}")
        # (C,) -> (C, 1, 1)
        mean, std = (np.array(v, values.dtype)[:, None, None] for v in (self.mean, self.std))
        return from_numpy((values - mean) / std)

    def __repr__(self) -> str:
        return f"Normalize(mean={self.mean}, std={self.std})"
