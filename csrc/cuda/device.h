// SPDX-License-Identifier: Apache-2.0
// What a kernel sees of a GPU. The emulator of the tests (tests/emulator) defines the same names for the CPU, so
// kernels use these and nothing else of CUDA: one-dimensional grids and blocks, shared arrays, barriers, sums across
// lanes.
#pragma once

#include <cstdint>

#include "hsr/params.h"
#include "hsr/storage.h"

#ifdef __CUDACC__

#include <cuda_runtime.h>

#define HSR_DEVICE __device__ __forceinline__
// A kernel for blocks of so many threads.
#define HSR_KERNEL(threads) __global__ void __launch_bounds__(threads)
// One of which so many blocks are to fit a multiprocessor (0: as many as come out): left to itself, the assembler would
// rather spill a register than give up a round number of them.
#define HSR_KERNEL_OF(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
// Declares a shared array of the block: Shared<T, n> name.
#define HSR_SHARED(T, n, name) __shared__ __align__(16)::hsr::cuda::Shared<T, n> name

namespace hsr {
namespace cuda {

template <class T, int N>
struct Shared {
  T data[N];
  HSR_DEVICE T& operator[](int i) { return data[i]; }
};

HSR_DEVICE int64_t block_index() { return blockIdx.x; }
HSR_DEVICE int thread_index() { return threadIdx.x; }
HSR_DEVICE void sync() { __syncthreads(); }

// The value of the lane whose number differs in the bits of `mask`; every lane of the warp takes part.
HSR_DEVICE float exchange(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

// V elements that are moved at once: `p` is aligned to all of them.
template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T v[V];
};
template <class T>
HSR_DEVICE T load(const T* p) {
  return *p;
}
template <class T>
HSR_DEVICE void store(T* p, const T& value) {
  *p = value;
}

// V elements of a shared array from i on, which V divides.
template <int V, class T, int N>
HSR_DEVICE Pack<T, V> shared_load(Shared<T, N>& array, int i) {
  return *reinterpret_cast<const Pack<T, V>*>(array.data + i);
}
template <int V, class T, int N>
HSR_DEVICE void shared_store(Shared<T, N>& array, int i, const Pack<T, V>& pack) {
  *reinterpret_cast<Pack<T, V>*>(array.data + i) = pack;
}

}  // namespace cuda
}  // namespace hsr

#else
#include "emulator.h"
#endif

namespace hsr {
namespace cuda {

// Elements of 16 bytes: the widest access.
template <class T>
constexpr int kVector = 16 / int(sizeof(T));

// `count` of V elements from p on as floats, the rest 0; `whole`: all of them are there and aligned.
template <class T, int V>
HSR_DEVICE void read(const T* p, int count, bool whole, float (&out)[V]) {
  if (whole) {
    const Pack<T, V> pack = load(reinterpret_cast<const Pack<T, V>*>(p));
#pragma unroll
    for (int j = 0; j < V; j++) out[j] = widen(pack.v[j]);
  } else {
#pragma unroll
    for (int j = 0; j < V; j++) out[j] = j < count ? widen(load(p + j)) : 0.0f;
  }
}

// Writes `count` of V floats from p on.
template <class T, int V>
HSR_DEVICE void write(T* p, int count, bool whole, const float (&in)[V]) {
  if (whole) {
    Pack<T, V> pack;
#pragma unroll
    for (int j = 0; j < V; j++) pack.v[j] = narrow(in[j], T{});
    store(reinterpret_cast<Pack<T, V>*>(p), pack);
  } else {
#pragma unroll
    for (int j = 0; j < V; j++)
      if (j < count) store(p + j, narrow(in[j], T{}));
  }
}

// Writes a float to element `at` of a tensor of a dtype that is known at run time.
HSR_DEVICE void store_as(DType dtype, void* to, int64_t at, float value) {
  if (dtype == DType::float32) {
    store(static_cast<float*>(to) + at, value);
  } else if (dtype == DType::float16) {
    store(static_cast<half*>(to) + at, narrow(value, half{}));
  } else {
    store(static_cast<bfloat16*>(to) + at, narrow(value, bfloat16{}));
  }
}

// The sum over `lanes` consecutive lanes of a warp (a power of 2), known to each of them.
HSR_DEVICE float sum_over_lanes(float value, int lanes) {
  for (int mask = 1; mask < lanes; mask *= 2) value += exchange(value, mask);
  return value;
}

}  // namespace cuda
}  // namespace hsr
