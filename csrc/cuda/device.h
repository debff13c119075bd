// SPDX-License-Identifier: Apache-2.0
// What kernels use of CUDA: one-dimensional grids and blocks, shared arrays, barriers and exchanges between lanes. They
// use nothing else of it, as the emulator of the tests (tests/emulator) defines the same names for the CPU.
#pragma once

#include <cstdint>

#include "hsr/params.h"
#include "hsr/storage.h"

#ifdef __CUDACC__

#include <cuda_runtime.h>

#define HSR_DEVICE __device__ __forceinline__
// Declares a kernel for blocks of so many threads.
#define HSR_KERNEL(threads) __global__ void __launch_bounds__(threads)
// Declares a kernel of which so many blocks are to fit on a multiprocessor. With 0 the assembler chooses, and may spill
// registers rather than give up a round number of blocks.
#define HSR_KERNEL_OF(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
// Declares a shared array of the block, Shared<T, n> name.
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

// Returns the value of the lane whose number differs in the bits of `mask`; every lane of the warp has to take part.
HSR_DEVICE float exchange(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

// V elements that are moved at once; their address is aligned to the size of all of them.
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

// Loads or stores V elements of a shared array from i on, which is a multiple of V.
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

// The elements of the widest access, 16 bytes.
template <class T>
constexpr int kVector = 16 / int(sizeof(T));

// Reads `count` of V elements from p on as floats, and 0 for the others. `vector_access` says that all V exist and are
// aligned.
template <class T, int V>
HSR_DEVICE void read(const T* p, int count, bool vector_access, float (&out)[V]) {
  if (vector_access) {
    const Pack<T, V> pack = load(reinterpret_cast<const Pack<T, V>*>(p));
#pragma unroll
    for (int j = 0; j < V; j++) out[j] = widen(pack.v[j]);
  } else {
#pragma unroll
    for (int j = 0; j < V; j++) out[j] = j < count ? widen(load(p + j)) : 0.0f;
  }
}

// Writes `count` of V floats from p on; `vector_access` as above.
template <class T, int V>
HSR_DEVICE void write(T* p, int count, bool vector_access, const float (&in)[V]) {
  if (vector_access) {
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

// Read and write an element of a tensor whose dtype is known at run time.
HSR_DEVICE float load_as(DType dtype, const void* tensor, int64_t index) {
  if (dtype == DType::float32) return load(static_cast<const float*>(tensor) + index);
  if (dtype == DType::float16) return widen(load(static_cast<const half*>(tensor) + index));
  return widen(load(static_cast<const bfloat16*>(tensor) + index));
}
HSR_DEVICE void store_as(DType dtype, void* tensor, int64_t index, float value) {
  if (dtype == DType::float32) {
    store(static_cast<float*>(tensor) + index, value);
  } else if (dtype == DType::float16) {
    store(static_cast<half*>(tensor) + index, narrow(value, half{}));
  } else {
    store(static_cast<bfloat16*>(tensor) + index, narrow(value, bfloat16{}));
  }
}

// Returns to each lane the sum over its group of `lanes` consecutive lanes of a warp; `lanes` is a power of 2.
HSR_DEVICE float sum_over_lanes(float value, int lanes) {
  for (int mask = 1; mask < lanes; mask *= 2) value += exchange(value, mask);
  return value;
}

}  // namespace cuda
}  // namespace hsr
