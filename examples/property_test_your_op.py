"""Property-test an operator of your own: a Numba kernel, the record that says what is true of it, and a planted bug.

    python examples/property_test_your_op.py      # the right operator, then the wrong one and the report that finds it
    pytest examples/property_test_your_op.py      # what you would do every day

The operator is a moving weighted sum, a convolution in one dimension: y[n, i] = sum over k of w[k] x[n, stride i + k].
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numba
import numpy as np
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn.testing import GradcheckError, OpRecord, property_test, property_test_gradients
from tinygrad_cnn.testing.strategies import arrays

# ------------------------------------------------------------------------------------------------------------
# 1. The operator: kernels on arrays, and a Function around them.


@numba.njit(nogil=True)
def moving_sum_kernel(x: Any, w: Any, stride: int, y: Any) -> None:
    for n in range(y.shape[0]):
        for i in range(y.shape[1]):
            total = 0.0
            for k in range(w.size):
                total += w[k] * x[n, stride * i + k]
            y[n, i] = total


@numba.njit(nogil=True)
def moving_sum_grad_kernel(x: Any, w: Any, stride: int, g: Any, dx: Any, dw: Any) -> None:
    """Adds the gradients to dx and dw, which come as zeros."""
    for n in range(g.shape[0]):
        for i in range(g.shape[1]):
            for k in range(w.size):
                dx[n, stride * i + k] += w[k] * g[n, i]
                dw[k] += x[n, stride * i + k] * g[n, i]


class MovingSum(tg.autograd.Function):
    """(N, L) and (K,), K <= L -> (N, (L - K) // stride + 1)."""

    grad_kernel = moving_sum_grad_kernel

    @staticmethod
    def forward(ctx: Any, x: tg.Tensor, w: tg.Tensor, stride: int) -> tg.Tensor:
        length, taps = x.shape[1], w.shape[0]
        if not 1 <= taps <= length:
            raise ValueError(f"MovingSum: {taps} weights do not fit into rows of {length}")
        ctx.save_for_backward(x, w)
        ctx.stride = stride
        y = np.empty((x.shape[0], (length - taps) // stride + 1), x.dtype)
        moving_sum_kernel(plain(x), plain(w), stride, y)
        return tg.from_numpy(y)

    @classmethod
    @tg.autograd.once_differentiable
    def backward(cls, ctx: Any, g: tg.Tensor) -> Any:
        x, w = ctx.saved_tensors
        dx, dw = np.zeros(x.shape, x.dtype), np.zeros(w.shape, w.dtype)
        cls.grad_kernel(plain(x), plain(w), ctx.stride, plain(g), dx, dw)
        return tg.from_numpy(dx), tg.from_numpy(dw), None


def plain(x: tg.Tensor) -> Any:
    """The tensor's array as the kernels want it: contiguous and, so that Numba compiles once, writable."""
    return np.require(x.detach().numpy(), requirements=["C", "W"])


# ------------------------------------------------------------------------------------------------------------
# 2. The record: the operator, a slow and obvious reference, and inputs that are legal by construction.


def reference(x: np.ndarray, w: np.ndarray, stride: int) -> np.ndarray:
    """NumPy has it for stride 1."""
    return np.stack([np.correlate(row, w, "valid")[::stride] for row in x])


@st.composite
def moving_sums(draw: st.DrawFn) -> list[Any]:
    """x, w and stride. The length is made of windows and a remainder, so that rows which they do not tile are there."""
    taps, stride, windows = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    length = taps + stride * (windows - 1) + draw(st.integers(0, stride - 1))
    rows = draw(st.integers(1, 3))
    return [draw(arrays((rows, length))), draw(arrays((taps,))), stride]


MOVING_SUM = OpRecord(
    "moving_sum",
    MovingSum.apply,
    reference,
    moving_sums(),
    errors=[([np.ones((2, 3)), np.ones(4), 1], ValueError, "4 weights do not fit into rows of 3")],
    degree=2,  # linear in x and linear in w: differences are exact, and so the check is at its sharpest
    second=False,  # once_differentiable: the backward is a kernel, and has no gradient of its own
)


@property_test_gradients(MovingSum.apply, moving_sums(), ref=reference, degree=2, second=False)
def test_weights_of_one_tap_scale(inputs: list[Any]) -> None:
    """The other way to say it, where there is something to add in a test of one's own."""
    x, _, stride = inputs
    doubled = MovingSum.apply(tg.tensor(x), tg.tensor([2.0], dtype=tg.float64), stride)
    assert (doubled.numpy() == 2 * x[:, ::stride]).all()


# ------------------------------------------------------------------------------------------------------------
# 3. A planted bug, right wherever windows do not overlap: `=` for `+=`.


@numba.njit(nogil=True)
def overwriting_grad_kernel(x: Any, w: Any, stride: int, g: Any, dx: Any, dw: Any) -> None:
    for n in range(g.shape[0]):
        for i in range(g.shape[1]):
            for k in range(w.size):
                dx[n, stride * i + k] = w[k] * g[n, i]
                dw[k] += x[n, stride * i + k] * g[n, i]


class Overwriting(MovingSum):
    grad_kernel = overwriting_grad_kernel


def report() -> str:
    """What the record says of the wrong operator, at the smallest input that shows the bug."""
    wrong = dataclasses.replace(MOVING_SUM, op=Overwriting.apply)
    try:
        property_test(wrong)()
    except GradcheckError as error:
        return str(error)
    raise AssertionError("the planted bug was not found")


def main() -> None:
    property_test(MOVING_SUM)()
    print("moving_sum: every example passed.\n\nWith the planted bug:\n")
    print(report())


if __name__ == "__main__":
    main()
