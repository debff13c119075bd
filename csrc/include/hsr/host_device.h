// SPDX-License-Identifier: Apache-2.0
// Marks functions for both host and device.
#pragma once

#ifdef __CUDACC__
#define HSR_HD __host__ __device__ __forceinline__
#else
#define HSR_HD inline __attribute__((always_inline))
#endif
