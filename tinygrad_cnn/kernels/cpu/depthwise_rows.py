"""The inner loops of depthwise convolutions: walks along rows of an image, one vector of channels wide.

Each element of a row is loaded once for all K taps: it goes into the sums of all outputs that it belongs to, which wait
in registers. Where a window leaves the image, its rows are read from a row of zeros and its columns left out, so
nothing is copied. What the next walk needs is fetched into the cache meanwhile (a fifth of the time of 64 images of
64 x 16 x 16, which lie in the L3 cache).

K x K taps, a stride of S and padding of K // 2 are known when this code is made: step m of a walk takes the S columns
of the image from S * m on, and the output m. `size` and `stride` are tuple types, which say K and S by their length.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import simd
from .simd import INT32, INT64, POINTER, loop
from .vectors import Vectors


class _Walk(Vectors):
    """What the walks share; argument 2 is (H, W, C) of the image at the larger side."""

    def __init__(self, context: Any, builder: Any, signature: Any, values: Any) -> None:
        super().__init__(context, builder, signature, values, signature.args[0])
        self.taps, self.stride = (kind.count for kind in signature.args[-2:])
        self.before = self.taps // 2
        #: (e, d, t): column e of step m meets output m + d at tap t.
        self.terms = [
            (e, d, e + self.before - d * self.stride)
            for e in range(self.stride)
            for d in range(-self.taps, self.taps)
            if 0 <= e + self.before - d * self.stride < self.taps
        ]
        self.first, self.last = min(d for _, d, _ in self.terms), max(d for _, d, _ in self.terms)
        self.height, self.width, channels = cgutils.unpack_tuple(builder, values[2])
        self.channels = channels
        self.p, self.q = (self.over(builder.add(size, INT64(self.stride - 1))) for size in (self.height, self.width))
        self.across = builder.mul(channels, INT64(self.size))  # bytes from pixel to pixel, and from row to row
        self.pitch, self.out_pitch = (builder.mul(columns, self.across) for columns in (self.width, self.q))
        self.zeros = self.pointer(3, INT64(0))

    def over(self, value: Any) -> Any:
        return self.builder.sdiv(value, INT64(self.stride))

    def times(self, value: Any) -> Any:
        return self.builder.mul(value, INT64(self.stride))

    def line(self, start: Any, row: Any, rows: Any, pitch: Any) -> Any:
        """A row of the image at `start`, or the zeros if it has no such row."""
        place = self.past(start, self.builder.mul(row, pitch))
        return self.builder.select(self.builder.icmp_unsigned("<", row, rows), place, self.zeros)

    def lines(self, start: Any, output: Any) -> tuple[list[Any], Any]:
        """The K rows of the window of an output row, and the number of the row after them."""
        top = self.builder.sub(self.times(output), INT64(self.before))
        rows = [self.builder.add(top, INT64(i)) for i in range(self.taps + 1)]
        return [self.line(start, row, self.height, self.pitch) for row in rows[:-1]], rows[-1]

    def column(self, line: Any, offset: Any, e: int, ends: bool) -> Any:
        """Column e of the step at `offset`; in the last step an odd row has no second one."""
        place = self.past(line, self.builder.add(offset, self.builder.mul(self.across, INT64(e))) if e else offset)
        if e and ends:
            place = self.builder.select(self.odd(), self.zeros, place)
        return self.load(place)

    def odd(self) -> Any:
        return self.builder.trunc(self.width, ir.IntType(1))

    def tap(self, k: int, row: Any, t: int, channel: Any) -> Any:
        """Tap (row, t) of the kernels, argument k."""
        number = self.builder.add(self.builder.mul(row, INT64(self.taps)), INT64(t))
        return self.load(self.pointer(k, self.builder.mul(number, self.channels), channel))

    def multiply_add(self, a: Any, b: Any, total: Any) -> Any:
        return simd.multiply_add(self.builder, a, b, total)

    def ahead(self, start: Any, row: Any, pitch: Any, channel: Any, steps: Any) -> Any:
        """Where a walk over these channels begins to fetch from `row` on, that all walks fetch one line after another.

        In the order in which they will be read, every C elements, they come slower.
        """
        rows = self.builder.mul(row, pitch)
        lines = self.builder.mul(self.builder.mul(channel, steps), INT64(self.size))
        return self.past(self.past(start, rows), lines)

    def fetch(self, place: Any, lines: int) -> Any:
        """Prefetch vectors from this place on; where the next ones are."""
        kind = ir.FunctionType(ir.VoidType(), [POINTER, INT32, INT32, INT32])
        prefetch = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        for _ in range(lines):
            self.builder.call(prefetch, [place, INT32(0), INT32(3), INT32(1)])  # to read, into all caches, data
            place = self.past(place, INT64(self.lanes * self.size))
        return place


def _gather_typing(
    typing_context: Any, x: Any, at: Any, shape: Any, zeros: Any, w: Any, bias: Any, biased: Any, relu: Any, y: Any,
    to: Any, row: Any, channel: Any, size: Any, stride: Any,
) -> Any:  # fmt: skip
    """y[to:] = row `row` of the convolution of the image x[at:], in `lanes` channels from `channel` on."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        on = _Walk(context, builder, signature, values)
        _, at, _, _, _, _, biased, relu, _, to, row, channel, _, _ = values
        k, s = on.taps, on.stride
        lines, below = on.lines(on.pointer(0, at, channel), row)
        ahead = on.ahead(on.pointer(0, at), below, on.pitch, channel, on.times(on.width))
        taps = [[on.tap(4, INT64(i), t, channel) for t in range(k)] for i in range(k)]
        start = on.load(builder.select(builder.trunc(biased, ir.IntType(1)), on.pointer(5, channel), on.zeros))
        floor, target = on.floor(relu), on.pointer(8, to, channel)
        skip = on.times(on.across)

        def step(m: int, offset: Any, sums: list[Any], ends: bool = False) -> list[Any]:
            """The sums after a step; before output 0 there is none."""
            sums = list(sums)
            for e in range(s):
                for i in range(k):
                    value = on.column(lines[i], offset, e, ends)
                    for _, d, t in (term for term in on.terms if term[0] == e and m + term[1] >= 0):
                        sums[d - on.first] = on.multiply_add(value, taps[i][t], sums[d - on.first])
            return sums

        def finish(sums: list[Any], target: Any) -> Any:
            for done in sums:
                on.store(on.clamped(done, floor), target)
                target = on.past(target, on.across)
            return target

        def body(values: list[Any]) -> list[Any]:
            offset, target, ahead, *sums = values
            sums = step(k, offset, sums)
            target = finish(sums[:1], target)
            return [builder.add(offset, skip), target, on.fetch(ahead, s * s), *sums[1:], start]

        sums, offset = [start] * (on.last - on.first + 1), INT64(0)
        for m in range(-on.first):
            sums, offset = [*step(m, offset, sums)[1:], start], builder.add(offset, skip)
        peeled = int(s > 1)
        count = builder.add(on.q, INT64(on.first - peeled))
        offset, target, _, *sums = loop(builder, count, body, [offset, target, ahead, *sums])
        finish((step(k, offset, sums, True) if peeled else sums)[: peeled - on.first], target)
        return context.get_dummy_value()

    integer = types.int64
    return types.none(
        x, integer, shape, zeros, w, bias, integer, integer, y, integer, integer, integer, size, stride
    ), codegen


