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
from numba import carray, types
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


@intrinsic
def _pointer(typing_context, address, witness):
    """An address as a pointer to elements of the witness's dtype."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(witness.dtype)(types.int64, witness), codegen


if numba.config.DISABLE_JIT:

    def _pointer(address, witness):
        """An address as a ctypes pointer, which carray takes as well."""
        return ctypes.cast(int(address), ctypes.POINTER(np.ctypeslib.as_ctypes_type(witness.dtype)))


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
    flags = nesterov, maximize
    scalars = np.array([lr, momentum, dampening, weight_decay])
    launch(_sgd, np.empty(0, dtype), table, sizes, first, scalars, *flags, work=4 * int(sizes.sum()))


@jit(parts=True)
def _sgd(witness, table, sizes, first, scalars, nesterov, maximize, p, parts):
    cast = witness.dtype.type
    lr, momentum, decay = cast(scalars[0]), cast(scalars[1]), cast(scalars[3])
    sign = cast(-1 if maximize else 1)
    total = sizes.sum()
    lo, hi = p * total // parts, (p + 1) * total // parts
    for t in range(sizes.size):
        a, b = max(lo, 0), min(hi, sizes[t])
        lo, hi = lo - sizes[t], hi - sizes[t]
        if a >= b:
            continue
        param = carray(_pointer(table[0, t], witness), sizes[t])[a:b]
        grad = carray(_pointer(table[1, t], witness), sizes[t])[a:b]
        if momentum == 0:
            for i in range(b - a):
                param[i] -= lr * (sign * grad[i] + decay * param[i])
            continue
        buffer = carray(_pointer(table[2, t], witness), sizes[t])[a:b]
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

    Table rows: parameter, gradient, exp_avg, exp_avg_sq. `steps` (float64, one a parameter) counts this step too.
    """
    flags = decoupled, amsgrad, maximize
    scalars = np.array([lr, *betas, eps, weight_decay])
    launch(_adam, np.empty(0, dtype), table, sizes, steps, scalars, *flags, work=16 * int(sizes.sum()))


@jit(parts=True)
def _adam(witness, table, sizes, steps, scalars, decoupled, amsgrad, maximize, p, parts):
    cast = witness.dtype.type
    lr, beta1, beta2 = scalars[0], scalars[1], scalars[2]
    sign = cast(-1 if maximize else 1)
    eps, decay = cast(scalars[3]), cast(0 if decoupled else scalars[4])
    shrink = cast(1 - lr * scalars[4] if decoupled else 1)
    take1, take2, keep2 = cast(1 - beta1), cast(1 - beta2), cast(beta2)
    total = sizes.sum()
    lo, hi = p * total // parts, (p + 1) * total // parts
    for t in range(sizes.size):
        a, b = max(lo, 0), min(hi, sizes[t])
        lo, hi = lo - sizes[t], hi - sizes[t]
        if a >= b:
            continue
        param = carray(_pointer(table[0, t], witness), sizes[t])[a:b]
        grad = carray(_pointer(table[1, t], witness), sizes[t])[a:b]
        mean = carray(_pointer(table[2, t], witness), sizes[t])[a:b]
        square = carray(_pointer(table[3, t], witness), sizes[t])[a:b]
        rate = cast(lr / (1 - beta1 ** steps[t]))
        correction = cast(1 / math.sqrt(1 - beta2 ** steps[t]))
        if amsgrad:
            highest = carray(_pointer(table[4, t], witness), sizes[t])[a:b]
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
