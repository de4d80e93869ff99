"""Handwritten-looking digits without a download: strokes of our own, warped, inked and framed.

The steps are those a real digit goes through on its way into MNIST: a person writes it (control points that
vary, joined by Catmull-Rom splines, bent by a smooth field, slanted and turned) with a pen (thickness, ragged
edges), then it is scaled into a box of 20x20 pixels and its centre of mass moved to the middle of 28x28.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..kernels import jit, launch
from ..tensor import Tensor
from .datasets import ImageDataset
from .glyphs import CONTROLS, load_glyphs

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

_PIECES = 5  # straight pieces of one spline span
_SIZE = 28
_BOX = 20.0
_MIDDLE = 14.0  # MNIST's mean centre of mass, in pixel numbers from 0
_TRAITS = 19  # random numbers of an image besides those of its control points
_SHARDS = 64  # image i uses scratch i % 64, which one part owns: the split never depends on their number

# How hands and pens differ: standard deviations, chosen so that the pictures resemble MNIST's.
_RAREST = 2.0  # standard deviations that occur: digits beyond could be read as others
_JITTER = 0.055  # of a control point, in units of the glyph's box
_LOOSE_ENDS = 1.6  # times that where a stroke begins or ends
_BEND = 0.03  # amplitude of the smooth field
_WIDTH = 0.78  # mean width / height
_WIDTH_SPREAD = 0.21  # of its logarithm
_SLANT = 0.18  # mean x per y: MNIST leans to the right
_SLANT_SPREAD = 0.26
_TURN = 0.10  # radians
_RADIUS = 1.25  # mean half width of the pen in pixels
_RADIUS_SPREAD = 0.28  # of its logarithm
_RADIUS_WAVE = 0.12  # of its change along the stroke
_SHIFT = 0.3  # in pixels, of the centre of mass
_NOISE = 0.12  # at the edge of the ink


@jit
def _place_controls(glyph: Floats, pen: Bytes, count: int, normals: Floats, controls: Floats) -> None:
    """The glyph's control points, each moved at random; both halves of a corner move together."""
    for k in range(count):
        end = pen[k] == 0 or k + 1 == count or pen[k + 1] == 0
        spread = _JITTER * _LOOSE_ENDS if end else _JITTER
        for axis in range(2):  # row by row: a slice assignment costs 2 s more to compile
            moved = glyph[k, axis] + spread * normals[2 * k + axis]
            controls[k, axis] = controls[k - 1, axis] if pen[k] == 2 else moved


@jit
def _draw_splines(controls: Floats, pen: Bytes, count: int, path: Floats) -> int:
    """Catmull-Rom splines through the control points as rows x, y, pen; returns their number."""
    n = 0
    for k in range(1, count):
        if pen[k] != 1:
            continue
        before = k - 2 if pen[k - 1] != 0 else k - 1
        after = k + 1 if k + 1 < count and pen[k + 1] != 0 else k
        for j in range(_PIECES + 1):
            u = j / _PIECES
            w0 = 0.5 * u * ((2.0 - u) * u - 1.0)
            w1 = 0.5 * (u * u * (3.0 * u - 5.0) + 2.0)
            w2 = 0.5 * u * ((4.0 - 3.0 * u) * u + 1.0)
            w3 = 0.5 * u * u * (u - 1.0)
            for axis in range(2):
                path[n, axis] = (
                    w0 * controls[before, axis]
                    + w1 * controls[k - 1, axis]
                    + w2 * controls[k, axis]
                    + w3 * controls[after, axis]
                )
            path[n, 2] = j  # 0: the pen comes down, no ink on the way here
            n += 1
    return n


@jit
def _bend(x: float, y: float, z: Floats) -> float:
    """How far the smooth field moves a point along x; called with x and y swapped for the other axis."""
    wave = z[0] * math.sin(3.0 * y + 3.0 * z[1]) + 0.5 * z[2] * math.sin(6.0 * y + 3.0 * z[3])
    bend: float = _BEND * (wave + 5.0 * z[4] * (0.25 - x * x))
    return bend


