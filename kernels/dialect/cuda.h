/* SPDX-License-Identifier: Apache-2.0
 * The words that device sources use, for CUDA C++ (compiled by NVRTC). Keep in step with opencl.h. */
#define KERNEL extern "C" __global__ void
#define DEVICE static __device__ __forceinline__
#define GLOBAL
#define LOCAL __shared__
#define RESTRICT __restrict__
#define LOCAL_ID ((int)threadIdx.x)
#define LOCAL_SIZE ((int)blockDim.x)
#define GROUP_ID ((int)blockIdx.x)
#define BARRIER() __syncthreads() /* orders the group's local and global memory */
typedef unsigned char u8;
typedef unsigned int u32;
typedef long long i64;
