# SPDX-License-Identifier: Apache-2.0
"""Words and bits inside kernels: unaligned loads and stores, prefetch, bit counts, 2-bit packed sequences.

Raw loads and stores do not check bounds, not even under NUMBA_BOUNDSCHECK=1: every buffer they touch carries
`PADDING` spare bytes behind its last valid one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from megabolt.compute.jit import inline

#: Spare bytes behind every buffer that kernels over-read or over-write in whole vectors.
PADDING = 1024

U = np.uint64
#: The low bit of each 2-bit base of a word.
EVEN_BITS = U(0x5555555555555555)


def _element_pointer(context: Any, builder: Any, signature: Any, args: Any, bits: int) -> Any:
    array = context.make_array(signature.args[0])(context, builder, args[0])
    base = builder.bitcast(array.data, ir.IntType(8).as_pointer())
    byte = builder.gep(base, [args[1]])
    return builder.bitcast(byte, ir.IntType(bits).as_pointer())


def _make_load(bits: int, result: Any) -> Any:
    @intrinsic
    def load(typing_context: Any, array: Any, byte_offset: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.load(_element_pointer(context, builder, signature, args, bits), align=1)

        return result(array, types.int64), codegen

    return load


def _make_store(bits: int, value_type: Any) -> Any:
    @intrinsic
    def store(typing_context: Any, array: Any, byte_offset: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.store(args[2], _element_pointer(context, builder, signature, args, bits), align=1)
            return context.get_dummy_value()

        return types.void(array, types.int64, value_type), codegen

    return store


#: load_u64(array, byte_offset): little-endian, unaligned; the offset counts bytes whatever the dtype.
load_u64 = _make_load(64, types.uint64)
load_u32 = _make_load(32, types.uint32)
load_i32 = _make_load(32, types.int32)
load_u16 = _make_load(16, types.uint16)
#: store_u32(array, byte_offset, value)
store_u64 = _make_store(64, types.uint64)
store_u32 = _make_store(32, types.uint32)
store_u16 = _make_store(16, types.uint16)


@intrinsic
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask the cache for array[index] (for reading, to keep)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        ary = context.make_array(signature.args[0])(context, builder, args[0])
        pointer = builder.bitcast(builder.gep(ary.data, [args[1]]), ir.IntType(8).as_pointer())
        i32 = ir.IntType(32)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), i32, i32, i32]),
            "llvm.prefetch.p0i8" if not _opaque_pointers() else "llvm.prefetch.p0",
        )
        builder.call(function, [pointer, i32(0), i32(3), i32(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


def _opaque_pointers() -> bool:
    """llvmlite from 0.45 on speaks LLVM 20 or later, where pointers have no element type."""
    import llvmlite

    major, minor = (int(part) for part in llvmlite.__version__.split(".")[:2])
    return (major, minor) >= (0, 44)


@intrinsic
def popcount(typing_context: Any, word: Any) -> Any:
    """Number of set bits of a uint64, as int64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), codegen


@intrinsic
def trailing_zeros(typing_context: Any, word: Any) -> Any:
    """Number of zero bits below the lowest set bit of a uint64, as int64; 64 for zero."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.IntType(1)(0))

    return types.int64(types.uint64), codegen


@intrinsic
def equal_mask64(typing_context: Any, array: Any, byte_offset: Any, value: Any) -> Any:
    """Bit i of the result is set where byte `byte_offset + i` equals `value` (64 bytes at once)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i8, lanes = ir.IntType(8), ir.VectorType(ir.IntType(8), 64)
        ary = context.make_array(signature.args[0])(context, builder, args[0])
        base = builder.bitcast(ary.data, i8.as_pointer())
        pointer = builder.bitcast(builder.gep(base, [args[1]]), lanes.as_pointer())
        block = builder.load(pointer, align=1)
        single = builder.insert_element(ir.Constant(lanes, ir.Undefined), args[2], ir.IntType(32)(0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64)
        splat = builder.shuffle_vector(single, ir.Constant(lanes, ir.Undefined), mask)
        equal = builder.icmp_unsigned("==", block, splat)
        return builder.bitcast(equal, ir.IntType(64))

    return types.uint64(array, types.int64, types.uint8), codegen


@inline
def pack8(eight_codes: Any) -> Any:
    """16 bits with the 2-bit codes of eight bytes (each 0..3), first byte lowest."""
    x = eight_codes
    x = (x | (x >> U(6))) & U(0x000F000F000F000F)
    x = (x | (x >> U(12))) & U(0x000000FF000000FF)
    return (x | (x >> U(24))) & U(0xFFFF)


@inline
def reverse_bases(word: Any) -> Any:
    """The 32 2-bit bases of a word in the opposite order."""
    x = word
    x = ((x >> U(2)) & U(0x3333333333333333)) | ((x & U(0x3333333333333333)) << U(2))
    x = ((x >> U(4)) & U(0x0F0F0F0F0F0F0F0F)) | ((x & U(0x0F0F0F0F0F0F0F0F)) << U(4))
    x = ((x >> U(8)) & U(0x00FF00FF00FF00FF)) | ((x & U(0x00FF00FF00FF00FF)) << U(8))
    x = ((x >> U(16)) & U(0x0000FFFF0000FFFF)) | ((x & U(0x0000FFFF0000FFFF)) << U(16))
    return (x >> U(32)) | (x << U(32))


@inline
def bases_at(words: Any, position: Any) -> Any:
    """32 bases of a packed sequence from any position on (reads words[position // 32] and the next)."""
    j = position >> 5
    shift = U((position & 31) * 2)
    x = words[U(j)] >> shift
    if shift != U(0):
        x |= words[U(j + 1)] << (U(64) - shift)
    return x


@inline
def base_at(words: Any, position: Any) -> Any:
    """One base code (0..3) of a packed sequence."""
    return np.uint8((words[U(position >> 5)] >> U((position & 31) * 2)) & U(3))
