// SPDX-License-Identifier: Apache-2.0
// Small kernels, correct ones and wrong ones. Each wrong one makes a single mistake, which the emulator has to report.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <map>

#include "launch.h"

namespace py = pybind11;

namespace hsr {
namespace cuda {
namespace {

constexpr int kThreads = 128;

struct Params {
  const float* in;
  float* out;
  // The elements of `in`.
  int n;
  // The place of the mistake, in kernels that need one.
  int offset;
};

HSR_DEVICE int64_t own_index() { return block_index() * kThreads + thread_index(); }

// The sum of a block's elements, as a tree.
template <class T>
HSR_KERNEL(kThreads)
sum_kernel(Params p) {
  HSR_SHARED(T, kThreads, memory);
  const int t = thread_index();
  memory[t] = own_index() < p.n ? load(p.in + own_index()) : T(0);
  sync();
  for (int width = kThreads / 2; width > 0; width /= 2) {
    if (t < width) memory[t] += memory[t + width];
    sync();
  }
  if (t == 0) store(p.out + block_index(), float(memory[0]));
}

HSR_KERNEL(kThreads) sum_lanes_kernel(Params p) {
  HSR_SHARED(float, kThreads / 32, memory);
  const int t = thread_index();
  const float sum = sum_over_lanes(own_index() < p.n ? load(p.in + own_index()) : 0.0f, 32);
  if (t % 32 == 0) memory[t / 32] = sum;
  sync();
  if (t > 0) return;
  float total = 0;
  for (int i = 0; i < kThreads / 32; i++) total += memory[i];
  store(p.out + block_index(), total);
}

// Reverses groups of 4 through packs, in place where in and out are the same.
HSR_KERNEL(kThreads) packs_kernel(Params p) {
  HSR_SHARED(float, kThreads * 4, memory);
  const int t = thread_index();
  const int64_t first_index = own_index() * 4;
  shared_store<4>(memory, t * 4, load(reinterpret_cast<const Pack<float, 4>*>(p.in + first_index)));
  const Pack<float, 4> pack = shared_load<4>(memory, t * 4);
  store(reinterpret_cast<Pack<float, 4>*>(p.out + first_index),
        Pack<float, 4>{{pack.v[3], pack.v[2], pack.v[1], pack.v[0]}});
}

// Consists of two barriers and little else, to measure their cost.
HSR_KERNEL(256) barriers_kernel(Params p) {
  HSR_SHARED(float, 256, memory);
  const int t = thread_index();
  memory[t] = load(p.in + t);
  sync();
  const float value = memory[255 - t];
  sync();
  memory[t] = value;
  store(p.out + block_index() * 256 + t, value);
}

HSR_KERNEL(kThreads) missing_barrier_kernel(Params p) {
  HSR_SHARED(float, kThreads, memory);
  const int t = thread_index();
  memory[t] = 1.0f;
  store(p.out + own_index(), float(memory[t > 0 ? t - 1 : 0]));
}

HSR_KERNEL(kThreads) missing_second_barrier_kernel(Params p) {
  HSR_SHARED(float, kThreads, memory);
  memory[thread_index()] = 1.0f;
  sync();
  const float value = memory[(thread_index() + 1) % kThreads];
  memory[thread_index()] = value;
  store(p.out + own_index(), value);
}

// The exchange isn't a barrier: the first reader writes while others may not have read yet.
HSR_KERNEL(kThreads) exchange_for_barrier_kernel(Params) {
  HSR_SHARED(float, 1, memory);
  if (thread_index() == 0) memory[0] = 1.0f;
  sync();
  const float value = memory[0];
  exchange(value, 1);
  if (thread_index() == 0) memory[0] = value;
}

HSR_KERNEL(kThreads) same_element_kernel(Params) {
  HSR_SHARED(float, kThreads, memory);
  memory[thread_index() / 2] = 1.0f;
}

HSR_KERNEL(kThreads) divergent_kernel(Params p) {
  if (thread_index() == p.offset) return;
  sync();
}

HSR_KERNEL(kThreads) unwritten_kernel(Params p) {
  HSR_SHARED(float, kThreads, memory);
  // What an earlier block wrote doesn't count.
  if (block_index() == 0 || thread_index() != p.offset) memory[thread_index()] = 1.0f;
  sync();
  store(p.out + own_index(), float(memory[thread_index()]));
}

HSR_KERNEL(kThreads) shared_index_kernel(Params p) {
  HSR_SHARED(float, kThreads, memory);
  memory[thread_index() + p.offset] = 1.0f;
}

HSR_KERNEL(kThreads) shared_pack_kernel(Params p) {
  HSR_SHARED(float, kThreads * 4, memory);
  shared_store<4>(memory, thread_index() * 4 + p.offset, Pack<float, 4>{});
}

HSR_KERNEL(kThreads) load_kernel(Params p) {
  const float value = load(p.in + own_index() + p.offset);
  store(p.out + own_index(), value);
}

HSR_KERNEL(kThreads) load_pack_kernel(Params p) {
  load(reinterpret_cast<const Pack<float, 4>*>(p.in + own_index() * 4 + p.offset));
}

HSR_KERNEL(kThreads) store_kernel(Params p) { store(p.out + own_index() + p.offset, 1.0f); }

HSR_KERNEL(kThreads) store_input_kernel(Params p) { store(const_cast<float*>(p.in) + own_index(), 1.0f); }

HSR_KERNEL(kThreads) double_store_kernel(Params p) { store(p.out + own_index() % p.offset, 1.0f); }

HSR_KERNEL(kThreads) load_stored_kernel(Params p) {
  store(p.out + own_index(), 1.0f);
  sync();
  load(p.out + (own_index() ^ 1));
}

HSR_KERNEL(kThreads) store_loaded_kernel(Params p) {
  load(p.out + (own_index() ^ 1));
  sync();
  store(p.out + own_index(), 1.0f);
}

HSR_KERNEL(kThreads) half_warp_kernel(Params) {
  if (thread_index() % 32 < 16) exchange(1.0f, 1);
}

HSR_KERNEL(kThreads) exchange_or_barrier_kernel(Params) {
  if (thread_index() % 32 < 16) {
    exchange(1.0f, 1);
  } else {
    sync();
  }
}

HSR_KERNEL(kThreads) masks_kernel(Params) { exchange(1.0f, thread_index() % 32 < 16 ? 1 : 2); }

HSR_KERNEL(kThreads) too_much_shared_kernel(Params) {
  HSR_SHARED(float, 8192, array);
  HSR_SHARED(float, 8192, second);
  array[thread_index()] = 1.0f;
  second[thread_index()] = 1.0f;
}

HSR_KERNEL(kThreads) throwing_kernel(Params p) {
  sync();
  if (thread_index() == p.offset) throw std::runtime_error("a sentence of the kernel");
  sync();
}

// The objects that are alive on the stacks of fibres.
int alive = 0;
struct Counted {
  Counted() { alive++; }
  ~Counted() { alive--; }
};

HSR_KERNEL(kThreads) destroyed_kernel(Params p) {
  const Counted counted;
  sync();
  if (thread_index() == p.offset) fail("the end");
  sync();
}

using Kernel = void (*)(Params);
const std::map<std::string, Kernel> kKernels = {
    {"sum", sum_kernel<float>},
    {"sum_double", sum_kernel<double>},
    {"sum_lanes", sum_lanes_kernel},
    {"packs", packs_kernel},
    {"barriers", barriers_kernel},
    {"missing_barrier", missing_barrier_kernel},
    {"missing_second_barrier", missing_second_barrier_kernel},
    {"exchange_for_barrier", exchange_for_barrier_kernel},
    {"same_element", same_element_kernel},
    {"divergent", divergent_kernel},
    {"unwritten", unwritten_kernel},
    {"shared_index", shared_index_kernel},
    {"shared_pack", shared_pack_kernel},
    {"load", load_kernel},
    {"load_pack", load_pack_kernel},
    {"store", store_kernel},
    {"store_input", store_input_kernel},
    {"double_store", double_store_kernel},
    {"load_stored", load_stored_kernel},
    {"store_loaded", store_loaded_kernel},
    {"half_warp", half_warp_kernel},
    {"exchange_or_barrier", exchange_or_barrier_kernel},
    {"masks", masks_kernel},
    {"too_much_shared", too_much_shared_kernel},
    {"throwing", throwing_kernel},
    {"destroyed", destroyed_kernel},
};

using Array = py::array_t<float, py::array::c_style>;

void run(const std::string& name, Array in, Array out, int64_t blocks, int threads, int offset, bool check_bounds) {
  const Params p{in.data(), out.mutable_data(), int(in.size()), offset};
  const Extents extents;
  if (check_bounds) {
    extent(p.in, in.nbytes(), false);
    extent(p.out, out.nbytes(), true);
  }
  const Kernel kernel = kKernels.at(name);
  const py::gil_scoped_release release;
  launch(name.c_str(), kernel, Stream{}, blocks, threads, p);
}

}  // namespace
}  // namespace cuda
}  // namespace hsr

PYBIND11_MODULE(_emulator_kernels, m) {
  using namespace hsr::cuda;
  define_emulator(m);
  m.def("run", &run, py::arg("name"), py::arg("input").noconvert(), py::arg("output").noconvert(), py::kw_only(),
        py::arg("blocks") = 1, py::arg("threads") = kThreads, py::arg("offset") = 0, py::arg("check_bounds") = true);
  m.def("alive", [] { return alive; });
}
