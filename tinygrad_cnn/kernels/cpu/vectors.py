"""What the intrinsics that work on vectors of neighbouring channels share: LLVM IR for pointers, loads and stores."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from . import simd
from .simd import BYTE, INT32, INT64, POINTER


class Vectors:
    """The vectors of one intrinsic; `kind` is the array that says the dtype."""

    def __init__(self, context: Any, builder: Any, signature: Any, values: Any, kind: Any) -> None:
        self.context, self.builder, self.kinds, self.values = context, builder, signature.args, values
        self.scalar = context.get_data_type(kind.dtype)
        self.size = context.get_abi_sizeof(self.scalar)
        self.lanes = simd.host().vector_bytes // self.size
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.zero = self.vector([0.0] * self.lanes)

    def pointer(self, k: int, *offsets: Any) -> Any:
        """Argument k, an array, from the sum of these offsets on; LLVM is not to know that it moves with a loop."""
        at = offsets[0]
        for offset in offsets[1:]:
            at = self.builder.add(at, offset)
        kind = self.kinds[k]
        data = self.context.make_array(kind)(self.context, self.builder, self.values[k]).data
        return self.opaque(self.builder.gep(data, [at], source_etype=self.context.get_data_type(kind.dtype)))

    def opaque(self, pointer: Any) -> Any:
        return self.builder.asm(ir.FunctionType(POINTER, [POINTER]), "", "=r,0", [pointer], False)

    def past(self, pointer: Any, distance: Any) -> Any:
        return self.builder.gep(pointer, [distance], source_etype=BYTE)

    def load(self, pointer: Any) -> Any:
        return self.builder.load(pointer, typ=self.vector, align=self.size)

    def store(self, value: Any, pointer: Any) -> None:
        self.builder.store(value, self.builder.bitcast(pointer, value.type.as_pointer()), align=self.size)

    def splat(self, value: Any) -> Any:
        one = self.builder.insert_element(ir.Constant(self.vector, ir.Undefined), value, INT32(0))
        return self.builder.shuffle_vector(one, one, ir.VectorType(INT32, self.lanes)([0] * self.lanes))

    def floor(self, relu: Any) -> Any:
        """What pixels are not to be below: 0 for a ReLU, else NaN, which is never the larger one."""
        least = (self.scalar(0.0), self.scalar(float("nan")))
        return self.splat(self.builder.select(self.builder.icmp_signed("!=", relu, INT64(0)), *least))

    def clamped(self, value: Any, floor: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered("<=", value, floor), floor, value)
