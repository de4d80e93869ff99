"""SyntheticDigits: the same pictures for the same seed, other ones for another, and MNIST's form."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tinygrad_cnn import kernels
from tinygrad_cnn.data import SyntheticDigits
from tinygrad_cnn.data.glyphs import CONTROLS, load_glyphs


@pytest.fixture(scope="module")
def digits() -> SyntheticDigits:
    return SyntheticDigits(5000)


@pytest.fixture
def threads() -> Iterator[None]:
    before = kernels.get_num_threads()
    yield
    kernels.set_num_threads(before)


def test_form(digits: SyntheticDigits) -> None:
    assert digits.data.shape == (5000, 28, 28)
    assert digits.data.dtype == np.uint8
    assert digits.targets.dtype == np.int64
    image, label = digits[7]
    assert image.shape == (1, 28, 28)
    assert label == digits.targets.numpy()[7]
    assert digits[:9][0].shape == (9, 1, 28, 28)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.usefixtures("threads")
def test_the_number_of_threads_changes_no_pixel(digits: SyntheticDigits, count: int) -> None:
    kernels.set_num_threads(1)
    SyntheticDigits(5000, seed=1)  # so that an image left out next would show this one, from reused memory
    kernels.set_num_threads(count)
    np.testing.assert_array_equal(SyntheticDigits(5000).data.numpy(), digits.data.numpy())


def test_fewer_images_are_the_first_of_more(digits: SyntheticDigits) -> None:
    few = SyntheticDigits(130)
    np.testing.assert_array_equal(few.data.numpy(), digits.data.numpy()[:130])
    np.testing.assert_array_equal(few.targets.numpy(), digits.targets.numpy()[:130])


def test_seed_and_part_give_other_images(digits: SyntheticDigits) -> None:
    for other in (SyntheticDigits(200, seed=1), SyntheticDigits(200, train=False)):
        same = (other.data.numpy()[:, None] == digits.data.numpy()[None, :200]).all(axis=(2, 3))
        assert not same.any()


def test_all_digits_in_like_numbers(digits: SyntheticDigits) -> None:
    counts = np.bincount(digits.targets.numpy(), minlength=10)
    assert counts.min() > 430  # 500 expected, standard deviation 21
    assert counts.max() < 570


def test_the_statistics_are_close_to_those_of_mnist(digits: SyntheticDigits) -> None:
    ink = digits.data.numpy() / 255
    assert abs(ink.mean() - 0.1307) < 0.01
    assert abs(ink.std() - 0.3081) < 0.01
    y, x = np.mgrid[:28, :28]
    for axis in (x, y):  # MNIST's centre of mass is at 14.0 and 14.0
        centre = (ink * axis).sum(axis=(1, 2)) / ink.sum(axis=(1, 2))
        assert abs(centre.mean() - 14) < 0.1
        assert centre.std() < 0.6
    dark = ink > 0.5
    size = np.maximum(dark.any(1).sum(1), dark.any(2).sum(1))
    assert 18.5 < size.mean() < 20.5  # the box of 20x20
    border = ink.copy()
    border[:, 1:-1, 1:-1] = 0
    assert (border.max(axis=(1, 2)) > 0).mean() < 0.03  # 1.4 % of MNIST's images have ink on the border


def test_a_digit_resembles_its_own_class_most(digits: SyntheticDigits) -> None:
    """The nearest of 4,000 digits has the right label for most of 1,000 others: labels and strokes agree."""
    flat, labels = digits.data.numpy().reshape(5000, -1).astype(np.float32), digits.targets.numpy()
    train, test = flat[:4000], flat[4000:]
    distance = (train**2).sum(1) - 2 * test @ train.T
    assert (labels[:4000][distance.argmin(1)] == labels[4000:]).mean() > 0.85


def test_the_strokes_enclose_what_the_digit_encloses(digits: SyntheticDigits) -> None:
    """About two holes in an 8, one in a 0, 6 or 9, fewer in the others, and least ink in a 1."""
    ink = np.pad(digits.data.numpy() > 127, ((0, 0), (1, 1), (1, 1)))
    a, b, c, d = (ink[:, i : i + 29, j : j + 29] for i in (0, 1) for j in (0, 1))
    quad = a.astype(int) + b + c + d
    diagonal = (quad == 2) & (a == d)
    # components - holes of 8-connected ink from counts of 2x2 windows (S. B. Gray, 1971)
    euler = ((quad == 1).sum((1, 2)) - (quad == 3).sum((1, 2)) - 2 * diagonal.sum((1, 2))) / 4
    holes = np.array([(1 - euler)[digits.targets.numpy() == digit].mean() for digit in range(10)])
    assert holes[8] > 1.8
    assert holes[[0, 6, 9]].min() > 0.9
    assert holes[[0, 6, 9]].max() < 1.5
    assert holes[[1, 2, 3, 4, 5, 7]].max() < 0.75  # some hands write 2 with a loop and 4 closed
    thinnest = [digits.data.numpy()[digits.targets.numpy() == digit].mean() for digit in range(10)]
    assert np.argmin(thinnest) == 1


def test_glyphs_are_whole() -> None:
    glyphs = load_glyphs()
    np.testing.assert_allclose(np.bincount(glyphs.digit, glyphs.share), np.ones(10))
    assert glyphs.length.max() <= CONTROLS
    assert (np.diff(glyphs.digit) >= 0).all()
    assert np.abs(glyphs.points).max() <= 0.5
    assert (glyphs.pen[:, 0] == 0).all()


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="n of at least 1, got 0"):
        SyntheticDigits(0)
    with pytest.raises(ValueError, match="seed of at least 0, got -1"):
        SyntheticDigits(3, seed=-1)
