"""Register tiles: the inner loops of every convolution and matrix product, written as LLVM IR.

A tile holds `rows` x `vectors` accumulators in registers and adds outer products to them:

    acc[r][c] += A[i*a1 + j*a2 + k*ak + r*ar] * B[i*b1 + j*b2 + k*bk + c*lanes ...]     i < n1, j < n2, k < n3

A's element is broadcast over a vector of B ("outer"), or A is read as a vector as well ("lanewise", for depthwise
convolutions). The strides are arguments, so these few functions serve forward, both gradients and matmul. Numba's own
loops stay scalar here (SLP vectorising is off): 3-5 % of the FMA peak, against 97 % for these.

A tile is compiled once, as a C function that computes a column of such tiles, one below the other. Kernels call it by
its address, which they find in their plan.
"""

from __future__ import annotations

import platform
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from ..compile import inner, jit

#: What a tile reads from its plan: the loop counts, the strides of A, of B, of C's rows, and FLAGS.
N1, N2, N3, A1, A2, AK, AR, B1, B2, BK, LDC, FLAGS = range(12)
#: What `contract.tile_panel` reads there: how many more sums are added to the first, and how far each is in A and in B.
MORE, A_MORE, B_MORE = range(12, 15)
#: How many products like the first follow it in the same call, and how far they are apart in A, in B and in C. The 16
#: of a Winograd convolution, each of (14, 16) and (16, 16), take 155 cycles a row of A together, 184 in 16 calls.
PLANES, A_PLANE, B_PLANE, C_PLANE = range(15, 19)
#: How far the runs of rows of a stack are apart in A.
A_RUN = 19
#: Where a tile that fetches begins to ask for lines, as distances in A and in B.
A_AHEAD, B_AHEAD = range(20, 22)
TILE_ARGS = 22
#: At each k it goes on by 4, 8, 16, ... bytes: this shifted by 1, 2, 3, ... With steps of 48 bytes a 1x1 weight
#: gradient between 32 channels, 34 MB, takes 980 us, of 64 bytes 715.
FETCH = 2
#: Bits of FLAGS: sums begin at the bias instead of zero, are added to what C holds, are no less than zero in the end;
#: or C goes around the caches, for an output too large for them: full vectors only, and aligned.
BIAS, ADD, RELU, STREAM = 1, 2, 4, 8

#: How many taps slide over the rows of a tile. With more than one, rows are neighbouring pixels, so that one load of A
#: serves that many multiply-adds, and B2 is the distance of the taps in B. For one vector of channels this makes the
#: difference between waiting for loads (65-80 % of the peak) and not: depthwise 7 x 7 taps take 0.68 of the time so.
TAPS = (1, 3, 5, 7)
#: Kinds of tiles: twice the place in TAPS, plus one for lanewise.
OUTER, LANEWISE, KINDS = 0, 1, range(2 * len(TAPS))
#: A tile of dot products: c[r, j] = bias[j] + sum over k of A[r*ar + k] * B[j*bk + k], k < n3*lanes + lanes in the last
#: vector; `vectors` is its number of columns j; with ADD to what C holds. For few columns, of which an outer product
#: would fill few lanes.
DOT = 2 * len(TAPS)
#: Outer products of one vector with elements of A in pairs, which a load brings to all lanes: two multiply-adds for
#: each load, where OUTER has one and waits for loads. A pair is two neighbours along k (N3 counts pairs, BK is from
#: pair to pair of rows of B), or two neighbouring rows (AR and LDC are from pair to pair, as are `rows`).
K_PAIRS, ROW_PAIRS = DOT + 1, DOT + 2

LINE_BYTES = 64
INT64, INT32, BYTE, POINTER = ir.IntType(64), ir.IntType(32), ir.IntType(8), ir.PointerType()
_TILE_TYPE = ir.FunctionType(ir.VoidType(), [POINTER] * 5 + [INT64, INT64])


class Host(NamedTuple):
    """What the tiles need to know of the processor that Numba compiles for."""

    vector_bytes: int
    registers: int
    fma: bool
    masks: bool


