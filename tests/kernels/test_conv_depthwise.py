"""Depthwise convolutions by walks along rows, against the reference, and the machine code of their loops."""

from __future__ import annotations

import re
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import types

from tinygrad_cnn import kernels
from tinygrad_cnn.kernels.cpu import conv, conv_depthwise, simd
from tinygrad_cnn.kernels.spec import Conv2dSpec

from .test_conv import Case, assert_as_in_float64, operands
from .test_simd import on_x86

KINDS = [(k, stride) for k in (3, 5) for stride in (1, 2) if k * k + k + 2 <= simd.host().registers]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Images as narrow as the kernel and lower, of odd and even sizes."""
    (k, stride), dtype = draw(st.sampled_from(KINDS)), draw(st.sampled_from("fd"))
    c = simd.lanes(dtype) * draw(st.integers(1, 3))
    hw = draw(st.integers(1, 12)), draw(st.integers(k, 12))
    spec = Conv2dSpec((stride, stride), (k // 2,) * 4, groups=c)
    return Case(draw(st.integers(1, 3)), c, hw, c, (k, k), spec, dtype, draw(st.integers(0, 2**16)))


@settings(deadline=None)
@given(cases(), st.booleans())
def test_forward_and_gradients_agree_with_the_float64_reference(case: Case, biased: bool) -> None:
    x, w, bias, g = operands(case)
    assert conv._walks_rows(case.dtype, x.shape, w.shape, case.spec)
    assert_as_in_float64(case, biased, x, w, bias, g)


@settings(max_examples=20, deadline=None)
@given(cases(), st.data())
def test_nan_stays_in_its_image_and_channel(case: Case, data: st.DataObject) -> None:
    """Nothing is read of another image, as a walk begins and ends next to one."""
    x, w, bias, g = operands(case)
    image, channel = data.draw(st.integers(0, case.n - 1)), data.draw(st.integers(0, case.c - 1))
    x[image, channel], g[image, channel] = np.nan, np.nan
    for out in (conv.conv2d(x, w, bias, case.spec), conv.conv2d_input_grad(g, w, case.hw, case.spec)):
        assert np.isnan(out[image, channel]).all()
        assert np.isnan(out).sum() == out[image, channel].size


@settings(max_examples=20, deadline=None)
@given(cases())
def test_the_bits_do_not_depend_on_the_number_of_parts(case: Case) -> None:
    x, w, bias, g = operands(case)
    before, found = kernels.get_num_threads(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "PARALLEL_WORK", 0)
        for threads in (1, 2, 3, 5):
            kernels.set_num_threads(threads)
            results = (
                conv.conv2d(x, w, bias, case.spec),
                conv.conv2d_input_grad(g, w, case.hw, case.spec),
                conv.conv2d_weight_grad(x, g, case.kernel, case.spec),
            )
            found.append([a.tobytes() for a in results])
    kernels.set_num_threads(before)
    assert found[1:] == found[:1] * 3


#: The input gradient only at a stride of two: else it is a convolution.
BODIES = [(name, *kind) for name in ("_gather", "_sum") for kind in KINDS]
BODIES += [("_spread", *kind) for kind in KINDS if kind[1] == 2]


@on_x86
@pytest.mark.parametrize(("name", "k", "stride"), BODIES)
def test_inner_loops_hold_vector_multiply_adds_and_nothing_spills(name: str, k: int, stride: int) -> None:
    body = getattr(conv_depthwise, name).py_func.__globals__["part"].py_func
    array, integer = types.Array(types.float32, 1, "C"), types.int64
    kinds: dict[str, Any] = {"shape": types.UniTuple(integer, 3)}
    kinds |= {"size": types.UniTuple(integer, k), "stride": types.UniTuple(integer, stride)}
    kinds |= dict.fromkeys(("x", "g", "w", "y", "zeros", "bias", "sums"), array)
    names = body.__code__.co_varnames[: body.__code__.co_argcount]
    signature = tuple(kinds.get(name, integer) for name in names)
    fresh = numba.njit(body, error_model="numpy", _nrt=False)
    fresh.compile(signature)
    multiply, fused = (r"\tvfn?m\w*", True) if simd.host().fma else (r"\tv?mul", False)
    parts = re.split(r"\n(\.L\w+):", fresh.inspect_asm(signature))[1:]
    jumps = [re.search(rf"\tj\w+\t{label}\b", body) for label, body in zip(parts[::2], parts[1::2], strict=True)]
    loops = [jump.string[: jump.start()] for jump in jumps if jump]
    (loop,) = (body for body in loops if re.search(rf"{multiply}ps\b", body))
    products = k * -(-k // stride) if name == "_spread" else k * k
    assert len(re.findall(rf"{multiply}ps\b", loop)) == products
    assert fused == (not re.search(r"\tv?addps\b", loop))
    if name == "_sum" or (k == 3 and fused):  # 25 taps stay in the L1 cache, and of nine one without that instruction
        assert not re.search(r"%[xyz]mm.*\(%rsp|\(%rsp.*%[xyz]mm", loop)
