"""Transforms: torchvision's arithmetic, for an image and for a batch."""

from __future__ import annotations

import numpy as np
import pytest

from tinygrad_cnn import from_numpy
from tinygrad_cnn.data import Compose, Normalize, ToTensor


def test_to_tensor_moves_channels_first_and_scales_bytes() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    image = ToTensor()(pixels)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image.numpy(), pixels.transpose(2, 0, 1).astype(np.float32) / 255)
    assert ToTensor()(pixels[..., 0]).shape == (1, 2, 4)
    assert ToTensor()(np.ones((2, 2), np.float64)).dtype == np.float64
    assert ToTensor()(image) is image


def test_normalize_works_on_each_channel_of_an_image_and_of_a_batch() -> None:
    values = np.random.default_rng(0).random((5, 2, 3, 3), np.float32)
    expected = values.copy()
    expected[:, 0] = (expected[:, 0] - np.float32(0.25)) / np.float32(0.5)
    expected[:, 1] = (expected[:, 1] - np.float32(0.5)) / np.float32(2)
    transform = Compose([ToTensor(), Normalize((0.25, 0.5), (0.5, 2))])
    np.testing.assert_array_equal(transform(from_numpy(values)).numpy(), expected)
    np.testing.assert_array_equal(transform(from_numpy(values[0])).numpy(), expected[0])


def test_what_cannot_be_transformed() -> None:
    with pytest.raises(TypeError, match="NumPy array or a Tensor, got list"):
        ToTensor()([1, 2])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        ToTensor()(np.zeros(3))
    with pytest.raises(ValueError, match="got 1 and 2"):
        Normalize((0.5,), (0.5, 0.5))
    with pytest.raises(ValueError, match="must be positive"):
        Normalize((0.5,), (0.0,))
    with pytest.raises(TypeError, match="floating-point image, got uint8"):
        Normalize((0.5,), (0.5,))(from_numpy(np.zeros((1, 2, 2), np.uint8)))
    with pytest.raises(ValueError, match=r"3 channels, the image has shape \(1, 2, 2\)"):
        Normalize((0.5,) * 3, (0.5,) * 3)(from_numpy(np.zeros((1, 2, 2), np.float32)))
