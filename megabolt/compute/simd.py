# SPDX-License-Identifier: Apache-2.0
"""SIMD vectors as values inside Numba kernels.

LLVM's loop vectoriser gives up on dynamic programming, so kernels say what they mean: a `Vector` holds one
number per lane, lives in a register, and is written with ordinary operators::

    h = load(row, k * lanes(row))
    h = maximum(h, where(query == target, match, mismatch) + diagonal)
    store(row, k * lanes(row), h)

The width is that of the processor's registers, chosen when this module is imported: 512 bits with AVX-512,
256 with AVX2, else 128 (SSE2, NEON). A width that the machine lacks runs correctly but many times slower.
MEGABOLT_SIMD_BITS=128, 256 or 512 overrides the choice, for tests of the other widths.

Loads and stores check bounds only under NUMBA_BOUNDSCHECK=1, like those of `compute.bits`.
"""

from __future__ import annotations

import operator
import os
import platform
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from megabolt.compute.bits import raw_pointer
from megabolt.errors import UsageError


def cpu_features() -> set[str]:
    """LLVM names of the instruction sets that Numba compiles for, such as "avx2" and "fma"."""
    if config.CPU_FEATURES is not None:
        return {name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+")}
    return {name for name, present in llvmlite.binding.get_host_cpu_features().items() if present}


def _register_bits(features: set[str]) -> int:
    asked = os.environ.get("MEGABOLT_SIMD_BITS")
    if asked is not None:
        if asked not in ("128", "256", "512"):
            raise UsageError(f"MEGABOLT_SIMD_BITS is {asked!r}", "Set it to 128, 256 or 512, or unset it.")
        return int(asked)
    if {"avx512bw", "avx512vl", "avx512dq"} <= features:
        return 512
    return 256 if "avx2" in features else 128


_FEATURES = cpu_features()
REGISTER_BITS = _register_bits(_FEATURES)
LANES_I16 = REGISTER_BITS // 16
#: Without the instruction LLVM would call a slow library function; AArch64 always has it.
_HAS_FMA = "fma" in _FEATURES or platform.machine().lower() in ("arm64", "aarch64")


class Vector(types.Type):  # type: ignore[misc]
    """Numba type of a SIMD value: `lanes` numbers of one element type, or (boolean) a mask."""

    def __init__(self, element: Any, lanes: int) -> None:
        self.element = element
        self.lanes = lanes
        super().__init__(name=f"Vector({element} x {lanes})")

    @property
    def is_float(self) -> bool:
        return isinstance(self.element, types.Float)

    @property
    def llvm(self) -> Any:
        if self.is_float:
            scalar = ir.FloatType() if self.element.bitwidth == 32 else ir.DoubleType()
        else:
            scalar = ir.IntType(1 if self.element == types.boolean else self.element.bitwidth)
        return ir.VectorType(scalar, self.lanes)

    @property
    def mask(self) -> Vector:
        return Vector(types.boolean, self.lanes)

    @property
    def suffix(self) -> str:
        """The end of an LLVM intrinsic's name, such as "v16i16"."""
        return f"v{self.lanes}{'f' if self.is_float else 'i'}{self.element.bitwidth}"


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.llvm)


def vector_of(array: Any) -> Vector | None:
    """The vector type that fills a register with elements of an array (None: the elements are no numbers)."""
    if isinstance(array, types.Array) and isinstance(array.dtype, (types.Integer, types.Float)):
        return Vector(array.dtype, REGISTER_BITS // array.dtype.bitwidth)
    return None


# ---------------------------------------------------------------- memory and constants


def aligned_empty(length: int, dtype: Any) -> Any:
    """An uninitialised 1-D array whose first element starts a cache line: no vector of it straddles two."""
    size = length * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + size].view(dtype)


def _byte_offset(context: Any, builder: Any, array_type: Any, index: Any) -> Any:
    itemsize = context.get_abi_sizeof(context.get_data_type(array_type.dtype))
    return builder.mul(index, index.type(itemsize))


def _vector_pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, vector: Vector) -> Any:
    return raw_pointer(
        context, builder, array_type, array, _byte_offset(context, builder, array_type, index), vector.llvm
    )


def _in_every_lane(builder: Any, scalar: Any, vector: Vector) -> Any:
    undefined = ir.Constant(vector.llvm, ir.Undefined)
    i32 = ir.IntType(32)
    single = builder.insert_element(undefined, scalar, i32(0))
    return builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(i32, vector.lanes), [0] * vector.lanes))


@intrinsic
def lanes(typing_context: Any, array: Any) -> Any:
    """How many elements of the array fill a register; a constant of the compiled kernel."""
    vector = vector_of(array)
    if vector is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.IntType(64)(vector.lanes)

    return types.int64(array), codegen


@intrinsic
def load(typing_context: Any, array: Any, index: Any) -> Any:
    """The lanes array[index], array[index + 1], ... (the index counts elements)."""
    vector = vector_of(array)
    if vector is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _vector_pointer(context, builder, sig.args[0], args[0], args[1], vector)
        return builder.load(pointer, align=1)

    return vector(array, types.int64), codegen


@intrinsic
def broadcast(typing_context: Any, array: Any, index: Any) -> Any:
    """array[index] in every lane."""
    vector = vector_of(array)
    if vector is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        element = context.get_data_type(vector.element)
        offset = _byte_offset(context, builder, sig.args[0], args[1])
        pointer = raw_pointer(context, builder, sig.args[0], args[0], offset, element)
        return _in_every_lane(builder, builder.load(pointer), vector)

    return vector(array, types.int64), codegen


