// SPDX-License-Identifier: Apache-2.0
// bias_act: forward, backward and second order, one pass over memory each.
//
// Without sums, threads take 16 bytes each in the order in which a tensor lies in memory. The gradient of the bias is a
// sum over all dimensions but the channels. Each block writes its own partial sums, so results don't depend on
// the order of blocks: sums of rows where a row is one channel of one sample, sums of columns where channels lie next
// to each other.
#include "hsr/activation.h"
#include "launch.h"
#include "launchers.h"

namespace hsr {
namespace cuda {
namespace {

constexpr int kThreads = 256;
// About so many blocks fill a GPU; with more work, the blocks of a kernel with sums take more each.
constexpr int64_t kTargetBlocks = 2048;
// A block that sums columns takes at least so many rows.
constexpr int64_t kMinRowsPerBlock = 64;

// How a thread reads the bias of V elements: not at all, one value, V consecutive values, or each by its own
// index.
enum class BiasAccess : int { none, scalar, vector, gather };

template <class I>
struct Walk {
  I n, channels, inner;
  BiasAccess bias;
  // Whether every tensor starts at a multiple of 16 bytes.
  bool aligned;
};

template <class I>
Walk<I> walk_of(const BiasActParams& p, int vector) {
  const bool all_aligned = aligned(p.x) && aligned(p.b) && aligned(p.ref) && aligned(p.dy) && aligned(p.ddx) &&
                           aligned(p.y) && aligned(p.dref);
  BiasAccess bias = BiasAccess::gather;
  if (!p.b) {
    bias = BiasAccess::none;
  } else if (p.inner % vector == 0) {
    bias = BiasAccess::scalar;
  } else if (p.inner == 1 && p.channels % vector == 0) {
    bias = BiasAccess::vector;
  }
  return {I(p.outer * p.channels * p.inner), I(p.channels), I(p.inner), bias, all_aligned};
}

// Reads the bias of V elements from `offset` on.
template <class T, class I, int V>
HSR_DEVICE void read_bias(const T* b, const Walk<I>& walk, I offset, float (&out)[V]) {
  if (walk.bias == BiasAccess::none || walk.bias == BiasAccess::scalar) {
    const float value = walk.bias == BiasAccess::none ? 0.0f : widen(load(b + offset / walk.inner % walk.channels));
#pragma unroll
    for (int j = 0; j < V; j++) out[j] = value;
  } else if (walk.bias == BiasAccess::vector) {
    read(b + offset % walk.channels, V, walk.aligned, out);
  } else {
#pragma unroll
    for (int j = 0; j < V; j++) out[j] = widen(load(b + (offset + j) / walk.inner % walk.channels));
  }
}

// The elements of this thread: `count` <= V from `offset` on.
template <class T, class I>
struct Share {
  static constexpr int V = kVector<T>;
  I offset;
  int count;
  bool vector_access;

