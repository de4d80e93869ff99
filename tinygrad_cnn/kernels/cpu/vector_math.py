"""Functions of one number whose loops LLVM can vectorise: no branch, no call, float64 inside for both dtypes."""

from __future__ import annotations

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..compile import inner

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


@inner(inline=True)
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


@inner(inline=True)
def erfc_to_single(x):
    """1 - erf(x) for x >= 0 in float64 with a relative error below 3e-9: enough for a float32 result.

    log(erfc(x)) + x ** 2 - log(t) is a smooth function of t = 2 / (2 + x), here by its Chebyshev polynomial.
    """
    t = 2.0 / (2.0 + x)
    s = -0.07910042486624289 * t + 0.36404337890685656
    s = s * t - 0.4607727654502909
    s = s * t - 0.4222820824052045
    s = s * t + 1.71473423411363
    s = s * t - 1.731961301055028
    s = s * t + 0.7642297083641816
    s = s * t - 0.40440452651428954
    s = s * t + 0.15545144803034236
    s = s * t + 0.36478016466293783
    s = s * t + 1.0008229620484939
    s = s * t - 1.2655407983966298
    return t * exp_of_negative(s - x * x)


@inner(inline=True)
def erf_to_single(x):
    """erf(x) in float64 with a relative error below 4e-9: enough for a float32 result."""
    square = x * x
    s = 7.882497103326205e-05 * square - 0.0008018854990614622
    s = s * square + 0.005189311942416854
    s = s * square - 0.026854328795906258
    s = s * square + 0.11283597463483463
    s = s * square - 0.3761262690357993
    s = s * square + 1.1283791658815026
    tail = 1.0 - erfc_to_single(abs(x))
    return x * s if square < 1.0 else (tail if x >= 0 else -tail)


if numba.config.DISABLE_JIT:

    def exp_of_negative(x):
        """e ** x."""
        return np.exp(np.float64(x))
