/* SPDX-License-Identifier: Apache-2.0
 * The words that device sources use, for OpenCL C 1.2. Keep in step with cuda.h. */
#define KERNEL __kernel void
#define DEVICE static inline
#define GLOBAL __global
#define LOCAL __local
#define RESTRICT restrict
#define LOCAL_ID ((int)get_local_id(0))
#define LOCAL_SIZE ((int)get_local_size(0))
#define GROUP_ID ((int)get_group_id(0))
#define BARRIER() barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE) /* orders the group's local and global memory */
typedef uchar u8;
typedef uint u32;
typedef long i64; /* 64 bits in OpenCL, whatever the host says */
