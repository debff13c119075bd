// SPDX-License-Identifier: Apache-2.0
// bias_act: forward, backward and second order, one pass over memory each.
//
// Where no sums are wanted a tensor is walked as it lies in memory, 16 bytes to a thread. The gradient of the bias is a
// sum over all but the channels, and blocks keep theirs apart: by rows where each row is one channel of one sample, by
// columns where channels lie next to each other. So results don't depend on which block comes first.
#include "hsr/activation.h"
#include "launch.h"
#include "launchers.h"

namespace hsr {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kBlocks = 2048;   // where sums are kept, blocks take more work each rather than be many more
constexpr int64_t kRowsLeast = 64;  // that a block adds up along columns

// How the bias lies along V elements in memory order.
enum class Bias : int { none, same, consecutive, mixed };

template <class I>
struct Walk {
  I n, channels, inner;
  Bias bias;
  bool aligned;  // every tensor starts at 16 bytes
};

template <class I>
Walk<I> walk_of(const BiasActParams& p, int vector) {
  const bool all = aligned(p.x) && aligned(p.b) && aligned(p.ref) && aligned(p.dy) && aligned(p.ddx) && aligned(p.y) &&
                   aligned(p.dref);
  Bias bias = Bias::mixed;
  if (!p.b) {
    bias = Bias::none;
  } else if (p.inner % vector == 0) {
    bias = Bias::same;
  } else if (p.inner == 1 && p.channels % vector == 0) {
    bias = Bias::consecutive;
  }
  return {I(p.outer * p.channels * p.inner), I(p.channels), I(p.inner), bias, all};
}

// The bias of V elements from `at` on.
template <class T, class I, int V>
HSR_DEVICE void read_bias(const T* b, const Walk<I>& walk, I at, float (&out)[V]) {
  if (walk.bias == Bias::none || walk.bias == Bias::same) {
    const float value = walk.bias == Bias::none ? 0.0f : widen(load(b + at / walk.inner % walk.channels));
#pragma unroll
    for (int j = 0; j < V; j++) out[j] = value;
  } else if (walk.bias == Bias::consecutive) {
    read(b + at % walk.channels, V, walk.aligned, out);
  } else {
#pragma unroll
    for (int j = 0; j < V; j++) out[j] = widen(load(b + (at + j) / walk.inner % walk.channels));
  }
}

// The elements that this thread takes: V from `at` on, or what is left of them.
template <class T, class I>
struct Share {
  static constexpr int V = kVector<T>;
  I at;
  int count;
  bool whole;

  HSR_DEVICE explicit Share(const Walk<I>& walk) {
    at = (I(block_index()) * kThreads + thread_index()) * V;
    const I left = walk.n - at;
    count = left >= V ? V : left > 0 ? int(left) : 0;
    whole = walk.aligned && count == V;
  }
  HSR_DEVICE void take(const void* from, float (&out)[V]) const {
    read(static_cast<const T*>(from) + at, count, whole, out);
  }
  HSR_DEVICE void put(void* to, const float (&in)[V]) const { write(static_cast<T*>(to) + at, count, whole, in); }
};

template <class T, class I>
HSR_KERNEL(kThreads)
bias_act_kernel(BiasActParams p, ActivationNumbers<float> numbers, Walk<I> walk) {
  const Share<T, I> share(walk);
  if (share.count == 0) return;
  float x[share.V], b[share.V];
  share.take(p.x, x);
  read_bias(static_cast<const T*>(p.b), walk, share.at, b);
  with_activation(p.act.act, true, [&](auto kind) {
    const Activation<float, kind.act> act(numbers);
#pragma unroll
    for (int j = 0; j < share.V; j++) x[j] = act.value(x[j] + b[j]);
  });
  share.put(p.y, x);
}

// dy = dx: dy times the slope at ref, to which b has been added where that is the input.
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
  share.take(p.dy, dy);
  share.take(p.ref, ref);
  read_bias(static_cast<const T*>(p.b), walk, share.at, b);
#pragma unroll
  for (int j = 0; j < share.V; j++) ref[j] += b[j];
  backward(p, numbers, ref, dy);
  share.put(p.y, dy);
}

