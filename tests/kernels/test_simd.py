"""The register tiles: right sums for any strides, and the machine code that their speed depends on."""

from __future__ import annotations

import itertools
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import types

from tinygrad_cnn.kernels import jit
from tinygrad_cnn.kernels.cpu import memory, simd

ROOT = Path(__file__).parents[2]
#: Stacks: vectors, rows of a run, and runs; the first three are those of 3 x 3 and 5 x 5 taps of 3 channels and of 1.
STACKS = [(1, 9, 3), (1, 5, 5), (2, 3, 3), (1, 6, 2)]
PAIRS = [simd.K_PAIRS, simd.ROW_PAIRS]
WIDTHS = [(kind, vectors) for kind in [*simd.KINDS, *PAIRS] for vectors in range(1, simd.max_vectors(kind) + 1)]


@jit
def run_tile(address, plan, a, b, c, bias, lanes, count):  # type: ignore[no-untyped-def]
    simd.call_tile(address, plan, 0, a, 0, b, 0, c, 0, bias, 0, lanes, count)


@jit
def run_transpose(rows, columns, source, target, lanes):  # type: ignore[no-untyped-def]
    simd.transpose(rows, columns, source, 0, columns, target, 0, rows, lanes)


def naive_tile(kind: int, rows: int, columns: int, plan: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    n1, n2, n3, a1, a2, ak, ar, b1, b2, bk = (int(v) for v in plan[:10])
    if kind in PAIRS:
        right = b, b[bk // 2 :] if kind == simd.K_PAIRS else b
        pairs = [naive_tile(simd.OUTER, rows, columns, plan, a[i:], right[i]) for i in (0, 1)]
        return sum(pairs) if kind == simd.K_PAIRS else np.stack(pairs, 1).reshape(2 * rows, columns)
    taps = simd.taps(kind)
    sums = np.zeros((rows, columns))
    for i, j, k, tap in np.ndindex(n1, n2, n3, taps):
        for r in range(rows):
            at = i * a1 + j * a2 + k * ak + (r + (tap if taps > 1 else 0)) * ar
            left = a[at : at + columns] if simd.is_lanewise(kind) else a[at]
            right = i * b1 + (j if taps == 1 else tap) * b2 + k * bk
            sums[r] += left.astype(np.float64) * b[right : right + columns]
    return sums


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(WIDTHS),
    st.sampled_from("fd"),
    st.data(),
)
def test_a_tile_sums_what_its_strides_say(kind_vectors: tuple[int, int], dtype: str, data: st.DataObject) -> None:
    kind, vectors = kind_vectors
    most = simd.max_rows(vectors, kind)
    compiled = st.sampled_from((1, 3, most)) if kind in PAIRS else st.integers(1, most)  # pairs one by one
    rows, count = data.draw(compiled, "rows"), data.draw(st.integers(1, 3), "count")
    address, rows = simd.tile_address(dtype, kind, vectors, rows), rows * count
    lanes = data.draw(st.integers(1, simd.lanes(dtype)), "lanes")
    flags = data.draw(st.integers(0, simd.BIAS | simd.ADD | simd.RELU), "flags")
    columns = (vectors - 1) * simd.lanes(dtype) + lanes
    n1, n2, n3 = (data.draw(st.integers(1, 4)) for _ in range(3))
    n2 = n2 if simd.taps(kind) == 1 else 1
    strides = [data.draw(st.integers(0, 9)) for _ in range(7)]
    ldc = columns + data.draw(st.integers(0, 3), "gap")
    if columns % simd.lanes(dtype) == 0 and data.draw(st.booleans(), "stream"):
        flags, ldc = flags | simd.STREAM, columns
    planes, a_plane, b_plane = (data.draw(st.integers(0, 3)) for _ in range(3))
    together = 2 if kind == simd.ROW_PAIRS else 1
    rows *= together
    counts = n1, n2, n3, *strides, ldc * together, flags, 0, 0, 0, planes, a_plane, b_plane, rows * ldc
    plan = np.array(counts, np.int64)
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    a, b, bias = (rng.standard_normal(size).astype(dtype) for size in (900, 800, columns))
    c = memory.pool.array(((planes + 1) * rows * ldc,), np.dtype(dtype), 8 * (planes + 1) * rows * ldc)
    c[:] = rng.standard_normal(c.size)
    expected = c.reshape(planes + 1, rows, ldc).astype(np.float64)
    for i, out in enumerate(expected[:, :, :columns]):
        value = (bias if flags & simd.BIAS else 0) + (out if flags & simd.ADD else 0)
        value = value + naive_tile(kind, rows // together, columns, plan, a[i * a_plane :], b[i * b_plane :])
        out[:] = np.maximum(value, 0) if flags & simd.RELU else value
    run_tile(address, plan, a, b, c, bias, lanes, count)
    tolerance = 300 * np.finfo(dtype).eps
    np.testing.assert_allclose(c.reshape(expected.shape), expected, rtol=tolerance, atol=tolerance)


def stacks() -> list[tuple[int, int, int]]:
    return [(v, run, min(runs, simd.max_stack(v) // run)) for v, run, runs in STACKS if simd.max_stack(v) >= run]


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(stacks()), st.sampled_from("fd"), st.data())
def test_a_stack_sums_what_its_strides_say(stack: tuple[int, int, int], dtype: str, data: st.DataObject) -> None:
    vectors, run, runs = stack
    lanes = data.draw(st.integers(1, simd.lanes(dtype)), "lanes")
    columns, rows = (vectors - 1) * simd.lanes(dtype) + lanes, run * runs
    counts, strides = ([data.draw(st.integers(low, 4)) for _ in range(n)] for low, n in ((1, 3), (0, 7)))
    apart, add = data.draw(st.integers(0, 90), "apart"), data.draw(st.sampled_from([0, simd.ADD]), "add")
    plan = np.zeros(simd.TILE_ARGS, np.int64)
    plan[:10], plan[simd.LDC], plan[simd.FLAGS], plan[simd.A_RUN] = [*counts, *strides], columns, add, apart
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    a, b, c = (rng.standard_normal(size).astype(dtype) for size in (900, 800, rows * columns))
    sums = [naive_tile(simd.OUTER, run, columns, plan, a[i * apart :], b) for i in range(runs)]
    expected = np.concatenate(sums).reshape(-1) + (c if add else 0)
    fetches = data.draw(st.sampled_from([(0, 0), (3, 0), (1, 6)]), "fetches")
    plan[simd.A_AHEAD :] = [data.draw(st.integers(0, 3)) for _ in range(2)]
    address = simd.tile_address(dtype, simd.OUTER, vectors, rows, run, fetches)
    run_tile(address, plan, a, b, c, c, lanes, 1)
    tolerance = 300 * np.finfo(dtype).eps
    np.testing.assert_allclose(c, expected, rtol=tolerance, atol=tolerance)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.sampled_from("fd"))
def test_transpose(rows: int, columns: int, dtype: str) -> None:
    x = np.arange(rows * columns, dtype=dtype).reshape(rows, columns)
    out = np.full(x.size, -1, dtype)
    run_transpose(rows, columns, x.reshape(-1), out, simd.lanes(dtype))
    np.testing.assert_array_equal(out.reshape(columns, rows), x.T)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.sampled_from("fd"), st.integers(1, 2), st.data())
def test_a_tile_of_dot_products(k: int, dtype: str, rows: int, data: st.DataObject) -> None:
    columns = data.draw(st.integers(1, simd.max_columns(dtype)), "columns")
    flags = data.draw(st.sampled_from([0, simd.BIAS, simd.RELU, simd.BIAS | simd.RELU]), "flags")
    lanes, gap = simd.lanes(dtype), data.draw(st.integers(0, 3), "gap")
    a, b = (np.random.default_rng(k + n).standard_normal((n, k + gap)).astype(dtype) for n in (rows, columns))
    a[:, k:] = b[:, k:] = np.nan  # beyond the end
    bias, c = np.arange(columns).astype(dtype), np.full((rows, columns + gap), -1, dtype)
    plan = np.zeros(simd.TILE_ARGS, np.int64)
    plan[simd.N3], plan[simd.AR], plan[simd.BK] = (k - 1) // lanes, k + gap, k + gap
    plan[simd.LDC], plan[simd.FLAGS] = columns + gap, flags
    address = simd.tile_address(dtype, simd.DOT, columns, rows)
    run_tile(address, plan, a.reshape(-1), b.reshape(-1), c.reshape(-1), bias, k - (k - 1) // lanes * lanes, 1)
    exact = a[:, :k].astype(np.float64) @ b[:, :k].astype(np.float64).T + (bias if flags & simd.BIAS else 0)
    exact = np.maximum(exact, 0) if flags & simd.RELU else exact
    bound = 20 * np.finfo(dtype).eps * (1 + np.abs(a[:, :k]) @ np.abs(b[:, :k]).T + bias)
    assert (np.abs(c[:, :columns] - exact) <= bound).all()
    assert (c[:, columns:] == -1).all()


#: Processors to generate code for, on any x86, by Numba's settings.
PROCESSORS = {
    "AVX-512": {"NUMBA_CPU_NAME": "skylake-avx512", "NUMBA_CPU_FEATURES": "+avx512f,+avx512vl,+avx512dq,+avx2,+fma"},
    "AVX2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma"},
    "SSE2": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2"},
}
CHECK = """
from tests.kernels import test_simd
for kind in test_simd.CODE_KINDS:
    test_simd.check_code(kind)
if test_simd.simd.host().registers == 32:
    test_simd.check_pairs()
for stack in [*test_simd.stacks(), (2, test_simd.simd.max_rows(2), 1)]:
    test_simd.check_stack(*stack)
print(test_simd.simd.host().vector_bytes)
"""
CODE_KINDS = [simd.OUTER, simd.LANEWISE, 2 * simd.TAPS.index(3), simd.DOT]

on_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads x86 assembly")


@on_x86
def test_inner_loops_hold_vector_multiply_adds_and_nothing_spills() -> None:
    """An upgrade of LLVM that spills accumulators or scalarises the loop would cost up to 30 times the speed."""
    for kind in [*simd.KINDS, simd.DOT]:
        check_code(kind)
    for stack in stacks():
        check_stack(*stack)
    check_pairs()
    for vectors in range(1, simd.max_vectors() + 1):
        check_stack(vectors, simd.max_rows(vectors), 1)


@on_x86
@pytest.mark.parametrize("processor", PROCESSORS)
def test_inner_loops_on_other_processors(processor: str) -> None:
    environment = os.environ | PROCESSORS[processor] | {"NUMBA_CACHE_DIR": "", "TINYGRAD_CNN_CACHE_DIR": ""}
    done = subprocess.run([sys.executable, "-c", CHECK], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == {"AVX-512": 64, "AVX2": 32, "SSE2": 16}[processor]


def check_code(kind: int) -> None:
    """The inner loops of a kind's widest tiles."""
    vectors = simd.max_columns(np.float32) if kind == simd.DOT else simd.max_vectors(kind)
    for width in {1, vectors}:
        signature = (types.UniTuple(types.float32, width), types.UniTuple(types.int64, kind + 1))
        assembly = assembly_of(simd._tiles, signature)
        for rows in range(1, simd.max_rows(width, kind) + 1):
            name = simd._tile_name(types.float32, kind, width, rows)
            check_loop(assembly, name, rows * width * simd.taps(kind))


def check_pairs() -> None:
    """The inner loops of the largest tiles of pairs, without asking for lines ahead and with it."""
    for kind, fetches in itertools.product(PAIRS, ((0, 0), (3, 4))):
        rows = simd.max_rows(1, kind, any(fetches))
        check_stack(1, rows, 1, kind, fetches)


def check_stack(vectors: int, run: int, runs: int, kind: int = simd.OUTER, only: Any = None) -> None:
    """The inner loop of a stack, and of one that fetches: with 16 registers no stack of several runs does."""
    both = [(0, 0), (3, 4)] if runs == 1 or simd.host().registers == 32 else [(0, 0)]
    for fetches in [only] if only else both:
        numbers = 1 + kind, run * runs, run, 1 + fetches[0], 1 + fetches[1]
        counts = [types.UniTuple(types.int64, n) for n in numbers]
        name = simd._stack_name(types.float32, kind, vectors, run * runs, run, fetches)
        assembly = assembly_of(simd._stack, (types.UniTuple(types.float32, vectors), *counts))
        check_loop(assembly, name, run * runs * (2 if simd.is_paired(kind) else vectors))


def assembly_of(kernel: Any, signature: Any) -> str:
    fresh = numba.njit(kernel.py_func)  # what comes from the cache cannot be inspected
    fresh.compile(signature)
    return str(fresh.inspect_asm(signature))


def check_loop(assembly: str, name: str, wanted: int) -> None:
    """So many vector multiply-adds, no scalar ones, no spills."""
    multiply, fused = (r"vfn?m\w*", True) if simd.host().fma else (r"v?mul", False)
    loop = inner_loop(assembly, name, multiply)
    packed = [line for line in loop if re.match(rf"{multiply}ps\b", line)]
    assert len(packed) == wanted, (name, len(packed), wanted)
    assert not [line for line in loop if re.match(rf"{multiply}ss\b", line)], name
    assert fused == (not [line for line in loop if re.match(r"v?addps\b", line)]), name
    assert not [line for line in loop if re.search(r"%[xyz]mm.*\(%rsp|\(%rsp.*%[xyz]mm", line)], name


def inner_loop(assembly: str, function: str, multiply: str) -> list[str]:
    """The instructions of the basic block with the most multiply-adds, up to its jump back."""
    body = assembly[assembly.index(f"\n{function}:") :]
    body = body[: body.index(".size") if ".size" in body else len(body)]
    blocks = re.split(r"\n\.?L\w+:.*\n", body)
    lines = [[line.strip() for line in block.splitlines() if line.strip()] for block in blocks]
    lines = [list(itertools.takewhile(lambda line: not line.startswith("j"), block)) for block in lines]
    return max(lines, key=lambda block: sum(bool(re.match(rf"{multiply}ps", line)) for line in block))
