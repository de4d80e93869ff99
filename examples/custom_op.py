"""An operator of your own: two Numba kernels, a Function around them, and the proof that the gradient is right.

The operator is the total variation of an image, the length of all its brightness steps added up. It is small for a
smooth image and large for a noisy one, so that a network, or plain gradient descent as at the end of this file,
can be asked for smooth images (Rudin, Osher and Fatemi, 1992).

    python examples/custom_op.py
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np

import tinygrad_cnn as tg
import tinygrad_cnn.nn.functional as F
from tinygrad_cnn.data import SyntheticDigits
from tinygrad_cnn.testing import GradReport, gradcheck

# ------------------------------------------------------------------------------------------------------------
# 1. The kernels: plain loops over arrays that fill `out`. They know nothing of tensors or gradients.
#
#    y = sum over i, j of r(i, j),  r(i, j) = sqrt(down**2 + right**2 + eps**2)
#    down(i, j) = x[i + 1, j] - x[i, j],  right(i, j) = x[i, j + 1] - x[i, j],  0 beyond the border
#
# eps makes it differentiable where the image is flat.

EPS = 0.01


@numba.njit(nogil=True)
def total_variation_kernel(x: Any, out: Any) -> None:
    """(N, H, W) -> (N,)"""
    images, height, width = x.shape
    for n in range(images):
        total = 0.0  # float64: thousands of small numbers
        for i in range(height):
            for j in range(width):
                _, _, r = steps(x, n, i, j)
                total += r
        out[n] = total


@numba.njit(nogil=True)
def total_variation_grad_kernel(x: Any, g: Any, out: Any) -> None:
    """(N, H, W), (N,) -> (N, H, W)

    A pixel is in three terms: its own r(i, j), and those of its neighbours above and to the left. Each element of
    `out` collects what belongs to it, instead of adding to its neighbours: so the loops may run in any order.
    """
    images, height, width = x.shape
    for n in range(images):
        for i in range(height):
            for j in range(width):
                down, right, r = steps(x, n, i, j)
                slope = -(down + right) / r
                if i > 0:
                    down, right, r = steps(x, n, i - 1, j)
                    slope += down / r
                if j > 0:
                    down, right, r = steps(x, n, i, j - 1)
                    slope += right / r
                out[n, i, j] = g[n] * slope


@numba.njit(nogil=True)
def steps(x: Any, n: int, i: int, j: int) -> tuple[float, float, float]:
    """down, right and r of one pixel."""
    down = x[n, i + 1, j] - x[n, i, j] if i + 1 < x.shape[1] else 0.0
    right = x[n, i, j + 1] - x[n, i, j] if j + 1 < x.shape[2] else 0.0
    return down, right, math.sqrt(down * down + right * right + EPS * EPS)


# ------------------------------------------------------------------------------------------------------------
# 2. The Function: takes tensors, checks them, calls the kernels, keeps what backward needs.


class TotalVariation(tg.autograd.Function):
    """The total variation of each image: (N, H, W) of floats -> (N,)."""

    @staticmethod
    def forward(ctx: Any, x: tg.Tensor) -> tg.Tensor:
        if x.ndim != 3 or not x.is_floating_point():
            raise ValueError(f"TotalVariation expects floats of shape (N, H, W), got {x.dtype} {x.shape}")
        ctx.save_for_backward(x)
        out = np.empty(x.shape[0], x.dtype)
        total_variation_kernel(plain(x), out)
        return tg.from_numpy(out)

    @staticmethod
    @tg.autograd.once_differentiable  # the gradient is a kernel: it has no gradient of its own
    def backward(ctx: Any, g: tg.Tensor) -> tg.Tensor:
        (x,) = ctx.saved_tensors
        out = np.empty(x.shape, x.dtype)
        total_variation_grad_kernel(plain(x), plain(g), out)
        return tg.from_numpy(out)


def total_variation(images: tg.Tensor) -> tg.Tensor:
    """What users call; the rest of the file is nobody's business but ours."""
    return TotalVariation.apply(images)


def plain(x: tg.Tensor) -> Any:
    """The tensor's array as the kernels want it: contiguous and, so that Numba compiles once, writable."""
    return np.require(x.detach().numpy(), requirements=["C", "W"])


# ------------------------------------------------------------------------------------------------------------
# 3. The proof.


def check_the_gradient() -> GradReport:
    """Two projections on random directions, float64, and everything else that must hold for a gradient.

    A failure raises; this prints "passed" and the largest error in units of the tolerance.
    """
    images = np.random.default_rng(0).normal(size=(2, 5, 4))
    report = gradcheck(total_variation, tg.tensor(images))
    print(report)
    return report


class Forgetful(TotalVariation):
    """The same, with the kind of bug that one really makes: the last row has nothing below, so skip it."""

    @staticmethod
    def backward(ctx: Any, g: tg.Tensor) -> tg.Tensor:
        out = TotalVariation.backward(ctx, g)
        out[:, -1, :] = 0
        return out


def check_a_wrong_gradient() -> GradReport:
    """What a report of a wrong gradient looks like: where, what, how far off, and a script that shows it again."""
    images = np.random.default_rng(0).normal(size=(1, 5, 4))

    def forgetful_total_variation(x: tg.Tensor) -> tg.Tensor:
        return Forgetful.apply(x)

    report = gradcheck(forgetful_total_variation, tg.tensor(images), raise_exception=False)
    print(report)
    return report


# ------------------------------------------------------------------------------------------------------------
# 4. In use: the image that is near a noisy one and smooth.


def remove_noise(steps: int) -> tuple[float, float]:
    """Gradient descent on the pixels; returns the mean squared error before and after."""
    rng = np.random.default_rng(0)
    clean = SyntheticDigits(4).data.float() / 255
    noisy = clean + tg.tensor(rng.normal(0, 0.2, clean.shape).astype(np.float32))
    x = noisy.clone().requires_grad_()
    optimizer = tg.optim.Adam([x], lr=0.03)
    for _ in range(steps):
        loss = 0.5 * ((x - noisy) ** 2).sum() + 0.15 * total_variation(x).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    before, after = F.mse_loss(noisy, clean).item(), F.mse_loss(x.detach(), clean).item()
    print(f"mean squared error of four noisy digits: {before:.4f}, after {steps} steps: {after:.4f}")
    return before, after


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=100, help="of gradient descent on the noisy digits")
    options = parser.parse_args(argv)
    print("The right gradient:\n")
    check_the_gradient()
    print("\nA wrong one:\n")
    check_a_wrong_gradient()
    print("\nIn use:\n")
    remove_noise(options.steps)


if __name__ == "__main__":
    main()
