// SPDX-License-Identifier: Apache-2.0
// bias_act: forward, backward and second order, one pass over memory each.
#include "hsr/activation.h"
#include "kernels.h"
#include "storage.h"

namespace hsr {
namespace HSR_ISA {
namespace {

// A sum is kept in so many independent parts, so that the compiler can vectorise it.
constexpr int64_t kLanes = 16;
// A thread takes about so many elements at a time.
constexpr int64_t kElementsPerChunk = 1 << 15;
// Shorter rows are joined; the bias then has a value per element.
constexpr int64_t kMinRowLength = 64;
// Each chunk of a reduction keeps partial sums.
constexpr int64_t kMaxReductionChunks = 256;

// A dense tensor as rows of `length` elements: either one channel per row, or `length` bias values per row.
struct Walk {
  int64_t rows, length, channels, inner;
  // Whether the bias changes along a row.
  bool per_element;

  explicit Walk(const BiasActParams& p) : channels(p.channels), inner(p.inner) {
    const bool indexed = p.b || p.db;
    per_element = indexed && inner < kMinRowLength;
    if (!indexed) {
      rows = 1;
      length = p.outer * channels * inner;
    } else if (per_element) {
      rows = p.outer;
      length = channels * inner;
    } else {
      rows = p.outer * channels;
      length = inner;
    }
  }
  int64_t channel_of_row(int64_t row) const { return row % channels; }
  int64_t channel_of_element(int64_t i) const { return i / inner; }
};

// The elements [begin, end) of a row.
struct Piece {
  int64_t row, begin, end;
};

// Cuts the walk into chunks of about kElementsPerChunk elements: several complete rows, or a piece of one.
struct Chunks {
  int64_t rows_per_chunk, pieces_per_row, piece_length, count;

  Chunks(const Walk& walk, bool reduces) {
    const int64_t length = walk.length > 0 ? walk.length : 1;
    rows_per_chunk = length >= kElementsPerChunk ? 1 : kElementsPerChunk / length;
    if (reduces && walk.per_element) {
      const int64_t min_rows = (walk.rows + kMaxReductionChunks - 1) / kMaxReductionChunks;
      if (rows_per_chunk < min_rows) rows_per_chunk = min_rows;
    }
    pieces_per_row = (length + kElementsPerChunk - 1) / kElementsPerChunk;
    if (rows_per_chunk > 1) pieces_per_row = 1;
    piece_length = (length + pieces_per_row - 1) / pieces_per_row;
    piece_length = (piece_length + kLanes - 1) / kLanes * kLanes;
    count = walk.length == 0 ? 0 : (walk.rows + rows_per_chunk - 1) / rows_per_chunk * pieces_per_row;
  }

