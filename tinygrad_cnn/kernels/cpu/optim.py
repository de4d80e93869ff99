"""The optimizers' updates: one kernel call changes all parameters of a group, wherever they lie in memory.

A kernel walks a table of addresses, one column for each parameter: row 0 the parameter, row 1 its gradient, the rows
after that its state. The arrays of a column have the same dense order of elements in memory; a size of 0 skips one.
LeNet-5 (10 parameters, 61,706 numbers): 9 us for Adam, of which 5 are arithmetic.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .. import launch
from ..compile import jit


def addresses(arrays: Sequence[np.ndarray], out: np.ndarray) -> None:
    """Write the addresses of the arrays' first elements into `out` (int64).

    NumPy takes 1.3 us to tell one (`ctypes.data`); reading the pointer out of the array objects takes 0.1 us each.
    """
    if _OBJECTS_ARE_READABLE:
        out[:] = list(map(id, arrays))
        _data_pointers(out)
    else:
        out[:] = [array.ctypes.data for array in arrays]


@intrinsic
def _load_int64(typing_context, address):
    """The int64 at an address."""

    def codegen(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()))

    return types.int64(types.int64), codegen


def _elements(address, size, witness):
    """A 1-D array of `size` elements of the witness's dtype at an address; here with ctypes."""
    kind = ctypes.POINTER(np.ctypeslib.as_ctypes_type(witness.dtype))
    return np.ctypeslib.as_array(ctypes.cast(int(address), kind), (int(size),))


def _elements_typing(typing_context, address, size, witness):
    """The same for Numba; its own carray takes 0.2 s to compile."""
    from numba.np import arrayobj  # 17 ms that importing tinygrad_cnn need not take

    kind = types.Array(witness.dtype, 1, "C")

    def codegen(context, builder, signature, args):
        array = context.make_array(kind)(context, builder)
        itemsize = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
        arrayobj.populate_array(
            array,
            data=builder.inttoptr(args[0], array.data.type),
            shape=[args[1]],
            strides=[itemsize],
            itemsize=itemsize,
            meminfo=None,
        )
        return array._getvalue()

    return kind(types.int64, types.int64, witness), codegen


if not numba.config.DISABLE_JIT:
    _elements = intrinsic(_elements_typing)


_HEADER = object.__basicsize__  # bytes; the pointer to the elements is the first field of an array object


@jit
def _data_pointers(objects):
    for i in range(objects.size):
        objects[i] = _load_int64(objects[i] + _HEADER)


def _objects_are_readable() -> bool:
    """Whether the pointer is where we look for it; a free-threaded or a debug build may put it elsewhere."""
    array = np.empty(3)
    return ctypes.c_ssize_t.from_address(id(array) + _HEADER).value == array.ctypes.data


_OBJECTS_ARE_READABLE = not numba.config.DISABLE_JIT and _objects_are_readable()


@jit
def _total(sizes):
    """Their sum; np.sum takes 2 us for ten of them."""
    total = 0
    for size in sizes:
        total += size
    return total


def sgd(
    dtype: np.dtype,
    table: np.ndarray,
    sizes: np.ndarray,
    first: np.ndarray,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
) -> None:
    """Update parameters by PyTorch's SGD. Table rows: parameter, gradient, and with momentum the momentum buffer.

    `first` (bool, one a parameter) tells where the buffer holds nothing yet; all arrays are int64 but that one.
    """
    total = _total(sizes)
    scalars = np.array([lr, momentum, dampening, weight_decay])
    launch(_sgd, np.empty(0, dtype), table, sizes, total, first, scalars, nesterov, maximize, work=total)