  HSR_DEVICE explicit Share(const Walk<I>& walk) {
    offset = (I(block_index()) * kThreads + thread_index()) * V;
    const I rest = walk.n - offset;
    count = rest >= V ? V : rest > 0 ? int(rest) : 0;
    vector_access = walk.aligned && count == V;
  }
  HSR_DEVICE void read_tensor(const void* tensor, float (&out)[V]) const {
    read(static_cast<const T*>(tensor) + offset, count, vector_access, out);
  }
  HSR_DEVICE void write_tensor(void* tensor, const float (&in)[V]) const {
    write(static_cast<T*>(tensor) + offset, count, vector_access, in);
  }
};

template <class T, class I>
HSR_KERNEL(kThreads)
bias_act_kernel(BiasActParams p, ActivationNumbers<float> numbers, Walk<I> walk) {
  const Share<T, I> share(walk);
  if (share.count == 0) return;
  float x[share.V], b[share.V];
  share.read_tensor(p.x, x);
  read_bias(static_cast<const T*>(p.b), walk, share.offset, b);
  with_activation(p.act.act, true, [&](auto kind) {
    const Activation<float, kind.act> act(numbers);
#pragma unroll
    for (int j = 0; j < share.V; j++) x[j] = act.value(x[j] + b[j]);
  });
  share.write_tensor(p.y, x);
}

// Turns dy into dx, dy times the slope at ref; where ref is the input, it includes the bias.
template <int V>
HSR_DEVICE void backward(const BiasActParams& p, const ActivationNumbers<float>& numbers, const float (&ref)[V],
                         float (&dy)[V]) {
  with_activation(p.act.act, p.from_output, [&](auto kind) {
    const Activation<float, kind.act> act(numbers);
#pragma unroll
    for (int j = 0; j < V; j++) dy[j] *= act.template slope_from<kind.from_output>(ref[j]);
  });
}

template <class T, class I>
HSR_KERNEL(kThreads)
bias_act_bwd_kernel(BiasActParams p, ActivationNumbers<float> numbers, Walk<I> walk) {
  const Share<T, I> share(walk);
  if (share.count == 0) return;
  float dy[share.V], ref[share.V], b[share.V];
  share.read_tensor(p.dy, dy);
  share.read_tensor(p.ref, ref);
  read_bias(static_cast<const T*>(p.b), walk, share.offset, b);
#pragma unroll
  for (int j = 0; j < share.V; j++) ref[j] += b[j];
  backward(p, numbers, ref, dy);
  share.write_tensor(p.y, dy);
}

template <class T, class I>
HSR_KERNEL(kThreads)
bias_act_bwd_bwd_kernel(BiasActParams p, ActivationNumbers<float> numbers, Walk<I> walk) {
  const Share<T, I> share(walk);
  if (share.count == 0) return;
  float ddx[share.V], dy[share.V], ref[share.V], b[share.V];
  share.read_tensor(p.ddx, ddx);
  share.read_tensor(p.dy, dy);
  share.read_tensor(p.ref, ref);
  read_bias(static_cast<const T*>(p.b), walk, share.offset, b);
  with_activation(p.act.act, p.from_output, [&](auto kind) {
    const Activation<float, kind.act> act(numbers);
#pragma unroll
    for (int j = 0; j < share.V; j++) {
      const float v = ref[j] + b[j];
      dy[j] = ddx[j] * dy[j] * act.template curvature_from<kind.from_output>(v);
      ddx[j] *= act.template slope_from<kind.from_output>(v);
    }
  });
  share.write_tensor(p.y, ddx);
  share.write_tensor(p.dref, dy);
}

// A tensor as a matrix of which either the rows (`row_sums`) or the columns are summed.
struct Sums {
  bool row_sums;
  int64_t rows, columns;
  // Threads of a block side by side along a row, a power of 2.
  int lanes;
  // Row sums: the pieces of a row. Column sums: the blocks below each other.
  int64_t parts;
  // Row sums: the elements of a piece. Column sums: the rows of a block.
  int64_t part_size;
  // Column sums: the blocks side by side.
  int64_t blocks_across;
  // The partial sums are [parts, partial_columns]; partial_columns is a multiple of the channels.
  int64_t partial_columns;
};

Sums sums_of(int64_t outer, int64_t channels, int64_t inner, int vector) {
  Sums s{};
  s.row_sums = inner > 1;
  if (s.row_sums) {
    s.rows = outer * channels, s.columns = inner;
    s.lanes = 1;
    while (s.lanes < kThreads && int64_t(s.lanes) * vector < inner) s.lanes *= 2;
    const int64_t row_blocks = ceil_div(s.rows, kThreads / s.lanes);
    const int64_t step = int64_t(s.lanes) * vector;
    s.parts = 1;
    while (row_blocks * s.parts * 2 <= kTargetBlocks && s.parts * step * 8 <= inner) s.parts *= 2;
    s.part_size = ceil_div(ceil_div(inner, s.parts), step) * step;
    s.parts = s.rows ? ceil_div(inner, s.part_size) : 0;
    s.partial_columns = s.rows;
  } else {
    // Rows of few channels are joined, so that blocks read complete sectors of memory.
    int64_t joined_rows = 1;
    while (channels * joined_rows * 2 <= 32 * vector && outer % (joined_rows * 2) == 0) joined_rows *= 2;
    s.rows = outer / joined_rows, s.columns = channels * joined_rows;
    s.lanes = 1;
    while (s.lanes < 32 && int64_t(s.lanes) * vector < s.columns) s.lanes *= 2;
    s.blocks_across = ceil_div(s.columns, int64_t(s.lanes) * vector);
    const int64_t rows_per_block = ceil_div(s.rows * s.blocks_across, kTargetBlocks);
    s.part_size = rows_per_block > kMinRowsPerBlock ? rows_per_block : kMinRowsPerBlock;
    s.parts = ceil_div(s.rows, s.part_size);
    s.partial_columns = s.columns;
  }
  return s;
}

// Adds up over `lanes` threads side by side, and returns the sum to the first of them.
HSR_DEVICE float sum_across(float value, int lanes, Shared<float, kThreads>& memory) {
  value = sum_over_lanes(value, lanes < 32 ? lanes : 32);
  if (lanes <= 32) return value;
  const int t = thread_index(), warps = lanes / 32;
  if (t % 32 == 0) memory[t / 32] = value;
  sync();
  float total = 0;
  if (t % lanes == 0)
    for (int i = 0; i < warps; i++) total += memory[t / 32 + i];
  return total;
}

template <class T, class I>
HSR_KERNEL(kThreads)
bias_act_bwd_rows_kernel(BiasActParams p, ActivationNumbers<float> numbers, Sums s, bool vector_access) {
  constexpr int V = kVector<T>;
  HSR_SHARED(float, kThreads, memory);
  const int lane = thread_index() % s.lanes;
  const int64_t row_index = block_index() / s.parts * (kThreads / s.lanes) + thread_index() / s.lanes;
  const int64_t part = block_index() % s.parts, row = row_index < s.rows ? row_index : s.rows - 1;
  const float b = p.b ? widen(load(static_cast<const T*>(p.b) + row % p.channels)) : 0.0f;
  const I begin = I(part * s.part_size),
          end = begin + I(s.part_size) < I(s.columns) ? begin + I(s.part_size) : I(s.columns);
  const int64_t start = row * s.columns;
  const T *dys = static_cast<const T*>(p.dy) + start, *refs = static_cast<const T*>(p.ref) + start;
  T* dxs = static_cast<T*>(p.y) + start;
  float total = 0;
  for (I column = begin + I(lane) * V; column < end && row_index < s.rows; column += I(s.lanes) * V) {
    const int count = end - column < V ? int(end - column) : V;
    float dy[V], ref[V];
    read(dys + column, count, vector_access, dy);
    read(refs + column, count, vector_access, ref);
#pragma unroll
    for (int j = 0; j < V; j++) ref[j] += b;
    backward(p, numbers, ref, dy);
    write(dxs + column, count, vector_access, dy);
#pragma unroll
    for (int j = 0; j < V; j++) total += j < count ? dy[j] : 0.0f;
  }
  total = sum_across(total, s.lanes, memory);
  if (lane == 0 && row_index < s.rows) store(p.partial + part * s.rows + row, total);
}

template <class T, class I>
HSR_KERNEL(kThreads)
bias_act_bwd_columns_kernel(BiasActParams p, ActivationNumbers<float> numbers, Sums s, bool vector_access) {
  constexpr int V = kVector<T>;
  HSR_SHARED(float, kThreads* V, memory);
  const int lane = thread_index() % s.lanes, thread_row = thread_index() / s.lanes, thread_rows = kThreads / s.lanes;
  const int64_t part = block_index() / s.blocks_across;
  const I column = I(block_index() % s.blocks_across * s.lanes + lane) * V, columns = I(s.columns);
  const int count = column >= columns ? 0 : columns - column < V ? int(columns - column) : V;
  const int64_t end_row = (part + 1) * s.part_size < s.rows ? (part + 1) * s.part_size : s.rows;
  float b[V], total[V];
#pragma unroll
  for (int j = 0; j < V; j++) {
    b[j] = p.b && j < count ? widen(load(static_cast<const T*>(p.b) + (column + j) % I(p.channels))) : 0.0f;
    total[j] = 0;
  }
  for (int64_t row = part * s.part_size + thread_row; row < end_row && count > 0; row += thread_rows) {
    const int64_t offset = row * s.columns + column;
    float dy[V], ref[V];
    read(static_cast<const T*>(p.dy) + offset, count, vector_access, dy);
    read(static_cast<const T*>(p.ref) + offset, count, vector_access, ref);
#pragma unroll
    for (int j = 0; j < V; j++) ref[j] += b[j];
    backward(p, numbers, ref, dy);
    write(static_cast<T*>(p.y) + offset, count, vector_access, dy);
#pragma unroll
    for (int j = 0; j < V; j++) total[j] += dy[j];
  }
#pragma unroll
  for (int j = 0; j < V; j++) memory[(thread_row * s.lanes + lane) * V + j] = total[j];
  sync();
  for (int i = thread_index(); i < s.lanes * V; i += kThreads) {
    const I sum_column = I(block_index() % s.blocks_across * s.lanes) * V + i;
    float sum = 0;
    for (int l = 0; l < thread_rows; l++) sum += memory[l * s.lanes * V + i];
    if (sum_column < columns) store(p.partial + part * s.columns + sum_column, sum);
  }
}

template <class T, class I>
void launch_sums(const BiasActParams& p, const Stream& stream) {
  const ActivationNumbers<float> numbers(p.act);
  const Sums s = sums_of(p.outer, p.channels, p.inner, kVector<T>);
  const bool vector_access = aligned(p.dy) && aligned(p.ref) && aligned(p.y) && s.columns % kVector<T> == 0;
  if (s.row_sums) {
    launch("bias_act_bwd_rows", bias_act_bwd_rows_kernel<T, I>, stream, ceil_div(s.rows, kThreads / s.lanes) * s.parts,
           kThreads, p, numbers, s, vector_access);
  } else {
    launch("bias_act_bwd_columns", bias_act_bwd_columns_kernel<T, I>, stream, s.blocks_across * s.parts, kThreads, p,
           numbers, s, vector_access);
  }
}

template <class T, class I>
int64_t blocks_of(const BiasActParams& p) {
  return ceil_div(p.outer * p.channels * p.inner, int64_t(kThreads) * kVector<T>);
}

}  // namespace

template <class T>
void launch_bias_act(const BiasActParams& p, const Stream& stream) {
  with_index(p.outer * p.channels * p.inner, [&](auto index) {
    using I = decltype(index);
    launch("bias_act", bias_act_kernel<T, I>, stream, blocks_of<T, I>(p), kThreads, p, ActivationNumbers<float>(p.act),
           walk_of<I>(p, kVector<T>));
  });
}

PartialSums bias_act_bwd_sums(int64_t outer, int64_t channels, int64_t inner, DType dtype) {
  const Sums s = sums_of(outer, channels, inner, dtype == DType::float32 ? 4 : 8);
  return {s.parts, s.partial_columns};
}

template <class T>
void launch_bias_act_bwd(const BiasActParams& p, const Stream& stream) {
  with_index(p.outer * p.channels * p.inner, [&](auto index) {
    using I = decltype(index);
    if (p.partial) return launch_sums<T, I>(p, stream);
    launch("bias_act_bwd", bias_act_bwd_kernel<T, I>, stream, blocks_of<T, I>(p), kThreads, p,
           ActivationNumbers<float>(p.act), walk_of<I>(p, kVector<T>));
  });
}

template <class T>
void launch_bias_act_bwd_bwd(const BiasActParams& p, const Stream& stream) {
  with_index(p.outer * p.channels * p.inner, [&](auto index) {
    using I = decltype(index);
    launch("bias_act_bwd_bwd", bias_act_bwd_bwd_kernel<T, I>, stream, blocks_of<T, I>(p), kThreads, p,
           ActivationNumbers<float>(p.act), walk_of<I>(p, kVector<T>));
  });
}

HSR_INSTANTIATE(launch_bias_act, BiasActParams);
HSR_INSTANTIATE(launch_bias_act_bwd, BiasActParams);
HSR_INSTANTIATE(launch_bias_act_bwd_bwd, BiasActParams);

}  // namespace cuda
}  // namespace hsr