  template <class F>
  void pieces(const Walk& walk, int64_t chunk, F&& f) const {
    const int64_t first_row = chunk / pieces_per_row * rows_per_chunk, part = chunk % pieces_per_row;
    const int64_t end_row = first_row + rows_per_chunk < walk.rows ? first_row + rows_per_chunk : walk.rows;
    for (int64_t row = first_row; row < end_row; row++) {
      const int64_t begin = part * piece_length,
                    end = begin + piece_length < walk.length ? begin + piece_length : walk.length;
      if (begin < end) f(Piece{row, begin, end});
    }
  }
};

// Returns the bias [channels], or [length] where the walk has one per element.
template <class T>
const Accumulator<T>* expand_bias(const BiasActParams& p, const Walk& walk) {
  using A = Accumulator<T>;
  if (!p.b) return nullptr;
  const int64_t n = walk.per_element ? walk.length : walk.channels;
  A* bias = static_cast<A*>(scratch(7, size_t(n) * sizeof(A)));
  const T* b = static_cast<const T*>(p.b);
  for (int64_t i = 0; i < n; i++) {
    const int64_t c = walk.per_element ? walk.channel_of_element(i) : i;
    A buffer;
    bias[i] = *load(b + c, &buffer, 1);
  }
  return bias;
}

// The arithmetic on a block of elements in the accumulation type, one set of functions per activation. The bias is `b`,
// a value per element, unless that is null; then it is `row_bias`.
template <class A>
struct Blocks {
  void (*forward)(const ActivationParams&, const A* x, const A* b, A row_bias, A* y, int64_t n);
  // Returns the sum of dx; adds dx to `sums` unless that is null.
  A (*backward)(const ActivationParams&, const A* dy, const A* ref, const A* b, A row_bias, A* dx, double* sums,
                int64_t n);
  void (*second_order)(const ActivationParams&, const A* ddx, const A* dy, const A* ref, const A* b, A row_bias, A* ddy,
                       A* dref, int64_t n);
};

template <class A, Act act>
void forward_block(const ActivationParams& p, const A* x, const A* b, A row_bias, A* y, int64_t n) {
  const Activation<A, act> activation(p);
  if (b) {
    for (int64_t i = 0; i < n; i++) y[i] = activation.value(x[i] + b[i]);
  } else {
    for (int64_t i = 0; i < n; i++) y[i] = activation.value(x[i] + row_bias);
  }
}

template <class A, Act act, bool from_output>
A backward_block(const ActivationParams& p, const A* dy, const A* ref, const A* b, A row_bias, A* dx, double* sums,
                 int64_t n) {
  const Activation<A, act> activation(p);
  const auto slope = [&](A v) __attribute__((always_inline)) { return activation.template slope_from<from_output>(v); };
  A lanes[kLanes] = {};
  if (b) {
    for (int64_t i = 0; i < n; i++) dx[i] = dy[i] * slope(ref[i] + b[i]);
  } else {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
      for (int64_t l = 0; l < kLanes; l++) {
        const A v = dy[i + l] * slope(ref[i + l] + row_bias);
        dx[i + l] = v;
        lanes[l] += v;
      }
    for (; i < n; i++) lanes[i % kLanes] += dx[i] = dy[i] * slope(ref[i] + row_bias);
  }
  if (sums)
    for (int64_t i = 0; i < n; i++) sums[i] += double(dx[i]);
  A total = 0;
  for (A lane : lanes) total += lane;
  return total;
}

template <class A, Act act, bool from_output>
void second_order_block(const ActivationParams& p, const A* ddx, const A* dy, const A* ref, const A* b, A row_bias,
                        A* ddy, A* dref, int64_t n) {
  const Activation<A, act> activation(p);
  for (int64_t i = 0; i < n; i++) {
    const A v = ref[i] + (b ? b[i] : row_bias), product = ddx[i] * dy[i];
    ddy[i] = ddx[i] * activation.template slope_from<from_output>(v);
    dref[i] = product * activation.template curvature_from<from_output>(v);
  }
}

template <class A, Act act, bool from_output>
Blocks<A> blocks_of() {
  return {forward_block<A, act>, backward_block<A, act, from_output>, second_order_block<A, act, from_output>};
}

template <class A>
Blocks<A> blocks_for(const BiasActParams& p) {
  Blocks<A> blocks{};
  with_activation(p.act.act, p.from_output, [&](auto kind) { blocks = blocks_of<A, kind.act, kind.from_output>(); });
  return blocks;
}

// Calls f(offset in the tensor, elements, bias per element or null, bias of the row, row, offset in the row) for each
// block of a chunk.
template <class A, class F>
void for_each_block(const Walk& walk, const Chunks& chunks, int64_t chunk, const A* bias, F&& f) {
  chunks.pieces(walk, chunk, [&](Piece piece) {
    const A row_bias = bias && !walk.per_element ? bias[walk.channel_of_row(piece.row)] : A(0);
    for (int64_t i = piece.begin; i < piece.end; i += kBlock) {
      const int64_t n = piece.end - i < kBlock ? piece.end - i : kBlock;
      f(piece.row * walk.length + i, n, bias && walk.per_element ? bias + i : nullptr, row_bias, piece.row, i);
    }
  });
}

// Sums of dx per channel. Each chunk keeps its own, and they are added up in order: the bits are the same for any
// number of threads.
struct BiasGradient {
  const Walk& walk;
  const Chunks& chunks;
  double* partial;
  int64_t width;