@jit(parts=True)
def _sgd(witness, table, sizes, total, first, scalars, nesterov, maximize, p, parts):
    cast = witness.dtype.type
    lr, momentum, decay = cast(scalars[0]), cast(scalars[1]), cast(scalars[3])
    sign = cast(-1 if maximize else 1)
    lo, hi = p * total // parts, (p + 1) * total // parts
    for t in range(sizes.size):
        a, b = lo if lo > 0 else 0, hi if hi < sizes[t] else sizes[t]
        lo, hi = lo - sizes[t], hi - sizes[t]
        if a >= b:
            continue
        param = _elements(table[0, t], sizes[t], witness)[a:b]
        grad = _elements(table[1, t], sizes[t], witness)[a:b]
        if momentum == 0:
            for i in range(b - a):
                param[i] -= lr * (sign * grad[i] + decay * param[i])
            continue
        buffer = _elements(table[2, t], sizes[t], witness)[a:b]
        take = cast(1) if first[t] else cast(1 - scalars[2])
        if first[t]:
            for i in range(b - a):
                buffer[i] = 0  # what it holds may be NaN
        if nesterov:
            for i in range(b - a):
                d = sign * grad[i] + decay * param[i]
                buffer[i] = momentum * buffer[i] + take * d
                param[i] -= lr * (d + momentum * buffer[i])
        else:
            for i in range(b - a):
                buffer[i] = momentum * buffer[i] + take * (sign * grad[i] + decay * param[i])
                param[i] -= lr * buffer[i]


def adam(
    dtype: np.dtype,
    table: np.ndarray,
    sizes: np.ndarray,
    steps: np.ndarray,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    amsgrad: bool = False,
    maximize: bool = False,
) -> None:
    """Update parameters by PyTorch's Adam, or AdamW with `decoupled`; amsgrad adds a row, the maximum of exp_avg_sq.

    Table rows: parameter, gradient, exp_avg, exp_avg_sq. `steps` (floats, one a parameter) counts this step too.
    """
    total = _total(sizes)
    scalars = float(lr), float(betas[0]), float(betas[1]), float(eps), float(weight_decay)
    flags = decoupled, amsgrad, maximize
    launch(_adam, np.empty(0, dtype), table, sizes, total, steps, *scalars, *flags, work=2 * total)


@jit(parts=True)
def _adam(witness, table, sizes, total, steps, lr, beta1, beta2, eps, decay, decoupled, amsgrad, maximize, p, parts):
    cast = witness.dtype.type
    sign = cast(-1 if maximize else 1)
    shrink = cast(1 - lr * decay if decoupled else 1)
    eps, decay = cast(eps), cast(0 if decoupled else decay)
    take1, take2, keep2 = cast(1 - beta1), cast(1 - beta2), cast(beta2)
    lo, hi = p * total // parts, (p + 1) * total // parts
    for t in range(sizes.size):
        a, b = lo if lo > 0 else 0, hi if hi < sizes[t] else sizes[t]
        lo, hi = lo - sizes[t], hi - sizes[t]
        if a >= b:
            continue
        param = _elements(table[0, t], sizes[t], witness)[a:b]
        grad = _elements(table[1, t], sizes[t], witness)[a:b]
        mean = _elements(table[2, t], sizes[t], witness)[a:b]
        square = _elements(table[3, t], sizes[t], witness)[a:b]
        step = np.float64(steps[t])
        rate = cast(lr / (1 - beta1**step))
        correction = cast(1 / math.sqrt(1 - beta2**step))
        if amsgrad:
            highest = _elements(table[4, t], sizes[t], witness)[a:b]
            for i in range(b - a):
                g = sign * grad[i] + decay * param[i]
                mean[i] += take1 * (g - mean[i])
                square[i] = keep2 * square[i] + take2 * g * g
                highest[i] = max(highest[i], square[i])
                param[i] = shrink * param[i] - rate * mean[i] / (np.sqrt(highest[i]) * correction + eps)
        else:
            for i in range(b - a):
                g = sign * grad[i] + decay * param[i]
                mean[i] += take1 * (g - mean[i])
                square[i] = keep2 * square[i] + take2 * g * g
                param[i] = shrink * param[i] - rate * mean[i] / (np.sqrt(square[i]) * correction + eps)