@intrinsic
def splat(typing_context: Any, array: Any, scalar: Any) -> Any:
    """The same number in every lane of a vector like those of `array`, whose dtype it is converted to."""
    vector = vector_of(array)
    if vector is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _in_every_lane(builder, context.cast(builder, args[1], sig.args[1], vector.element), vector)

    return vector(array, scalar), codegen


@intrinsic
def store(typing_context: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write all lanes to array[index], array[index + 1], ..."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _vector_pointer(context, builder, sig.args[0], args[0], args[1], sig.args[2])
        builder.store(args[2], pointer, align=1)
        return context.get_dummy_value()

    if not isinstance(vector, Vector) or array.dtype != vector.element:
        return None
    return types.void(array, types.int64, vector), codegen


# ---------------------------------------------------------------- arithmetic


def _operator(function: Any, on_integers: Callable[..., Any], on_floats: Callable[..., Any], to_mask: bool) -> None:
    """Teach Numba `function(vector, vector)`, lane by lane."""

    @infer_global(function)
    class _Template(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) == 2 and isinstance(args[0], Vector) and args[0] == args[1]:
                return signature(args[0].mask if to_mask else args[0], *args)
            return None

    @lower_builtin(function, Vector, Vector)
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        emit = on_floats if sig.args[0].is_float else on_integers
        return emit(builder, args[0], args[1])


# Floats carry no fast-math flags: `a * b + c` stays two roundings and only `fma` is one, so that a lane's
# result does not depend on how LLVM arranged the loop it sits in.
_operator(operator.add, lambda b, x, y: b.add(x, y), lambda b, x, y: b.fadd(x, y), to_mask=False)
_operator(operator.sub, lambda b, x, y: b.sub(x, y), lambda b, x, y: b.fsub(x, y), to_mask=False)
_operator(operator.mul, lambda b, x, y: b.mul(x, y), lambda b, x, y: b.fmul(x, y), to_mask=False)
_operator(
    operator.eq,
    lambda b, x, y: b.icmp_signed("==", x, y),
    lambda b, x, y: b.fcmp_ordered("==", x, y),
    to_mask=True,
)
_operator(
    operator.gt,
    lambda b, x, y: b.icmp_signed(">", x, y),
    lambda b, x, y: b.fcmp_ordered(">", x, y),
    to_mask=True,
)


def _llvm_call(builder: Any, name: str, vector: Vector, args: Any) -> Any:
    kind = ir.FunctionType(vector.llvm, [vector.llvm] * len(args))
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"{name}.{vector.suffix}"), args)


def _make_signed_binary(name: str) -> Any:
    """An LLVM intrinsic on two vectors of signed integers."""

    @intrinsic
    def binary(typing_context: Any, x: Any, y: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return _llvm_call(builder, name, sig.args[0], args)

        if not isinstance(x, Vector) or x != y or x.is_float:
            return None
        return x(x, y), codegen

    return binary


#: The larger and the smaller of two integers; sums and differences that stop at the type's limits.
maximum = _make_signed_binary("llvm.smax")
minimum = _make_signed_binary("llvm.smin")
saturating_add = _make_signed_binary("llvm.sadd.sat")
saturating_sub = _make_signed_binary("llvm.ssub.sat")


@intrinsic
def fma(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z of floats, rounded once (twice on processors without the instruction)."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if _HAS_FMA:
            return _llvm_call(builder, "llvm.fma", sig.args[0], args)
        return builder.fadd(builder.fmul(args[0], args[1]), args[2])

    if not isinstance(x, Vector) or not x.is_float or not x == y == z:
        return None
    return x(x, y, z), codegen


@intrinsic
def where(typing_context: Any, mask: Any, x: Any, y: Any) -> Any:
    """x in the lanes where the mask is set, else y."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(args[0], args[1], args[2])

    if not isinstance(x, Vector) or x != y or mask != x.mask:
        return None
    return x(mask, x, y), codegen


# ---------------------------------------------------------------- floating-point environment

#: MXCSR bits: denormal results become zero, denormal inputs count as zero.
_FLUSH_TO_ZERO = 0x8040


def _mxcsr_call(builder: Any, name: str, slot: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.call(function, [builder.bitcast(slot, ir.IntType(8).as_pointer())])


@intrinsic
def flush_denormals(typing_context: Any) -> Any:
    """Treat denormal floats as zero in this thread (they cost a hundred cycles each); returns the old state.

    Does nothing outside x86-64. Pair every call with `restore_denormals`.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        i32 = ir.IntType(32)
        if platform.machine().lower() not in ("x86_64", "amd64"):
            return i32(0)
        slot = cgutils.alloca_once(builder, i32)
        _mxcsr_call(builder, "llvm.x86.sse.stmxcsr", slot)
        old = builder.load(slot)
        builder.store(builder.or_(old, i32(_FLUSH_TO_ZERO)), slot)
        _mxcsr_call(builder, "llvm.x86.sse.ldmxcsr", slot)
        return old

    return types.int32(), codegen


@intrinsic
def restore_denormals(typing_context: Any, state: Any) -> Any:
    """Undo `flush_denormals`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if platform.machine().lower() in ("x86_64", "amd64"):
            slot = cgutils.alloca_once(builder, ir.IntType(32))
            builder.store(args[0], slot)
            _mxcsr_call(builder, "llvm.x86.sse.ldmxcsr", slot)
        return context.get_dummy_value()

    return types.void(types.int32), codegen
