"""Derivatives by differences: of a vector-valued function of one number t, at 0.

A polynomial of degree <= 2 has no truncation error in a central difference, so one with a large step is
exact up to rounding. Any other function is sampled at +-h, +-h/2, +-h/4 and extrapolated (Richardson), from
both sides together and, where that does not settle, from each side alone: at a kink the two sides differ.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

Line = Callable[[float], np.ndarray]

#: Steps tried in turn, each when the one before gave no settled value: a kink or a pole may lie within
#: reach of it.
STEPS = (2.0**-7, 2.0**-11, 2.0**-15, 2.0**-19)
POLYNOMIAL_STEP = 0.5
#: The rounding error of a difference of two outputs, in units of eps * |output|: sums inside the function
#: round too.
ROUNDINGS = 16.0


class Slope(NamedTuple):
    """An estimate of df/dt: from the left and the right (the same array where they were not told apart)."""

    left: np.ndarray
    right: np.ndarray
    spread: np.ndarray  # per element: how far the last extrapolation moved it
    noise: np.ndarray  # per element: what rounding may have done to it


@np.errstate(invalid="ignore")  # infinity minus infinity: no derivative, as the verdict says
def polynomial(f: Line, step: float, eps: float) -> Slope:
    """Exact for degree <= 2."""
    up, down = f(step), f(-step)
    slope = (up - down) / (2 * step)
    noise = ROUNDINGS * eps * np.maximum(np.abs(up), np.abs(down)) / step
    return Slope(slope, slope, np.zeros_like(slope), noise)


class Samples:
    """f at 0, +-h, +-h/2 and +-h/4, each evaluated when first asked for."""

    def __init__(self, f: Line, h: float, eps: float) -> None:
        self.h = h
        self._eps = eps
        self.at = cache(f)

    @np.errstate(invalid="ignore")
    def two_sided(self) -> Slope:
        """Error O(h^6) where f is smooth; the spread is of O(h^4)."""
        d1, d2, d4 = ((self.at(s) - self.at(-s)) / (2 * s) for s in (self.h, self.h / 2, self.h / 4))
        r1, r2 = (4 * d2 - d1) / 3, (4 * d4 - d2) / 3
        slope = (16 * r2 - r1) / 15
        return Slope(slope, slope, np.abs(slope - r2), self._noise())

    @np.errstate(invalid="ignore")
    def one_sided(self) -> Slope:
        """Error O(h^3) on each side where f is smooth there; the spread is of O(h^2)."""
        left, right = self._side(-1.0), self._side(1.0)
        return Slope(left[0], right[0], np.maximum(left[1], right[1]), 4 * self._noise())

    def _side(self, sign: float) -> tuple[np.ndarray, np.ndarray]:
        a1, a2, a4 = ((self.at(sign * s) - self.at(0.0)) / (sign * s) for s in (self.h, self.h / 2, self.h / 4))
        b1, b2 = 2 * a2 - a1, 2 * a4 - a2
        slope = (4 * b2 - b1) / 3
        return slope, np.abs(slope - b2)

    def _noise(self) -> np.ndarray:
        return ROUNDINGS * self._eps * np.abs(self.at(self.h)) / self.h
