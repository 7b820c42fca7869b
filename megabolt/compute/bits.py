# SPDX-License-Identifier: Apache-2.0
"""Words and bits inside kernels: unaligned loads and stores, prefetch, bit counts, 2-bit packed sequences.

Raw loads and stores read and write whole words or vectors wherever they are told to. What an access touches, and so
what a buffer must have behind (never before) its last valid byte:

=================================================  ==================================================
`load_u64`, `store_u64`                            8 bytes from the offset: 7 behind
`load_u32`, `load_i32`, `store_u32`                4 bytes: 3 behind
`load_u16`, `store_u16`                            2 bytes: 1 behind
`equal_mask64`, the masks of `formats.fastq_scan`  64 bytes: 63 behind
`equal_mask8`                                      64 bytes: seven words behind
`bases_at`                                         the word of the position and the next: 1 word behind
`simd.load`, `simd.store`                          a register, up to 64 bytes: 63 behind
`prefetch`                                         nothing: any address will do
=================================================  ==================================================

Buffers of bytes that kernels touch in this way carry `PADDING` bytes behind their last valid one, inside the array.
Under NUMBA_BOUNDSCHECK=1 every access is held to the array it is given (a slice of an array counts as its own
array), like ordinary indexing; without it nothing is checked. tests/safety runs the kernels between guard pages.
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


def raw_pointer(context: Any, builder: Any, array_type: Any, value: Any, byte_offset: Any, pointee: Any) -> Any:
    """Pointer to the `pointee` (an LLVM type) at a byte offset of an array, for the body of an intrinsic.

    Where the function is compiled with bounds checks, it raises IndexError if that lies outside the array.
    """
    array = context.make_array(array_type)(context, builder, value)
    base = builder.bitcast(array.data, ir.IntType(8).as_pointer())
    hold_inside(context, builder, array, byte_offset, context.get_abi_sizeof(pointee))
    return builder.bitcast(builder.gep(base, [byte_offset]), pointee.as_pointer())


def hold_inside(context: Any, builder: Any, array: Any, byte_offset: Any, size: int) -> None:
    """With bounds checks, raise IndexError unless `size` bytes from the offset on are in the array."""
    if not context.enable_boundscheck:
        return
    room = builder.mul(array.nitems, array.itemsize)
    outside = builder.or_(
        builder.icmp_signed("<", byte_offset, byte_offset.type(0)),
        builder.icmp_signed(">", builder.add(byte_offset, byte_offset.type(size)), room),
    )
    with cgutils.if_unlikely(builder, outside):
        context.call_conv.return_user_exc(builder, IndexError, (f"{size} bytes that are not all in the array",))


def _make_load(bits: int, result: Any) -> Any:
    @intrinsic
    def load(typing_context: Any, array: Any, byte_offset: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = raw_pointer(context, builder, signature.args[0], args[0], args[1], ir.IntType(bits))
            return builder.load(pointer, align=1)

        return result(array, types.int64), codegen

    return load


def _make_store(bits: int, value_type: Any) -> Any:
    @intrinsic
    def store(typing_context: Any, array: Any, byte_offset: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = raw_pointer(context, builder, signature.args[0], args[0], args[1], ir.IntType(bits))
            builder.store(args[2], pointer, align=1)
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
        lanes = ir.VectorType(ir.IntType(8), 64)
        block = builder.load(raw_pointer(context, builder, signature.args[0], args[0], args[1], lanes), align=1)
        single = builder.insert_element(ir.Constant(lanes, ir.Undefined), args[2], ir.IntType(32)(0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64)
        splat = builder.shuffle_vector(single, ir.Constant(lanes, ir.Undefined), mask)
        equal = builder.icmp_unsigned("==", block, splat)
        return builder.bitcast(equal, ir.IntType(64))

    return types.uint64(array, types.int64, types.uint8), codegen


@intrinsic
def equal_mask8(typing_context: Any, array: Any, index: Any, shift: Any, value: Any) -> Any:
    """Bit i of the result is set where array[index + i] >> shift equals `value`: eight words of a uint64 array."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = ir.VectorType(ir.IntType(64), 8)
        array, index, shift, value = args
        offset = builder.mul(index, index.type(8))
        block = builder.load(raw_pointer(context, builder, signature.args[0], array, offset, lanes), align=1)
        every = ir.Constant(ir.VectorType(ir.IntType(32), 8), [0] * 8)
        nothing = ir.Constant(lanes, ir.Undefined)
        shifts, values = (
            builder.shuffle_vector(builder.insert_element(nothing, one, ir.IntType(32)(0)), nothing, every)
            for one in (shift, value)
        )
        equal = builder.icmp_unsigned("==", builder.lshr(block, shifts), values)
        return builder.zext(builder.bitcast(equal, ir.IntType(8)), ir.IntType(64))

    return types.uint64(array, types.int64, types.uint64, types.uint64), codegen


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