  BiasGradient(const BiasActParams& p, const Walk& w, const Chunks& c) : walk(w), chunks(c), partial(nullptr) {
    width = walk.per_element ? walk.length : chunks.rows_per_chunk;
    if (!p.db) return;
    const size_t bytes = size_t(chunks.count * width) * sizeof(double);
    partial = static_cast<double*>(scratch(6, bytes ? bytes : 1));
    std::memset(static_cast<void*>(partial), 0, bytes);
  }
  double& of_row(int64_t chunk, int64_t row) const { return partial[chunk * width + row % chunks.rows_per_chunk]; }
  double* of_element(int64_t chunk, int64_t i) const { return partial + chunk * width + i; }
  void reduce(double* db) const {
    if (!partial) return;
    for (int64_t c = 0; c < walk.channels; c++) db[c] = 0;
    for (int64_t chunk = 0; chunk < chunks.count; chunk++) {
      const double* sums = partial + chunk * width;
      if (walk.per_element) {
        for (int64_t i = 0; i < width; i++) db[walk.channel_of_element(i)] += sums[i];
      } else {
        const int64_t first_row = chunk / chunks.pieces_per_row * chunks.rows_per_chunk;
        for (int64_t r = 0; r < width && first_row + r < walk.rows; r++)
          db[walk.channel_of_row(first_row + r)] += sums[r];
      }
    }
  }
};

template <class T>
void bias_act_kernel(const BiasActParams& p, int threads) {
  using A = Accumulator<T>;
  const auto block = blocks_for<A>(p).forward;
  const Walk walk(p);
  const Chunks chunks(walk, false);
  const A* bias = expand_bias<T>(p, walk);
  for_each_chunk(chunks.count, threads, [&](int64_t chunk) {
    A in[kBlock], out[kBlock];
    for_each_block(walk, chunks, chunk, bias, [&](int64_t offset, int64_t n, const A* b, A row_bias, int64_t, int64_t) {
      T* dst = static_cast<T*>(p.y) + offset;
      A* y = stage(dst, out);
      block(p.act, load(static_cast<const T*>(p.x) + offset, in, n), b, row_bias, y, n);
      commit(y, dst, n);
    });
  });
}

template <class T>
void bias_act_bwd_kernel(const BiasActParams& p, int threads) {
  using A = Accumulator<T>;
  const auto block = blocks_for<A>(p).backward;
  const Walk walk(p);
  const Chunks chunks(walk, p.db != nullptr);
  const A* bias = p.from_output ? nullptr : expand_bias<T>(p, walk);
  const BiasGradient gradient(p, walk, chunks);
  for_each_chunk(chunks.count, threads, [&](int64_t chunk) {
    A in[2][kBlock], out[kBlock];
    for_each_block(
        walk, chunks, chunk, bias, [&](int64_t offset, int64_t n, const A* b, A row_bias, int64_t row, int64_t i) {
          const A* dy = load(static_cast<const T*>(p.dy) + offset, in[0], n);
          const A* ref = load(static_cast<const T*>(p.ref) + offset, in[1], n);
          T* dst = static_cast<T*>(p.y) + offset;
          A* dx = stage(dst, out);
          if (gradient.partial && !walk.per_element) {
            gradient.of_row(chunk, row) += double(block(p.act, dy, ref, b, row_bias, dx, nullptr, n));
          } else {
            // The bias is null where the slope is computed from the output; sums per element are wanted all the same.
            block(p.act, dy, ref, b, row_bias, dx, gradient.partial ? gradient.of_element(chunk, i) : nullptr, n);
          }
          commit(dx, dst, n);
        });
  });
  gradient.reduce(p.db);
}

template <class T>
void bias_act_bwd_bwd_kernel(const BiasActParams& p, int threads) {
  using A = Accumulator<T>;
  const auto block = blocks_for<A>(p).second_order;
  const Walk walk(p);
  const Chunks chunks(walk, false);
  const A* bias = p.from_output ? nullptr : expand_bias<T>(p, walk);
  for_each_chunk(chunks.count, threads, [&](int64_t chunk) {
    A in[3][kBlock], out[2][kBlock];
    for_each_block(walk, chunks, chunk, bias, [&](int64_t offset, int64_t n, const A* b, A row_bias, int64_t, int64_t) {
      const A* ddx = load(static_cast<const T*>(p.ddx) + offset, in[0], n);
      const A* dy = load(static_cast<const T*>(p.dy) + offset, in[1], n);
      const A* ref = load(static_cast<const T*>(p.ref) + offset, in[2], n);
      T *ddy_dst = static_cast<T*>(p.y) + offset, *dref_dst = static_cast<T*>(p.dref) + offset;
      A *ddy = stage(ddy_dst, out[0]), *dref = stage(dref_dst, out[1]);
      block(p.act, ddx, dy, ref, b, row_bias, ddy, dref, n);
      commit(ddy, ddy_dst, n);
      commit(dref, dref_dst, n);
    });
  });
}

}  // namespace

#define HSR_LAUNCH(op)                                                                \
  void launch_##op(const BiasActParams& p, int threads) {                             \
    with_dtype(p.dtype, [&](auto zero) { op##_kernel<decltype(zero)>(p, threads); }); \
  }
HSR_LAUNCH(bias_act)
HSR_LAUNCH(bias_act_bwd)
HSR_LAUNCH(bias_act_bwd_bwd)
#undef HSR_LAUNCH

}  // namespace HSR_ISA
}  // namespace hsr