@jit
def _write(path: Floats, n: int, traits: Floats) -> None:
    """Bend, stretch, slant and turn the path in place."""
    width = _WIDTH * math.exp(_WIDTH_SPREAD * traits[0])
    slant = _SLANT + _SLANT_SPREAD * traits[1]
    cos, sin = math.cos(_TURN * traits[2]), math.sin(_TURN * traits[2])
    for k in range(n):
        x, y = path[k, 0], path[k, 1]
        bent_x = width * (x + _bend(x, y, traits[3:8]))
        bent_y = y + _bend(y, x, traits[8:13])
        bent_x -= slant * bent_y
        path[k, 0] = cos * bent_x - sin * bent_y
        path[k, 1] = sin * bent_x + cos * bent_y


@jit
def _frame(path: Floats, n: int, radius: float, traits: Floats) -> None:
    """Scale the path so that its ink fits the box, and move its centre of mass close to the middle."""
    low_x = high_x = path[0, 0]
    low_y = high_y = path[0, 1]
    mass = moment_x = moment_y = 0.0
    for k in range(1, n):
        x, y = path[k, 0], path[k, 1]
        low_x, high_x = min(low_x, x), max(high_x, x)
        low_y, high_y = min(low_y, y), max(high_y, y)
        if path[k, 2] != 0:
            length = math.hypot(x - path[k - 1, 0], y - path[k - 1, 1])
            mass += length
            moment_x += 0.5 * length * (x + path[k - 1, 0])
            moment_y += 0.5 * length * (y + path[k - 1, 1])
    scale = (_BOX - 2.0 * radius) / max(high_x - low_x, high_y - low_y)
    edge = radius + 1.0  # as close as the path comes to the border
    shift_x = _MIDDLE + _SHIFT * traits[14] - scale * moment_x / mass
    shift_x = min(max(shift_x, edge - scale * low_x), _SIZE - 1.0 - edge - scale * high_x)
    shift_y = _MIDDLE + _SHIFT * traits[15] - scale * moment_y / mass
    shift_y = min(max(shift_y, edge - scale * low_y), _SIZE - 1.0 - edge - scale * high_y)
    for k in range(n):
        path[k, 0] = scale * path[k, 0] + shift_x
        path[k, 1] = scale * path[k, 1] + shift_y


@jit
def _distance_to_ink(path: Floats, n: int, radius: float, traits: Floats, distance: Floats) -> None:
    """The signed distance of each pixel to the ink, in pixels; exact up to 1.5, and 4 where it is farther."""
    distance[:] = 4.0
    for k in range(1, n):
        if path[k, 2] == 0:
            continue
        x0, y0 = path[k - 1, 0], path[k - 1, 1]
        dx, dy = path[k, 0] - x0, path[k, 1] - y0
        inverse = 1.0 / max(dx * dx + dy * dy, 1e-6)
        pen = max(0.4, radius * (1.0 + _RADIUS_WAVE * traits[16] * math.sin(0.3 * k + 3.0 * traits[17])))
        reach = pen + 1.5
        top, bottom = (
            max(0, math.ceil(min(y0, y0 + dy) - reach)),
            min(_SIZE - 1, math.floor(max(y0, y0 + dy) + reach)),
        )
        left, right = (
            max(0, math.ceil(min(x0, x0 + dx) - reach)),
            min(_SIZE - 1, math.floor(max(x0, x0 + dx) + reach)),
        )
        for row in range(top, bottom + 1):
            for col in range(left, right + 1):
                along = min(max(((col - x0) * dx + (row - y0) * dy) * inverse, 0.0), 1.0)
                x, y = col - x0 - along * dx, row - y0 - along * dy
                distance[row, col] = min(distance[row, col], math.sqrt(x * x + y * y) - pen)


