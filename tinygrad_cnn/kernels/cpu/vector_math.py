"""Functions of one number whose loops LLVM can vectorise: no branch, no call, float64 inside for both dtypes."""

from __future__ import annotations

import math

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..compile import jit

_LOG2_E = 1.4426950408889634
_LN2_HIGH = 0.6931471803691238  # ln 2 cut to 33 bits, so that n * _LN2_HIGH is exact
_LN2_LOW = 1.9082149292705877e-10
_ROUND = 6755399441055744.0  # 1.5 * 2**52: adding it leaves round(x) in the lowest bits


@intrinsic
def _power_of_two(typing_context, shifted):
    """2.0 ** n from n + _ROUND, for -1023 < n < 1024: the low bits of that sum are n."""

    def codegen(context, builder, signature, args):
        bits = builder.bitcast(args[0], ir.IntType(64))
        exponent = builder.add(bits, ir.Constant(ir.IntType(64), 1023))
        return builder.bitcast(builder.shl(exponent, ir.Constant(ir.IntType(64), 52)), ir.DoubleType())

    return types.float64(types.float64), codegen


@jit
def exp_of_negative(x):
    """e ** x for x <= 0 in float64, within 1 ULP; 0 below -708, where it would be denormal; NaN stays."""
    bounded = max(x, -708.0) if x == x else x
    shifted = bounded * _LOG2_E + _ROUND
    n = shifted - _ROUND
    r = bounded - n * _LN2_HIGH - n * _LN2_LOW  # |r| <= ln(2) / 2: the Taylor series to r ** 13 is exact to 4e-18
    s = 1 / 6227020800 * r + 1 / 479001600
    s = s * r + 1 / 39916800
    s = s * r + 1 / 3628800
    s = s * r + 1 / 362880
    s = s * r + 1 / 40320
    s = s * r + 1 / 5040
    s = s * r + 1 / 720
    s = s * r + 1 / 120
    s = s * r + 1 / 24
    s = s * r + 1 / 6
    s = s * r + 0.5
    s = s * r + 1.0
    s = s * r + 1.0
    return s * _power_of_two(shifted) if not x < -708.0 else 0.0


if numba.config.DISABLE_JIT:

    def exp_of_negative(x):  # noqa: F811 (the bits of a float need Numba)
        """e ** x."""
        return math.exp(x) if x >= -708.0 else np.float64(x) * 0.0 if x != x else 0.0
