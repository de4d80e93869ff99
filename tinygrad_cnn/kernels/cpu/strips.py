"""Vector loops over strips: a few vectors of neighbouring lanes, walked row by row with their constants in registers.

Memory is seen as rows of lanes, a lane being one channel of one of the samples that make a row. Written as LLVM IR,
because Numba's own loops keep the sums and constants of the lanes in memory: sums ran at 60 % of this speed.

With d = x - center, all functions compute y = d * scale + shift by one fused multiply-add, so that a gradient finds the
sign of y that the forward pass found. Where y <= floor, the forward pass gives the floor and a gradient stops; a floor
of NaN is none.
"""

from __future__ import annotations

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import simd

VECTORS = 4 if simd.host().registers == 32 else 2  # side by side, with up to five constants each
STRIP = VECTORS * simd.host().vector_bytes  # bytes


class _Strip:
    """What the code generators below share; the arguments that are arrays are counted from 0."""

    def __init__(self, context, builder, signature, values):
        self.context, self.builder, self.kinds, self.values = context, builder, signature.args, values
        self.scalar = context.get_data_type(signature.args[0].dtype)
        self.size = context.get_abi_sizeof(self.scalar)
        self.count = simd.host().vector_bytes // self.size
        self.vector = ir.VectorType(self.scalar, self.count)

    def pointer(self, k, at, v, vector):
        """Where vector v of argument k lies, from element `at`."""
        kind = self.kinds[k]
        data = self.context.make_array(kind)(self.context, self.builder, self.values[k]).data
        at = self.builder.add(at, ir.IntType(64)(v * self.count))
        place = self.builder.gep(data, [at], source_etype=self.context.get_data_type(kind.dtype))
        return self.builder.bitcast(place, vector.as_pointer())

    def load(self, k, at):
        """The strip of argument k from element `at`."""
        pointers = [self.pointer(k, at, v, self.vector) for v in range(VECTORS)]
        return [self.builder.load(pointer, align=self.size) for pointer in pointers]

    def store(self, k, at, vectors):
        for v, vector in enumerate(vectors):
            self.builder.store(vector, self.pointer(k, at, v, self.vector), align=self.size)

    def add(self, k, at, sums):
        """Add a strip of sums to the float64 values from argument k's element `at`."""
        wide = ir.VectorType(ir.DoubleType(), self.count)
        for v, place in enumerate(sums):
            pointer = self.pointer(k, at, v, wide)
            more = self.builder.load(place)
            more = self.builder.fpext(more, wide) if self.size == 4 else more
            self.builder.store(self.builder.fadd(self.builder.load(pointer, align=8), more), pointer, align=8)

    def zeros(self):
        """A strip of sums; LLVM keeps them in registers."""
        return [cgutils.alloca_once_value(self.builder, self.vector([0.0] * self.count)) for _ in range(VECTORS)]

    def accumulate(self, place, term):
        self.builder.store(self.builder.fadd(self.builder.load(place), term), place)

    def splat(self, value):
        one = self.builder.insert_element(ir.Constant(self.vector, ir.Undefined), value, ir.IntType(32)(0))
        return self.builder.shuffle_vector(one, one, ir.VectorType(ir.IntType(32), self.count)([0] * self.count))

    def fma(self, a, b, c):
        return _fma(self.builder, self.vector, f"v{self.count}f{8 * self.size}", a, b, c)

    def rows(self, at, step, count):
        """A loop whose index stands at, at + step, ... and so on."""
        return _rows(self.builder, at, step, count)


class _rows:
    def __init__(self, builder, at, step, count):
        self.builder, self.at, self.step = builder, at, step
        self.range = cgutils.for_range(builder, count)

    def __enter__(self):
        return self.builder.add(self.at, self.builder.mul(self.range.__enter__().index, self.step))

    def __exit__(self, *error):
        return self.range.__exit__(*error)