@cache
def host() -> Host:
    """The vector unit: AVX-512, AVX2, another x86 (SSE2), or 128-bit vectors with FMA (NEON)."""
    codegen = cpu_target.target_context.codegen()
    features = {flag[1:] for flag in codegen._tm_features.split(",") if flag.startswith("+")}
    if "avx512f" in features:
        return Host(64, 32, fma=True, masks=True)
    if "avx2" in features:
        return Host(32, 16, fma="fma" in features, masks=True)
    if "sse2" in features or platform.machine() in ("x86_64", "AMD64"):  # every one has it, named or not
        return Host(16, 16, fma="fma" in features, masks=False)
    return Host(16, 32, fma=True, masks=False)


def lanes(dtype: Any) -> int:
    """Elements of a vector."""
    return host().vector_bytes // np.dtype(dtype).itemsize


def taps(kind: int) -> int:
    """How many taps slide over the rows of a tile of this kind."""
    return 1 if kind >= DOT else TAPS[kind // 2]


def is_lanewise(kind: int) -> bool:
    return kind < DOT and kind % 2 == 1


def is_paired(kind: int) -> bool:
    return kind in (K_PAIRS, ROW_PAIRS)


def max_rows(vectors: int, kind: int = OUTER, fetches: bool = False) -> int:
    """Rows of the largest tile of that many vectors without spills: accumulators, B's vectors, one broadcast.

    Without AVX-512 a mask takes a register as well, and LLVM wants one or two more for all but the plain tile; where a
    tile of pairs asks for lines ahead, it loads all of them first.
    """
    if kind == DOT:
        spare = 1 if host().registers == 32 else 2
        return max(min((host().registers - spare - vectors) // vectors, 4), 2)
    if is_paired(kind):
        return min(max_rows(2), 10 if fetches else 16)
    spare = 1 if host().registers == 32 else {OUTER: 2, LANEWISE: 4}.get(kind, 3)
    spare += vectors - 1 if is_lanewise(kind) and taps(kind) > 1 else 0
    rows = (host().registers - spare - taps(kind) * vectors) // vectors
    return min(rows, 14 if kind == LANEWISE else 16)


def max_stack(vectors: int) -> int:
    """Rows of the largest stack of that many vectors."""
    return min((host().registers - (1 if host().registers == 32 else 2) - vectors) // vectors, 28)


def max_vectors(kind: int = OUTER) -> int:
    """Vectors of the widest tile worth having: it still has three rows; with two, a slide gains nothing more."""
    if is_paired(kind):
        return 1
    if taps(kind) > 1:
        return 2 if host().registers == 32 else 1
    return 4 if host().registers == 32 else 3


def max_columns(dtype: Any) -> int:
    """Columns of the widest tile of dot products: two rows of sums in registers, and one in the lanes of a vector."""
    return min(lanes(dtype), 10 if host().registers == 32 else 5)


def tile_address(
    dtype: Any, kind: int, vectors: int, rows: int, run: int = 0, fetches: tuple[int, int] = (0, 0)
) -> int:
    """The address of the tile `void(plan, a, b, c, bias, lanes in the last vector, count)`, compiled on first use.

    With `run`, of a stack: A's rows are runs of so many, AR apart, and from run to run it is A_RUN. With `fetches`, of
    one that asks at each k for lines of A and of B further on, a stack, paired or OUTER: FETCH shifted by so much.
    """
    if run or any(fetches) or is_paired(kind):
        return _stack_address(np.dtype(dtype).char, kind, vectors, rows, run or rows, fetches)
    return int(_tile_addresses(np.dtype(dtype).char, kind, vectors)[rows - 1])


@cache
def _stack_address(char: str, kind: int, vectors: int, rows: int, run: int, fetches: tuple[int, int]) -> int:
    scalar = types.float32 if char == "f" else types.float64
    counts = (types.UniTuple(types.int64, count) for count in (1 + kind, rows, run, *(1 + n for n in fetches)))
    signature = (types.UniTuple(scalar, vectors), *counts)
    _stack.compile(signature)
    name = _stack_name(scalar, kind, vectors, rows, run, fetches)
    return int(_stack.overloads[signature].library.get_pointer_to_function(name))


@cache
def _tile_addresses(char: str, kind: int, vectors: int) -> tuple[int, ...]:
    scalar = types.float32 if char == "f" else types.float64
    signature = (types.UniTuple(scalar, vectors), types.UniTuple(types.int64, kind + 1))
    _tiles.compile(signature)
    library = _tiles.overloads[signature].library
    return tuple(
        library.get_pointer_to_function(_tile_name(scalar, kind, vectors, rows))
        for rows in range(1, max_rows(vectors, kind) + 1)
    )


@jit
def _tiles(width: Any, kind: Any) -> None:
    """Never called: compiling it compiles the tiles of a width and kind, and our kernel cache keeps them.

    Tuple types say both, by their length: Numba drops literal integers on the way to an intrinsic.
    """
    _define_tiles(width, kind)


@jit
def _stack(width: Any, kind: Any, rows: Any, run: Any, a_fetches: Any, b_fetches: Any) -> None:
    """Never called, as `_tiles`: compiling it compiles one stack; the last two have one element if it fetches none."""
    _define_stack(width, kind, rows, run, a_fetches, b_fetches)


@intrinsic
def _define_stack(typingctx: Any, width: Any, kind: Any, rows: Any, run: Any, a_fetches: Any, b_fetches: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        fetches = a_fetches.count - 1, b_fetches.count - 1
        name = _stack_name(width.dtype, kind.count - 1, width.count, rows.count, run.count, fetches)
        tile = _Tile(builder.module, width.dtype, kind.count - 1, width.count, rows.count, run.count, name)
        tile.fetches = fetches
        tile.emit()
        return context.get_dummy_value()

    return types.none(width, kind, rows, run, a_fetches, b_fetches), codegen


@intrinsic
def _define_tiles(typingctx: Any, width: Any, kind: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for rows in range(1, max_rows(width.count, kind.count - 1) + 1):
            _Tile(builder.module, width.dtype, kind.count - 1, width.count, rows).emit()
        return context.get_dummy_value()

    return types.none(width, kind), codegen


def _tile_name(scalar: Any, kind: int, vectors: int, rows: int) -> str:
    return f"tinygrad_cnn_tile_{scalar}_{kind}_{vectors}_{rows}"


def _stack_name(scalar: Any, kind: int, vectors: int, rows: int, run: int, fetches: tuple[int, int]) -> str:
    return f"tinygrad_cnn_stack_{scalar}_{kind}_{vectors}_{rows}_{run}_{fetches[0]}_{fetches[1]}"


class _Tile:
    """Emits one tile function."""

    #: Rows that share a base pointer: base + {0, 1, 2, 3, 4}*ar are x86 addressing modes with ar and 3*ar in registers,
    #: so that 14 rows need a handful of the 15 integer registers, and 3 additions for each k.
    GROUP = 5
    #: By how much FETCH is shifted to get the bytes that it asks for at each k of A and of B; 0: none.
    fetches = (0, 0)

    def __init__(
        self, module: ir.Module, scalar: Any, kind: int, vectors: int, rows: int, run: int = 0, name: str = ""
    ) -> None:
        self.module, self.kind, self.vectors, self.rows, self.run = module, kind, vectors, rows, run or rows
        self.sums = 2 if is_paired(kind) else vectors  # accumulators of a row
        self.scalar = ir.FloatType() if scalar == types.float32 else ir.DoubleType()
        self.align = 4 if scalar == types.float32 else 8
        self.lanes = host().vector_bytes // self.align
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.bits = ir.VectorType(ir.IntType(1), self.lanes)
        self.suffix = f"v{self.lanes}f{8 * self.align}"
        self.function = ir.Function(module, _TILE_TYPE, name or _tile_name(scalar, kind, vectors, rows))
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))

    def emit(self) -> None:
        """The function: with maskable vectors one body, else a fast one for full vectors and one for tails."""
        plan, *_, lanes, _ = self.function.args
        self.args = [
            self.builder.load(self.at(plan, _int(i), INT64), typ=INT64) for i in range(TILE_ARGS)
        ]  # loaded once: a store to C may not change them
        self.mask = self.below(lanes)
        if self.kind == DOT:
            self.dots()
        elif host().masks:
            self.tiles()
        else:
            full = self.builder.icmp_unsigned("==", lanes, _int(self.lanes))
            with self.builder.if_else(full) as (then, otherwise):
                with otherwise:
                    self.tiles()
                with then:
                    self.mask = None
                    self.tiles()
        self.builder.ret_void()

    def tiles(self) -> None:
        """`count` tiles, one below the other, in each plane: a call for each takes a fifth of a small one's time."""
        _, a, b, c, _, _, count = self.function.args
        down, below = (self.builder.mul(self.args[stride], _int(self.rows)) for stride in (AR, LDC))
        mask = self.mask

        def plane(values: list[Any]) -> list[Any]:
            def one(places: list[Any]) -> list[Any]:
                self.mask = mask
                ahead = self.body(places[0], values[1], places[1], places[2:])
                return [self.at(places[0], down), self.at(places[1], below), *ahead]

            ahead = [self.at(values[i], self.args[A_AHEAD + i]) for i in range(2) if self.fetches[i]]
            self.loop(count, one, [values[0], values[2], *ahead])
            steps = (self.args[step] for step in (A_PLANE, B_PLANE, C_PLANE))
            return [self.at(value, step) for value, step in zip(values, steps, strict=True)]

        self.loop(self.builder.add(self.args[PLANES], _int(1)), plane, [a, b, c])

    def body(self, a: Any, b: Any, c: Any, ahead: list[Any]) -> list[Any]:
        """One tile; it asks for lines from `ahead` on, and returns where it stopped."""
        bias = self.function.args[4]
        accumulators = self.start(bias)
        arg, builder = self.args, self.builder
        one = builder.mul(arg[AR], _int(self.align))
        three, group = (builder.mul(one, _int(times)) for times in (3, self.GROUP))
        within = [_int(0), one, builder.mul(one, _int(2)), three, builder.mul(one, _int(4))]
        slide = taps(self.kind)
        each = -(-(self.run + slide - 1) // self.GROUP)  # bases of a run
        bases = self.rows // self.run * each
        sums = bases + 1 + len(ahead)  # before them in the innermost loop

        def inner(values: list[Any]) -> list[Any]:
            rows, bk, ahead, acc = values[:bases], values[bases], values[bases + 1 : sums], values[sums:]
            fixed = [self.opaque(base) for base in rows] if slide == 1 else rows
            starts = [self.at(bk, builder.mul(arg[B2], _int(tap))) if tap else bk for tap in range(slide)]
            columns = [self.columns(start) for start in starts]
            out = list(acc)
            for r in range(self.rows + slide - 1):
                run, row = divmod(r, self.run + slide - 1)
                base = fixed[run * each + row // self.GROUP]
                left = self.read(self.at(base, within[row % self.GROUP], BYTE))
                for tap in range(slide):
                    for v in range(self.sums) if 0 <= r - tap < self.rows else ():
                        n = (r - tap) * self.sums + v
                        out[n] = self.multiply_add(left[v], columns[tap][v], out[n])
            return [self.at(base, arg[AK]) for base in rows] + [self.at(bk, arg[BK]), *self.fetch(ahead), *out]

        def middle(values: list[Any]) -> list[Any]:
            aj, bj, *others = values
            rows = [aj]
            for base in range(1, bases):
                within_run = base % each
                rows.append(self.at(rows[-1], group, BYTE) if within_run else self.at(rows[-each], arg[A_RUN]))
            others = self.loop(arg[N3], inner, [*rows, bj, *others])[bases + 1 :]
            return [self.at(aj, arg[A2]), self.at(bj, arg[B2]), *others]

        def outer(values: list[Any]) -> list[Any]:
            ai, bi, *_ = values
            others = self.loop(arg[N2], middle, values)[2:]
            return [self.at(ai, arg[A1]), self.at(bi, arg[B1]), *others]

        results = self.loop(arg[N1], outer, [a, b, *ahead, *accumulators])[2:]
        self.finish(results[len(ahead) :], c)
        return results[: len(ahead)]

    def fetch(self, ahead: list[Any]) -> list[Any]:
        """Ask for what lies there; the next places. Steps are constants: in registers, a tile of 14 x 2 would spill."""
        steps = [FETCH << shift for shift in self.fetches if shift]
        for place, step in zip(ahead, steps, strict=True):
            for line in range(0, step, LINE_BYTES):
                prefetch(self.builder, self.at(place, _int(line), BYTE), near=2)
        return [self.at(place, _int(step), BYTE) for place, step in zip(ahead, steps, strict=True)]

    def finish(self, results: list[Any], c: Any) -> None:
        """Store the accumulators to the rows of C, as the flags say."""
        rows, ldc = [c], self.args[LDC]
        if is_paired(self.kind):
            results = self.unpaired(results)
            ldc = self.half(ldc) if self.kind == ROW_PAIRS else ldc
        for _ in range(len(results) // self.vectors - 1):
            rows.append(self.at(rows[-1], ldc))
        places = [(row, v) for row in rows for v in range(self.vectors)]
        # sums of sums are more exact than one long sum
        values = self.when(ADD, results, lambda i: self.builder.fadd(self.load(*places[i]), results[i]))
        values = self.clamped(values)
        with self.builder.if_else(self.flag(STREAM)) as (then, otherwise):
            with then:
                for value, (row, v) in zip(values, places, strict=True):
                    place = self.at(row, _int(v * self.lanes))
                    store = self.builder.store(value, place, align=host().vector_bytes)
                    store.set_metadata("nontemporal", self.module.add_metadata([INT32(1)]))
            with otherwise:
                for value, place in zip(values, places, strict=True):
                    self.store(value, *place)

    def clamped(self, values: list[Any]) -> list[Any]:
        """Their ReLU, if the flags say so; NaN stays NaN."""
        zero = self.zero()

        def relu(i: int) -> Any:
            return self.builder.select(self.builder.fcmp_ordered("<=", values[i], zero), zero, values[i])

        return self.when(RELU, values, relu)

    def flag(self, bit: int) -> Any:
        return self.builder.icmp_signed("!=", self.builder.and_(self.args[FLAGS], _int(bit)), _int(0))

    def when(self, bit: int, values: list[Any], new: Any) -> list[Any]:
        """values[i], or new(i) for each of them if the flags have the bit."""
        before = self.builder.block
        with self.builder.if_then(self.flag(bit)):
            changed, inside = [new(i) for i in range(len(values))], self.builder.block
        merged = []
        for value, other in zip(values, changed, strict=True):
            phi = self.builder.phi(self.vector)
            phi.add_incoming(value, before)
            phi.add_incoming(other, inside)
            merged.append(phi)
        return merged

    def dots(self) -> None:
        """The body of a tile of dot products: the last, masked vectors first, then the whole ones."""
        _, a, b, c, bias, *_ = self.function.args
        arg, builder, columns = self.args, self.builder, self.vectors
        whole = builder.mul(arg[N3], _int(self.lanes))

        def products(a: Any, b: Any, sums: list[Any], load: Any) -> list[Any]:
            right = [load(pointer) for pointer in self.spaced(b, arg[BK], columns)]
            left = [load(pointer) for pointer in self.spaced(a, arg[AR], self.rows)]
            pairs = [(x, y) for x in left for y in right]
            return [self.multiply_add(x, y, acc) for (x, y), acc in zip(pairs, sums, strict=True)]

        sums = [self.zero() for _ in range(self.rows * columns)]
        sums = products(self.at(a, whole), self.at(b, whole), sums, lambda pointer: self.load(pointer, 0, 1))
        self.mask = None

        def body(values: list[Any]) -> list[Any]:
            a, b, *sums = values
            sums = products(self.opaque(a), self.opaque(b), sums, lambda pointer: self.load(pointer, 0, 1))
            return [self.at(a, _int(self.lanes)), self.at(b, _int(self.lanes)), *sums]

        before = builder.block
        with builder.if_then(builder.icmp_signed("!=", arg[N3], _int(0))):
            looped = self.loop(arg[N3], body, [a, b, *sums])[2:]
            after = builder.block
        merged = []
        for first, last in zip(sums, looped, strict=True):
            phi = builder.phi(self.vector)
            phi.add_incoming(first, before)
            phi.add_incoming(last, after)
            merged.append(phi)
        self.mask = self.bits([n < columns for n in range(self.lanes)])
        (start,) = self.when(BIAS, [self.zero()], lambda _: self.load(bias, 0, 1))
        rows = [builder.fadd(start, self.lane_sums(merged[r : r + columns])) for r in range(0, len(merged), columns)]
        places = [c if not r else self.at(c, builder.mul(arg[LDC], _int(r))) for r in range(len(rows))]
        rows = self.when(ADD, rows, lambda r: builder.fadd(self.load(places[r], 0, 1), rows[r]))
        for row, place in zip(self.clamped(rows), places, strict=True):
            self.store(row, place, 0, 1)

    def spaced(self, base: Any, step: Any, count: int) -> list[Any]:
        """base + i*step elements for i < count."""
        step = self.builder.mul(step, _int(self.align))
        return [self.at(base, self.builder.mul(step, _int(i)), BYTE) if i else base for i in range(count)]

    def lane_sums(self, vectors: list[Any]) -> Any:
        """A vector of the sums of the lanes of each of up to `lanes` vectors, by a tree of exchanges."""
        vectors = [*vectors, *[self.zero()] * (self.lanes - len(vectors))]
        step, index = 1, ir.VectorType(INT32, self.lanes)
        while step < self.lanes:
            low = [n if not n & step else self.lanes + n - step for n in range(self.lanes)]
            high = [n + step if not n & step else self.lanes + n for n in range(self.lanes)]
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [
                self.builder.fadd(
                    self.builder.shuffle_vector(a, b, index(low)), self.builder.shuffle_vector(a, b, index(high))
                )
                for a, b in pairs
            ]
            step *= 2
        return vectors[0]

    def start(self, bias: Any) -> list[Any]:
        """The accumulators' first values: zero or the bias."""

        def first(v: int) -> Any:
            if not is_paired(self.kind):
                return self.load(bias, v)
            value = self.load(bias, 0)
            return self.interleaved(value, self.zero() if self.kind == K_PAIRS else value)[v]

        return self.when(BIAS, [self.zero()] * self.sums, first) * self.rows

    def columns(self, b: Any) -> list[Any]:
        """The vectors of B at one k, or of a pair of k."""
        if not is_paired(self.kind):
            return [self.load(b, v) for v in range(self.vectors)]
        first = self.load(b, 0)
        second = self.load(self.at(b, self.half(self.args[BK])), 0) if self.kind == K_PAIRS else first
        return self.interleaved(first, second)

    def half(self, distance: Any) -> Any:
        return self.builder.ashr(distance, _int(1))

    def interleaved(self, a: Any, b: Any) -> list[Any]:
        """a[0], b[0], a[1], b[1], ...: two vectors, of the first and the last half of each 16 bytes, which is cheap."""
        size = 16 // self.align
        places = [n // size * size + n % size // 2 + n % 2 * self.lanes for n in range(self.lanes)]
        return [self.shuffled(a, b, [place + half for place in places]) for half in (0, size // 2)]

    def unpaired(self, sums: list[Any]) -> list[Any]:
        """The rows of C of pairs of sums that have B's columns as `interleaved` put them."""
        size, out = 16 // self.align, []
        places = [n // size * size + n * 2 % size + n % size // (size // 2) * self.lanes for n in range(self.lanes)]
        for a, b in zip(sums[::2], sums[1::2], strict=True):
            pair = [self.shuffled(a, b, [place + i for place in places]) for i in (0, 1)]
            out += [self.builder.fadd(*pair)] if self.kind == K_PAIRS else pair
        return out

    def shuffled(self, a: Any, b: Any, places: list[int]) -> Any:
        return self.builder.shuffle_vector(a, b, ir.VectorType(INT32, len(places))(places))

    def loop(self, count: Any, body: Any, values: list[Any]) -> list[Any]:
        return loop(self.builder, count, body, values)

    def opaque(self, pointer: Any) -> Any:
        """The same pointer, of which LLVM knows nothing: else it makes one chain of additions of all row addresses.

        14 dependent additions take twice the time of the multiply-adds of a 14 x 1 tile: 13.2 cycles, with this 7.7.
        A slide has work enough to hide the chain, and here its loads would move up until sums spill.
        """
        return self.builder.asm(ir.FunctionType(POINTER, [POINTER]), "", "=r,0", [pointer], False)

    def at(self, pointer: Any, index: Any, kind: Any = None) -> Any:
        return self.builder.gep(pointer, [index], source_etype=kind or self.scalar)

    def read(self, pointer: Any) -> list[Any]:
        """A row of A at one k: its vectors, or one element in all lanes."""
        if is_lanewise(self.kind):
            return [self.load(pointer, v) for v in range(self.vectors)]
        if is_paired(self.kind):
            pair = self.builder.load(pointer, typ=ir.VectorType(self.scalar, 2), align=self.align)
            return [self.shuffled(pair, pair, [0, 1] * (self.lanes // 2))] * 2
        return [self.splat(self.builder.load(pointer, typ=self.scalar))] * self.vectors

    def load(self, pointer: Any, v: int, vectors: int = 0) -> Any:
        pointer = self.at(pointer, _int(v * self.lanes))
        if self.mask is None or v < (vectors or self.vectors) - 1:
            return self.builder.load(pointer, typ=self.vector, align=self.align)
        function = self.declare("masked.load", ".p0", self.vector, [POINTER, INT32, self.bits, self.vector])
        return self.builder.call(function, [pointer, INT32(self.align), self.mask, self.zero()])

    def store(self, value: Any, pointer: Any, v: int, vectors: int = 0) -> None:
        pointer = self.at(pointer, _int(v * self.lanes))
        if self.mask is None or v < (vectors or self.vectors) - 1:
            self.builder.store(value, pointer, align=self.align)
            return
        function = self.declare("masked.store", ".p0", ir.VoidType(), [self.vector, POINTER, INT32, self.bits])
        self.builder.call(function, [value, pointer, INT32(self.align), self.mask])

    def multiply_add(self, a: Any, b: Any, acc: Any) -> Any:
        return multiply_add(self.builder, a, b, acc)

    def declare(self, name: str, tail: str, result: Any, args: list[Any]) -> Any:
        return _declare(self.module, f"llvm.{name}.{self.suffix}{tail}", result, args)

    def below(self, count: Any) -> Any:
        """A mask of the first `count` lanes."""
        index = ir.VectorType(ir.IntType(8 * self.align), self.lanes)  # as wide as the scalars: one AVX2 register
        count = self.builder.trunc(count, index.element) if self.align == 4 else count
        return self.builder.icmp_signed("<", index(list(range(self.lanes))), self.splat(count, index))

    def splat(self, value: Any, kind: Any = None) -> Any:
        kind = kind or self.vector
        first = self.builder.insert_element(ir.Constant(kind, ir.Undefined), value, INT32(0))
        lanes = ir.VectorType(INT32, kind.count)([0] * kind.count)
        return self.builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), lanes)

    def zero(self) -> Any:
        return self.vector([0.0] * self.lanes)


def loop(builder: Any, count: Any, body: Any, values: list[Any]) -> list[Any]:
    """Repeat body `count` >= 1 times; it maps the loop-carried values to their next ones."""
    before, head = builder.block, builder.append_basic_block("loop")
    builder.branch(head)
    builder.position_at_end(head)
    left = builder.phi(INT64)
    phis = [builder.phi(value.type) for value in values]
    out = body(phis)
    fewer = builder.sub(left, _int(1))
    last = builder.block
    for phi, first, following in zip([left, *phis], [count, *values], [fewer, *out], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(following, last)
    done = builder.append_basic_block("done")
    branch = builder.cbranch(builder.icmp_signed("!=", fewer, _int(0)), head, done)
    branch.set_metadata("llvm.loop", _not_unrolled(builder))
    builder.position_at_end(done)
    return out


def prefetch(builder: Any, pointer: Any, near: int = 3) -> None:
    """Ask for the cache line there, to read it, near or less near (2: in the L2): nothing happens if there is none."""
    kind = ir.FunctionType(ir.VoidType(), [POINTER, INT32, INT32, INT32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [pointer, INT32(0), INT32(near), INT32(1)])


def _not_unrolled(builder: Any) -> Any:
    """Loop metadata, a node that refers to itself: unrolled, small tiles run out of integer registers."""
    add = builder.module.add_metadata
    node = add([builder.function, add(["llvm.loop.unroll.disable"])])
    node.operands = (node, node.operands[1])
    return node


def multiply_add(builder: Any, a: Any, b: Any, acc: Any) -> Any:
    """a * b + acc of three vectors."""
    name = "fma" if host().fma else "fmuladd"  # without the instruction, fma would be a library call per lane
    kind = f"v{a.type.count}f{32 if a.type.element == ir.FloatType() else 64}"
    return builder.call(_declare(builder.module, f"llvm.{name}.{kind}", a.type, [a.type] * 3), [a, b, acc])


def _declare(module: Any, name: str, result: Any, args: list[Any]) -> Any:
    """An intrinsic, by name: llvmlite's declare_intrinsic rejects vectors."""
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, args), name)


def _int(value: int) -> Any:
    return INT64(value)


@intrinsic
def call_tile(
    typingctx: Any,
    address: Any,
    plan: Any,
    plan_at: Any,
    a: Any,
    a_at: Any,
    b: Any,
    b_at: Any,
    c: Any,
    c_at: Any,
    bias: Any,
    bias_at: Any,
    lanes: Any,
    count: Any,
) -> Any:
    """Run `count` >= 1 of the tile at an address on 1-D arrays, each from an offset in elements."""
    args = (address, plan, plan_at, a, a_at, b, b_at, c, c_at, bias, bias_at, lanes, count)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointers = [_pointer(context, builder, signature.args[i], values[i], values[i + 1]) for i in range(1, 11, 2)]
        function = builder.inttoptr(values[0], _TILE_TYPE.as_pointer())
        builder.call(function, [*pointers, *values[11:]])
        return context.get_dummy_value()

    return types.none(*(types.int64 if isinstance(t, types.Integer) else t for t in args)), codegen


@intrinsic
def drain(typingctx: Any) -> Any:
    """Wait until what STREAM stored can be seen by other threads: x86 does not order such stores with others."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if platform.machine() in ("x86_64", "AMD64"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse.sfence"), [])
        return context.get_dummy_value()

    return types.none(), codegen


def _pointer(context: Any, builder: Any, kind: Any, value: Any, offset: Any) -> Any:
    data = context.make_array(kind)(context, builder, value).data
    return builder.gep(data, [offset], source_etype=context.get_data_type(kind.dtype))


@intrinsic
def copy(typingctx: Any, target: Any, target_at: Any, source: Any, source_at: Any, count: Any) -> Any:
    """memcpy of `count` elements between 1-D arrays, from offsets: of the smaller dtype, if they have two."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        to = _pointer(context, builder, signature.args[0], values[0], values[1])
        start = _pointer(context, builder, signature.args[2], values[2], values[3])
        size = min(context.get_abi_sizeof(context.get_data_type(array.dtype)) for array in (target, source))
        cgutils.raw_memcpy(builder, to, start, values[4], size)
        return context.get_dummy_value()

    return types.none(target, types.int64, source, types.int64, types.int64), codegen


@intrinsic
def clear(typingctx: Any, target: Any, target_at: Any, count: Any) -> Any:
    """Set `count` elements of a 1-D array to zero bytes, from an offset."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        to = _pointer(context, builder, signature.args[0], values[0], values[1])
        size = context.get_abi_sizeof(context.get_data_type(target.dtype))
        cgutils.memset(builder, to, builder.mul(values[2], INT64(size)), 0)
        return context.get_dummy_value()

    return types.none(target, types.int64, types.int64), codegen


@intrinsic
def _transpose_square(
    typingctx: Any, source: Any, source_at: Any, source_row: Any, target: Any, target_at: Any, target_row: Any
) -> Any:
    """Transpose a square of `lanes` rows between 1-D arrays; rows start source_row, target_row elements apart."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        scalar = context.get_data_type(source.dtype)
        align = context.get_abi_sizeof(scalar)
        count = host().vector_bytes // align
        vector = ir.VectorType(scalar, count)
        rows = []
        at = _pointer(context, builder, signature.args[0], values[0], values[1])
        for _ in range(count):
            rows.append(builder.load(at, typ=vector, align=align))
            at = builder.gep(at, [values[2]], source_etype=scalar)
        step = 1
        while step < count:  # exchange the off-diagonal blocks of 1, 2, 4, ... rows (Eklundh, 1972)
            low = [lane if not lane & step else count + lane - step for lane in range(count)]
            high = [lane + step if not lane & step else count + lane for lane in range(count)]
            index = ir.VectorType(INT32, count)
            for i in range(count):
                if not i & step:
                    a, b = rows[i], rows[i + step]
                    rows[i] = builder.shuffle_vector(a, b, index(low))
                    rows[i + step] = builder.shuffle_vector(a, b, index(high))
            step *= 2
        at = _pointer(context, builder, signature.args[3], values[3], values[4])
        for row in rows:
            builder.store(row, builder.bitcast(at, vector.as_pointer()), align=align)
            at = builder.gep(at, [values[5]], source_etype=scalar)
        return context.get_dummy_value()

    return types.none(source, types.int64, types.int64, target, types.int64, types.int64), codegen


@inner
def transpose(rows, columns, source, source_at, source_row, target, target_at, target_row, lanes):  # type: ignore[no-untyped-def]
    """target[c, r] = source[r, c] between 1-D arrays, in squares of `lanes` x `lanes`; what is left, one by one."""
    down, across = rows - rows % lanes, columns - columns % lanes
    for r in range(0, down, lanes):
        for c in range(0, across, lanes):
            at, to = source_at + r * source_row + c, target_at + c * target_row + r
            _transpose_square(source, at, source_row, target, to, target_row)
    for r in range(down, rows):
        for c in range(across):
            target[target_at + c * target_row + r] = source[source_at + r * source_row + c]
    for c in range(across, columns):
        for r in range(rows):
            target[target_at + c * target_row + r] = source[source_at + r * source_row + c]