template <class T, class I>
HSR_KERNEL(kThreads)
bias_act_bwd_bwd_kernel(BiasActParams p, ActivationNumbers<float> numbers, Walk<I> walk) {
  const Share<T, I> share(walk);
  if (share.count == 0) return;
  float ddx[share.V], dy[share.V], ref[share.V], b[share.V];
  share.take(p.ddx, ddx);
  share.take(p.dy, dy);
  share.take(p.ref, ref);
  read_bias(static_cast<const T*>(p.b), walk, share.at, b);
  with_activation(p.act.act, p.from_output, [&](auto kind) {
    const Activation<float, kind.act> act(numbers);
#pragma unroll
    for (int j = 0; j < share.V; j++) {
      const float v = ref[j] + b[j];
      dy[j] = ddx[j] * dy[j] * act.template curvature_from<kind.from_output>(v);
      ddx[j] *= act.template slope_from<kind.from_output>(v);
    }
  });
  share.put(p.y, ddx);
  share.put(p.dref, dy);
}

// A tensor as a matrix whose rows (`by_rows`) or columns are added up, in blocks of a power of 2 of threads across.
struct Sums {
  bool by_rows;
  int64_t rows, columns;
  int lanes;                // threads side by side along a row
  int64_t parts;            // by rows: pieces that a row is cut into; by columns: blocks from top to bottom
  int64_t piece;            // elements of such a piece, or rows of such a block
  int64_t blocks_across;    // by columns
  int64_t partial_columns;  // the sums are [parts, partial_columns], then [.., channels]
};

Sums sums_of(int64_t outer, int64_t channels, int64_t inner, int vector) {
  Sums s{};
  s.by_rows = inner > 1;
  if (s.by_rows) {
    s.rows = outer * channels, s.columns = inner;
    s.lanes = 1;
    while (s.lanes < kThreads && int64_t(s.lanes) * vector < inner) s.lanes *= 2;
    const int64_t row_blocks = ceil_div(s.rows, kThreads / s.lanes);
    const int64_t step = int64_t(s.lanes) * vector;
    s.parts = 1;
    while (row_blocks * s.parts * 2 <= kBlocks && s.parts * step * 8 <= inner) s.parts *= 2;
    s.piece = ceil_div(ceil_div(inner, s.parts), step) * step;
    s.parts = s.rows ? ceil_div(inner, s.piece) : 0;
    s.partial_columns = s.rows;
  } else {
    // Rows of few channels are joined, for whole sectors of memory.
    int64_t joined = 1;
    while (channels * joined * 2 <= 32 * vector && outer % (joined * 2) == 0) joined *= 2;
    s.rows = outer / joined, s.columns = channels * joined;
    s.lanes = 1;
    while (s.lanes < 32 && int64_t(s.lanes) * vector < s.columns) s.lanes *= 2;
    s.blocks_across = ceil_div(s.columns, int64_t(s.lanes) * vector);
    const int64_t fair = ceil_div(s.rows * s.blocks_across, kBlocks);
    s.piece = fair > kRowsLeast ? fair : kRowsLeast;
    s.parts = ceil_div(s.rows, s.piece);
    s.partial_columns = s.columns;
  }
  return s;
}