def _spread_typing(
    typing_context: Any, g: Any, at: Any, shape: Any, zeros: Any, w: Any, x: Any, to: Any, row: Any, channel: Any,
    size: Any, stride: Any,
) -> Any:  # fmt: skip
    """x[to:] = row `row` of the input gradient at a stride of two, from the image g[at:], in `lanes` channels."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        on = _Walk(context, builder, signature, values)
        _, at, _, _, _, _, to, row, channel, _, _ = values
        k, s, before = on.taps, on.stride, on.before
        image = on.pointer(0, at, channel)
        bottom = on.over(builder.add(row, INT64(before)))  # the last output row whose window has this row
        top_tap = builder.srem(builder.add(row, INT64(before)), INT64(s))
        lines, taps = [], []
        for j in range(-(-k // s)):
            i = builder.add(top_tap, INT64(s * j))
            some = builder.icmp_unsigned("<", i, INT64(k))
            output = builder.select(some, builder.sub(bottom, INT64(j)), INT64(-1))
            lines.append(on.line(image, output, on.p, on.out_pitch))
            taps.append([on.tap(4, builder.select(some, i, top_tap), t, channel) for t in range(k)])

        def step(offset: Any, sums: list[Any], start: int = 0) -> list[Any]:
            """The sums of the K columns of a window after its output; `start` is the first in the image."""
            sums = list(sums)
            for line, row_taps in zip(lines, taps, strict=True):
                value = on.load(on.past(line, offset))
                for t in range(start, k):
                    sums[t] = on.multiply_add(value, row_taps[t], sums[t])
            return sums

        def finish(sums: list[Any], target: Any) -> Any:
            for done in sums:
                on.store(done, target)
                target = on.past(target, on.across)
            return target

        def body(values: list[Any]) -> list[Any]:
            offset, target, ahead, *sums = values
            sums = step(offset, sums)
            target = finish(sums[:s], target)
            return [builder.add(offset, on.across), target, on.fetch(ahead, 1), *sums[s:], *[on.zero] * s]

        ahead = on.ahead(on.pointer(0, at), builder.add(bottom, INT64(1)), on.out_pitch, channel, on.q)
        sums = step(INT64(0), [on.zero] * k, before)
        target = finish(sums[before:s], on.pointer(5, to, channel))
        values = [on.across, target, ahead, *sums[s:], *[on.zero] * s]
        _, target, _, *sums = loop(builder, builder.sub(on.q, INT64(1)), body, values)
        target = finish(sums[: before - 1], target)
        with builder.if_then(builder.not_(on.odd())):
            finish(sums[before - 1 : before], target)
        return context.get_dummy_value()

    integer = types.int64
    return types.none(g, integer, shape, zeros, w, x, integer, integer, integer, size, stride), codegen


def _sum_typing(
    typing_context: Any, x: Any, at: Any, shape: Any, zeros: Any, g: Any, at_g: Any, sums: Any, to: Any, top: Any,
    rows: Any, channel: Any, size: Any, stride: Any,
) -> Any:  # fmt: skip
    """sums[to:] += the weight gradient by `rows` output rows from `top` on, of the images x[at:] and g[at_g:]."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        on = _Walk(context, builder, signature, values)
        _, at, _, _, _, at_g, _, to, top, rows, channel, _, _ = values
        k, s, early, waiting = on.taps, on.stride, -on.first, on.last - on.first
        image, gradients, skip = on.pointer(0, at, channel), on.pointer(4, at_g, channel), on.times(on.across)
        beyond = builder.sub(rows, INT64(1))

        def step(lines: list[Any], offset: Any, window: list[Any], sums: list[Any], ends: bool = False) -> list[Any]:
            """The sums after a step; `window` has the gradients of outputs m + first, ..., m + last, or None."""
            sums = list(sums)
            for e in range(s):
                for i in range(k):
                    value = on.column(lines[i], offset, e, ends)
                    for _, d, t in (term for term in on.terms if term[0] == e and window[term[1] + early]):
                        sums[i * k + t] = on.multiply_add(value, window[d + early], sums[i * k + t])
            return sums

        def row(values: list[Any]) -> list[Any]:
            p, *sums = values
            lines, below = on.lines(image, p)
            below = builder.add(below, on.times(beyond))
            ahead = on.ahead(on.pointer(0, at), below, on.pitch, channel, on.times(on.width))
            g_ahead = on.ahead(on.pointer(4, at_g), builder.add(p, rows), on.out_pitch, channel, on.q)
            place = on.past(gradients, builder.mul(p, on.out_pitch))

            def body(values: list[Any]) -> list[Any]:
                offset, place, ahead, g_ahead, *rest = values
                window = [*rest[:waiting], on.load(place)]
                sums = step(lines, offset, window, rest[waiting:])
                ahead, g_ahead = on.fetch(ahead, s * s), on.fetch(g_ahead, 1)
                return [builder.add(offset, skip), on.past(place, on.across), ahead, g_ahead, *window[1:], *sums]

            window: list[Any] = [None] * early
            offset = INT64(0)
            for n in range(waiting):
                window.append(on.load(place))
                place = on.past(place, on.across)
                if n >= on.last:
                    sums = step(lines, offset, window, sums)
                    window, offset = window[1:], builder.add(offset, skip)
            count = builder.sub(on.q, INT64(waiting))
            values = [offset, place, ahead, g_ahead, *window, *sums]
            offset, _, _, _, *rest = loop(builder, count, body, values)
            window, sums = rest[:waiting], rest[waiting:]
            for n in range(on.last):
                window.append(None)
                sums = step(lines, offset, window, sums, s > 1 and n == on.last - 1)
                window, offset = window[1:], builder.add(offset, skip)
            return [builder.add(p, INT64(1)), *sums]

        _, *totals = loop(builder, rows, row, [top, *[on.zero] * (k * k)])
        for i, total in enumerate(totals):
            place = on.pointer(6, to, builder.mul(on.channels, INT64(i)), channel)
            on.store(builder.fadd(on.load(place), total), place)
        return context.get_dummy_value()

    integer = types.int64
    return types.none(
        x, integer, shape, zeros, g, integer, sums, integer, integer, integer, integer, size, stride
    ), codegen


gather_row, spread_row, sum_rows = intrinsic(_gather_typing), intrinsic(_spread_typing), intrinsic(_sum_typing)