def _fma(builder, kind, suffix, a, b, c):
    name = "fma" if simd.host().fma else "fmuladd"  # without the instruction, fma would be a library call per lane
    signature = ir.FunctionType(kind, [kind] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.{suffix}"), [a, b, c])


def multiply_add(a, b, c):
    """a * b + c, rounded as the strips do it."""
    return a * b + c


def _multiply_add(typing_context, a, b, c):
    def codegen(context, builder, signature, values):
        return _fma(builder, values[0].type, f"f{a.bitwidth}", *values)

    return a(a, a, a), codegen


def add_moments(x, center, total, squares, at, step, rows, lane):
    """Add d and d * d of `rows` rows, the first at `at`, to the float64 lanes from `lane` on."""
    lanes = STRIP // x.itemsize
    c = center[lane : lane + lanes]
    for i in range(rows):
        d = x[at + i * step : at + i * step + lanes] - c
        total[lane : lane + lanes] += d
        squares[lane : lane + lanes] += d * d


def _add_moments(typing_context, x, center, total, squares, at, step, rows, lane):
    def codegen(context, builder, signature, values):
        strip = _Strip(context, builder, signature, values)
        at, step, rows, lane = values[4:]
        center, sums, products = strip.load(1, lane), strip.zeros(), strip.zeros()
        with strip.rows(at, step, rows) as place:
            for v, value in enumerate(strip.load(0, place)):
                d = builder.fsub(value, center[v])
                strip.accumulate(sums[v], d)
                builder.store(strip.fma(d, d, builder.load(products[v])), products[v])
        strip.add(2, lane, sums)
        strip.add(3, lane, products)
        return context.get_dummy_value()

    return types.void(x, center, total, squares, *[types.int64] * 4), codegen


def add_products(x, g, center, scale, shift, total, product, floor, at, step, rows, lane):
    """Add g and g * d, where y is above the floor, to the float64 lanes."""
    lanes = STRIP // x.itemsize
    c, a, b = (v[lane : lane + lanes] for v in (center, scale, shift))
    for i in range(rows):
        d = x[at + i * step : at + i * step + lanes] - c
        up = np.where(d * a + b <= floor, 0, g[at + i * step : at + i * step + lanes])
        total[lane : lane + lanes] += up
        product[lane : lane + lanes] += up * d


def _add_products(typing_context, x, g, center, scale, shift, total, product, floor, at, step, rows, lane):
    def codegen(context, builder, signature, values):
        strip = _Strip(context, builder, signature, values)
        at, step, rows, lane = values[8:]
        floor, zero = strip.splat(values[7]), strip.vector([0.0] * strip.count)
        center, scale, shift = (strip.load(k, lane) for k in (2, 3, 4))
        sums, products = strip.zeros(), strip.zeros()
        with strip.rows(at, step, rows) as place:
            for v, (value, up) in enumerate(zip(strip.load(0, place), strip.load(1, place), strict=True)):
                d = builder.fsub(value, center[v])
                stops = builder.fcmp_ordered("<=", strip.fma(d, scale[v], shift[v]), floor)
                up = builder.select(stops, zero, up)
                strip.accumulate(sums[v], up)
                builder.store(strip.fma(up, d, builder.load(products[v])), products[v])
        strip.add(5, lane, sums)
        strip.add(6, lane, products)
        return context.get_dummy_value()

    scalar = x.dtype
    return types.void(x, g, center, scale, shift, total, product, scalar, *[types.int64] * 4), codegen


def store_affine(x, center, scale, shift, out, floor, at, step, rows, lane):
    """out = y, or the floor."""
    lanes = STRIP // x.itemsize
    c, a, b = (v[lane : lane + lanes] for v in (center, scale, shift))
    for i in range(rows):
        y = (x[at + i * step : at + i * step + lanes] - c) * a + b
        out[at + i * step : at + i * step + lanes] = np.where(y <= floor, floor, y)


def _store_affine(typing_context, x, center, scale, shift, out, floor, at, step, rows, lane):
    def codegen(context, builder, signature, values):
        strip = _Strip(context, builder, signature, values)
        at, step, rows, lane = values[6:]
        floor = strip.splat(values[5])
        center, scale, shift = (strip.load(k, lane) for k in (1, 2, 3))
        with strip.rows(at, step, rows) as place:
            out = []
            for v, value in enumerate(strip.load(0, place)):
                y = strip.fma(builder.fsub(value, center[v]), scale[v], shift[v])
                out.append(builder.select(builder.fcmp_ordered("<=", y, floor), floor, y))
            strip.store(4, place, out)
        return context.get_dummy_value()

    return types.void(x, center, scale, shift, out, x.dtype, *[types.int64] * 4), codegen


def store_affine_grad(x, g, center, scale, shift, slope, level, out, floor, at, step, rows, lane):
    """out = g * scale + d * slope + level, with 0 for g where y is not above the floor."""
    lanes = STRIP // x.itemsize
    c, a, b, s, e = (v[lane : lane + lanes] for v in (center, scale, shift, slope, level))
    for i in range(rows):
        d = x[at + i * step : at + i * step + lanes] - c
        up = np.where(d * a + b <= floor, 0, g[at + i * step : at + i * step + lanes])
        out[at + i * step : at + i * step + lanes] = up * a + (d * s + e)


def _store_affine_grad(typing_context, x, g, center, scale, shift, slope, level, out, floor, at, step, rows, lane):
    def codegen(context, builder, signature, values):
        strip = _Strip(context, builder, signature, values)
        at, step, rows, lane = values[9:]
        floor, zero = strip.splat(values[8]), strip.vector([0.0] * strip.count)
        center, scale, shift, slope, level = (strip.load(k, lane) for k in (2, 3, 4, 5, 6))
        with strip.rows(at, step, rows) as place:
            out = []
            for v, (value, up) in enumerate(zip(strip.load(0, place), strip.load(1, place), strict=True)):
                d = builder.fsub(value, center[v])
                stops = builder.fcmp_ordered("<=", strip.fma(d, scale[v], shift[v]), floor)
                up = builder.select(stops, zero, up)
                out.append(strip.fma(up, scale[v], strip.fma(d, slope[v], level[v])))
            strip.store(7, place, out)
        return context.get_dummy_value()

    return types.void(x, g, center, scale, shift, slope, level, out, x.dtype, *[types.int64] * 4), codegen


if not numba.config.DISABLE_JIT:
    multiply_add = intrinsic(_multiply_add)
    add_moments = intrinsic(_add_moments)
    add_products = intrinsic(_add_products)
    store_affine = intrinsic(_store_affine)
    store_affine_grad = intrinsic(_store_affine_grad)
