"""Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11).

A number depends on the seed, the number of the call and the position of the element in memory alone, so the
result is the same on any number of threads. Block b of call c under seed s is philox(b, c; s), four words of 32
bits; element e of an array takes word (e // 256) % 4 of block 256 * (e // 1024) + e % 256, so that all words are
stored as vectors.
"""

from __future__ import annotations

import math

import numpy as np

from .. import launch
from ..compile import inner, jit
from .elementwise import _alike
from .memory import axis_order, empty, flat

RUN = 256  # elements in a row that take the same word of consecutive blocks
CHUNK = 4 * RUN
WORK = 8  # a random word costs about as much as 8 multiply-adds

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


@inner(inline=True)
def _round(c0, c1, c2, c3, k0, k1):
    a, b = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
    k0_next, k1_next = (k0 + _WEYL_0) & _LOW, (k1 + _WEYL_1) & _LOW
    return (b >> _HALF) ^ c1 ^ k0, b & _LOW, (a >> _HALF) ^ c3 ^ k1, a & _LOW, k0_next, k1_next


@inner(inline=True)
def philox(c0, c1, c2, c3, k0, k1):
    """The four words of a counter under a key; all are 32-bit numbers held in uint64."""
    c0, c1, c2, c3, k0, k1 = _round(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _round(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _round(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _round(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _round(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _round(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _round(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _round(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _round(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3, k0, k1 = _round(c0, c1, c2, c3, k0, k1)
    return c0, c1, c2, c3


def words(n: int, seed: int, call: int) -> np.ndarray:
    """n random uint32, the source of all the rest."""
    out = _whole_chunks(n, np.uint32)
    launch(_words, out, _word(seed), _word(call), work=WORK * n)
    return out[:n]


def _whole_chunks(n: int, dtype: type) -> np.ndarray:
    """Room for n elements and the rest of their last chunk: a second loop for a part of one would double the code."""
    return empty((-(-n // CHUNK) * CHUNK,), dtype)


def _word(x: int) -> np.uint64:
    return np.uint64(x & 0xFFFFFFFFFFFFFFFF)


@jit(parts=True)
def _words(out, seed, call, p, parts):
    chunks = out.size // CHUNK
    c2, c3, k0, k1 = call & _LOW, call >> _HALF, seed & _LOW, seed >> _HALF
    for chunk in range(p * chunks // parts, (p + 1) * chunks // parts):
        runs = out[chunk * CHUNK : (chunk + 1) * CHUNK]
        run0, run1, run2, run3 = runs[:RUN], runs[RUN : 2 * RUN], runs[2 * RUN : 3 * RUN], runs[3 * RUN :]
        for j in range(RUN):
            block = np.uint64(chunk * RUN + j)
            run0[j], run1[j], run2[j], run3[j] = philox(block & _LOW, block >> _HALF, c2, c3, k0, k1)


def uniform(
    shape: tuple[int, ...], dtype: np.dtype, seed: int, call: int, low: float = 0.0, high: float = 1.0
) -> np.ndarray:
    """Numbers in [low, high): multiples of 2 ** -24 of the width in float32, of 2 ** -53 in float64."""
    out = _unit(math.prod(shape), np.dtype(dtype), seed, call)
    out *= high - low
    out += low
    if high > low:
        np.minimum(out, np.nextafter(out.dtype.type(high), out.dtype.type(low)), out=out)  # rounding may reach it
    return out.reshape(shape)


def _unit(n: int, dtype: np.dtype, seed: int, call: int) -> np.ndarray:
    """n numbers in [0, 1) of all the bits that the dtype holds."""
    out = empty((n,), dtype)
    if dtype == np.float32:
        np.multiply(words(n, seed, call) >> np.uint32(8), np.float32(2**-24), out=out)
    else:
        pairs = words(2 * n, seed, call)
        np.multiply(pairs[:n] >> np.uint32(5), 67108864.0, out=out)
        out += pairs[n:] >> np.uint32(6)
        out *= 2.0**-53
    return out


def normal(
    shape: tuple[int, ...], dtype: np.dtype, seed: int, call: int, mean: float = 0.0, std: float = 1.0
) -> np.ndarray:
    """Normally distributed numbers, by Box and Muller's transform of uniform pairs in float64."""
    n = math.prod(shape)
    half = (n + 1) // 2
    pairs = _unit(2 * half, np.dtype(np.float64), seed, call)
    radius = np.sqrt(-2 * np.log1p(-pairs[:half]))  # log(1 - u): u is never 1
    angle = 2 * math.pi * pairs[half:]
    out = empty((2 * half,), dtype)
    np.multiply(radius, np.cos(angle), out=out[:half], casting="same_kind")
    np.multiply(radius, np.sin(angle), out=out[half:], casting="same_kind")
    out *= std
    out += mean
    return out[:n].reshape(shape)


def integers(shape: tuple[int, ...], low: int, high: int, seed: int, call: int) -> np.ndarray:
    """int64 in [low, high), from 64 random bits each."""
    n = math.prod(shape)
    pairs = words(2 * n, seed, call)
    bits = pairs[:n].astype(np.uint64) << np.uint64(32) | pairs[n:]
    return (bits % np.uint64(high - low)).astype(np.int64).reshape(shape) + low


def dropout(x: np.ndarray, p: float, seed: int, call: int) -> tuple[np.ndarray, np.ndarray]:
    """x / (1 - p) where an element is kept, which has probability 1 - p, else 0; and what is kept (bool)."""
    order = axis_order(x)
    y, elements, (x,) = _alike(x)
    mask = _whole_chunks(x.size, np.bool_)
    scale = x.dtype.type(1 / (1 - p) if p < 1 else 0)
    launch(_dropout, x, elements, mask, round(p * 2**32), scale, _word(seed), _word(call), work=WORK * x.size)
    mask = mask[: x.size]
    if order is None:
        return y, mask.reshape(y.shape)
    return y, mask.reshape([y.shape[axis] for axis in order]).transpose(np.argsort(order))


@jit(parts=True)
def _dropout(x, y, mask, threshold, scale, seed, call, p, parts):
    chunks = mask.size // CHUNK
    first_kept = np.uint64(threshold)
    zero = x.dtype.type(0)
    c2, c3, k0, k1 = call & _LOW, call >> _HALF, seed & _LOW, seed >> _HALF
    for chunk in range(p * chunks // parts, (p + 1) * chunks // parts):
        source, out = x[chunk * CHUNK : (chunk + 1) * CHUNK], y[chunk * CHUNK : (chunk + 1) * CHUNK]
        keep = mask[chunk * CHUNK : (chunk + 1) * CHUNK]
        run0, run1, run2, run3 = keep[:RUN], keep[RUN : 2 * RUN], keep[2 * RUN : 3 * RUN], keep[3 * RUN :]
        for j in range(RUN):
            block = np.uint64(chunk * RUN + j)
            w0, w1, w2, w3 = philox(block & _LOW, block >> _HALF, c2, c3, k0, k1)
            run0[j], run1[j] = w0 >= first_kept, w1 >= first_kept
            run2[j], run3[j] = w2 >= first_kept, w3 >= first_kept
        for j in range(out.size):
            v = source[j] * scale
            out[j] = v if keep[j] else zero


def dropout_grad(g: np.ndarray, mask: np.ndarray, p: float) -> np.ndarray:
    """g / (1 - p) where the mask keeps, else 0."""
    order = axis_order(g)
    dx, elements, (g,) = _alike(g)
    launch(_masked, g, flat(mask, order), g.dtype.type(1 / (1 - p) if p < 1 else 0), elements, work=g.size)
    return dx


@jit(parts=True)
def _masked(g, mask, scale, y, p, parts):
    lo, hi = p * y.size // parts, (p + 1) * y.size // parts
    zero = g.dtype.type(0)
    g, mask, y = g[lo:hi], mask[lo:hi], y[lo:hi]
    for i in range(y.size):
        v = g[i] * scale
        y[i] = v if mask[i] else zero