// Adds up over `lanes` threads side by side; the first of them learns the sum.
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
bias_act_bwd_rows_kernel(BiasActParams p, ActivationNumbers<float> numbers, Sums s, bool whole) {
  constexpr int V = kVector<T>;
  HSR_SHARED(float, kThreads, memory);
  const int lane = thread_index() % s.lanes;
  const int64_t place = block_index() / s.parts * (kThreads / s.lanes) + thread_index() / s.lanes;
  const int64_t part = block_index() % s.parts, row = place < s.rows ? place : s.rows - 1;
  const float b = p.b ? widen(load(static_cast<const T*>(p.b) + row % p.channels)) : 0.0f;
  const I begin = I(part * s.piece), end = begin + I(s.piece) < I(s.columns) ? begin + I(s.piece) : I(s.columns);
  const int64_t start = row * s.columns;
  const T *dys = static_cast<const T*>(p.dy) + start, *refs = static_cast<const T*>(p.ref) + start;
  T* dxs = static_cast<T*>(p.y) + start;
  float total = 0;
  for (I at = begin + I(lane) * V; at < end && place < s.rows; at += I(s.lanes) * V) {
    const int count = end - at < V ? int(end - at) : V;
    float dy[V], ref[V];
    read(dys + at, count, whole, dy);
    read(refs + at, count, whole, ref);
#pragma unroll
    for (int j = 0; j < V; j++) ref[j] += b;
    backward(p, numbers, ref, dy);
    write(dxs + at, count, whole, dy);
#pragma unroll
    for (int j = 0; j < V; j++) total += j < count ? dy[j] : 0.0f;
  }
  total = sum_across(total, s.lanes, memory);
  if (lane == 0 && place < s.rows) store(p.partial + part * s.rows + row, total);
}

template <class T, class I>
HSR_KERNEL(kThreads)
bias_act_bwd_columns_kernel(BiasActParams p, ActivationNumbers<float> numbers, Sums s, bool whole) {
  constexpr int V = kVector<T>;
  HSR_SHARED(float, kThreads* V, memory);
  const int lane = thread_index() % s.lanes, line = thread_index() / s.lanes, lines = kThreads / s.lanes;
  const int64_t part = block_index() / s.blocks_across;
  const I column = I(block_index() % s.blocks_across * s.lanes + lane) * V, columns = I(s.columns);
  const int count = column >= columns ? 0 : columns - column < V ? int(columns - column) : V;
  const int64_t last = (part + 1) * s.piece < s.rows ? (part + 1) * s.piece : s.rows;
  float b[V], total[V];
#pragma unroll
  for (int j = 0; j < V; j++) {
    b[j] = p.b && j < count ? widen(load(static_cast<const T*>(p.b) + (column + j) % I(p.channels))) : 0.0f;
    total[j] = 0;
  }
  for (int64_t row = part * s.piece + line; row < last && count > 0; row += lines) {
    const int64_t at = row * s.columns + column;
    float dy[V], ref[V];
    read(static_cast<const T*>(p.dy) + at, count, whole, dy);
    read(static_cast<const T*>(p.ref) + at, count, whole, ref);
#pragma unroll
    for (int j = 0; j < V; j++) ref[j] += b[j];
    backward(p, numbers, ref, dy);
    write(static_cast<T*>(p.y) + at, count, whole, dy);
#pragma unroll
    for (int j = 0; j < V; j++) total[j] += dy[j];
  }
#pragma unroll
  for (int j = 0; j < V; j++) memory[(line * s.lanes + lane) * V + j] = total[j];
  sync();
  for (int i = thread_index(); i < s.lanes * V; i += kThreads) {
    const I at = I(block_index() % s.blocks_across * s.lanes) * V + i;
    float sum = 0;
    for (int l = 0; l < lines; l++) sum += memory[l * s.lanes * V + i];
    if (at < columns) store(p.partial + part * s.columns + at, sum);
  }
}

template <class T, class I>
void launch_sums(const BiasActParams& p, const Stream& stream) {
  const ActivationNumbers<float> numbers(p.act);
  const Sums s = sums_of(p.outer, p.channels, p.inner, kVector<T>);
  const bool whole = aligned(p.dy) && aligned(p.ref) && aligned(p.y) && s.columns % kVector<T> == 0;
  if (s.by_rows) {
    launch("bias_act_bwd_rows", bias_act_bwd_rows_kernel<T, I>, stream, ceil_div(s.rows, kThreads / s.lanes) * s.parts,
           kThreads, p, numbers, s, whole);
  } else {
    launch("bias_act_bwd_columns", bias_act_bwd_columns_kernel<T, I>, stream, s.blocks_across * s.parts, kThreads, p,
           numbers, s, whole);
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