@jit
def _shade(distance: Floats, softness: float, noise: Floats, image: Bytes) -> None:
    """Ink of 255, paper of 0, and an edge `softness` pixels wide with noise on it."""
    for row in range(_SIZE):
        for col in range(_SIZE):
            ink = 0.5 - distance[row, col] / softness
            if ink > -0.3:
                ink += _NOISE * noise[row * _SIZE + col]
            image[row, col] = np.uint8(min(max(ink, 0.0), 1.0) * 255.0 + 0.5)


@jit(parts=True)  # type: ignore[untyped-decorator]  # a kernel is called with other arguments
def _draw(
    glyph: Ints,
    points: Floats,
    pen: Bytes,
    count: Ints,
    normals: Floats,
    noise: Floats,
    start: Ints,
    controls: Floats,
    path: Floats,
    distance: Floats,
    out: Bytes,
    part: int,
    parts: int,
) -> None:
    """Draw glyph[i] into out[i] for all i; a part takes every parts-th shard."""
    for shard in range(part, len(distance), parts):
        for i in range(shard, len(out), len(distance)):
            g = glyph[i]
            traits = normals[i, 2 * CONTROLS :]
            radius = min(max(_RADIUS * math.exp(_RADIUS_SPREAD * traits[13]), 0.55), 2.6)
            softness = 0.9 + 0.25 * abs(traits[18])
            _place_controls(points[g], pen[g], count[g], normals[i], controls[shard])
            n = _draw_splines(controls[shard], pen[g], count[g], path[shard])
            _write(path[shard], n, traits)
            _frame(path[shard], n, radius, traits)
            _distance_to_ink(path[shard], n, radius, traits, distance[shard])
            _shade(distance[shard], softness, noise[start[i] :], out[i])


class SyntheticDigits(ImageDataset):
    """Handwritten-looking digits, a fair stand-in for `MNIST` that needs no file and no network.

    60,000 images with `train`, else 10,000 others, or the first `n` of them; the same for the same `seed` on
    any number of threads. Form, attributes and `transform` are those of `MNIST`. Raises ValueError for n < 1
    or a negative seed.

    >>> digits = SyntheticDigits(100, seed=1)
    >>> digits.data.shape, digits[0][0].shape
    ((100, 28, 28), (1, 28, 28))
    """

    def __init__(
        self,
        n: int | None = None,
        train: bool = True,
        seed: int = 0,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        count = (60_000 if train else 10_000) if n is None else n
        if count < 1:
            raise ValueError(f"SyntheticDigits needs n of at least 1, got {n}")
        if seed < 0:
            raise ValueError(f"SyntheticDigits needs a seed of at least 0, got {seed}")
        super().__init__(*_generate(count, [seed, int(train)]), transform)
        self.train = train


def _generate(n: int, key: list[int]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images and labels; a generator for each kind of number makes fewer images the first ones of more."""
    choices, traits, paper = (np.random.default_rng([*key, kind]) for kind in range(3))
    glyphs = load_glyphs()
    chosen = choices.random((n, 2))
    # the shares of one digit's glyphs add up to 1: a number from [d, d + 1) falls on one of digit d's
    glyph = np.searchsorted(np.cumsum(glyphs.share)[:-1], 10 * chosen[:, 0], side="right")
    labels = glyphs.digit[glyph]
    normals = traits.standard_normal((n, 2 * CONTROLS + _TRAITS), np.float32).clip(-_RAREST, _RAREST)
    noise = paper.standard_normal(4 * _SIZE * _SIZE, np.float32)
    start = (chosen[:, 1] * 3 * _SIZE * _SIZE).astype(np.int64)
    images = np.empty((n, _SIZE, _SIZE), np.uint8)
    launch(
        _draw,
        glyph,
        glyphs.points,
        glyphs.pen,
        glyphs.length,
        normals,
        noise,
        start,
        np.empty((_SHARDS, CONTROLS, 2), np.float32),
        np.empty((_SHARDS, CONTROLS * (_PIECES + 1), 3), np.float32),
        np.empty((_SHARDS, _SIZE, _SIZE), np.float32),
        images,
        work=10_000 * n,
    )
    return images, labels
