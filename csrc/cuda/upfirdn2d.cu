// SPDX-License-Identifier: Apache-2.0
// upfirdn2d: zero insertion, padding, FIR and decimation in one pass.
//
// Factors of 1 and 2 with 4 taps along each axis, or 12 of an outer product, have kernels that work on tiles in shared
// memory: contiguous images are staged as floats (fir_planes.h), channels_last ones as they are (fir_tile.h). All else
// goes through a loop over taps.
#include <type_traits>

#include "fir_planes.h"
#include "fir_tile.h"
#include "hsr/error.h"
#include "launchers.h"

namespace hsr {
namespace cuda {
namespace {

// ---- Any factors, any taps ----

constexpr int kThreads = 256;

// Blocks of 2^log_p planes x 2^log_y rows x 2^log_x vectors of outputs: V channels each, one pixel of contiguous
// images.
struct Walk {
  int64_t planes;
  int c, count;  // channels, and vectors in a row
  int log_x, log_y, log_p;
  Divisor across, down, vectors;
  bool whole;  // vectors are aligned and complete
  int64_t blocks;

  Walk(const Upfirdn2dParams& p, int V) : log_x(0), log_y(0), log_p(0) {
    const bool last = p.layout == Layout::nhwc;
    planes = last ? p.n : p.n * p.c, c = last ? int(p.c) : 1;
    vectors = Divisor(ceil_div(c, V));
    require(p.ow * vectors.divisor < kInt32, "upfirdn2d's rows are too long");
    count = int(p.ow) * vectors.divisor;
    while (1 << log_x < count && 1 << log_x < kThreads) log_x++;
    while (1 << log_y < p.oh && 1 << (log_x + log_y) < kThreads) log_y++;
    while (1 << (log_x + log_y + log_p) < kThreads) log_p++;
    across = Divisor(ceil_div(count, 1 << log_x)), down = Divisor(ceil_div(p.oh, 1 << log_y));
    whole = c % V == 0 && aligned(p.x) && aligned(p.y);
    blocks = ceil_div(planes, 1 << log_p) * down.divisor * across.divisor;
  }
};

// V elements of any dtype from `at` on.
template <int V>
HSR_DEVICE void read_any(DType dtype, const void* from, int64_t at, int count, bool whole, float (&out)[V]) {
  if (dtype == DType::float16) {
    read(static_cast<const half*>(from) + at, count, whole, out);
  } else if (dtype == DType::bfloat16) {
    read(static_cast<const bfloat16*>(from) + at, count, whole, out);
  } else if constexpr (V == 1) {
    out[0] = load(static_cast<const float*>(from) + at);
  } else {
#pragma unroll
    for (int q = 0; q < V; q += 4) {
      float part[4];
      read(static_cast<const float*>(from) + (at + q), count - q, whole, part);
#pragma unroll
      for (int j = 0; j < 4; j++) out[q + j] = part[j];
    }
  }
}

template <int V>
HSR_DEVICE void write_any(DType dtype, void* to, int64_t at, int count, bool whole, const float (&in)[V]) {
  if (dtype == DType::float16) {
    write(static_cast<half*>(to) + at, count, whole, in);
  } else if (dtype == DType::bfloat16) {
    write(static_cast<bfloat16*>(to) + at, count, whole, in);
  } else if constexpr (V == 1) {
    store(static_cast<float*>(to) + at, in[0]);
  } else {
#pragma unroll
    for (int q = 0; q < V; q += 4) {
      const float part[4] = {in[q], in[q + 1], in[q + 2], in[q + 3]};
      write(static_cast<float*>(to) + (at + q), count - q, whole, part);
    }
  }
}

template <int V>
HSR_KERNEL_OF(kThreads, 4)
upfirdn2d_kernel(Upfirdn2dParams p, Walk s) {
  const int thread = thread_index();
  int block = int(block_index());
  int column = (s.across.split(block) << s.log_x) + (thread & ((1 << s.log_x) - 1));
  const int row = (s.down.split(block) << s.log_y) + ((thread >> s.log_x) & ((1 << s.log_y) - 1));
  const int64_t plane = (int64_t(block) << s.log_p) + (thread >> (s.log_x + s.log_y));
  if (plane >= s.planes || row >= p.oh || column >= s.count) return;
  const int channel = s.vectors.split(column) * V, count = s.c - channel < V ? s.c - channel : V;
  const int64_t to = ((plane * p.oh + row) * p.ow + column) * s.c + channel;
  const TapRange y = tap_range_in<int>(row, p.up_y, p.down_y, int(p.pad_y));
  const TapRange x = tap_range_in<int>(column, p.up_x, p.down_x, int(p.pad_x));
  const int h = int(p.h), w = int(p.w), first = int(x.pixel);
  const FirTaps& f = p.filter;
  const int count_x = tap_count(p.taps_x, x.first, p.up_x);
  int in_row = int(y.pixel);
  int64_t line = ((plane * h + in_row) * w + first) * s.c + channel;
  float sums[V] = {};
  // The taps that meet pixels: from a row on, and for each of them from a column on.
#pragma unroll 1
  for (int tap_y = y.first; tap_y < p.taps_y; tap_y += p.up_y) {
    if (unsigned(in_row) < unsigned(h)) {
      const int along_y = f.start + tap_y * f.step_y;
      const float factor = f.f && p.separable ? load(f.f + along_y) : 1.0f;
      const int taps = (p.separable ? f.start : along_y) + x.first * f.step_x;
#pragma unroll 1
      for (int i = 0; i < count_x; i++) {
        if (unsigned(first + i) >= unsigned(w)) continue;
        const float tap = f.f ? factor * load(f.f + (taps + i * p.up_x * f.step_x)) : 1.0f;
        float pixel[V];
        read_any(p.dtype, p.x, line + int64_t(i) * s.c, count, s.whole, pixel);
#pragma unroll
        for (int v = 0; v < V; v++) sums[v] += pixel[v] * tap;
      }
    }
    in_row++, line += int64_t(w) * s.c;
  }
#pragma unroll
  for (int v = 0; v < V; v++) sums[v] *= f.gain;
  write_any(p.y_dtype, p.y, to, count, s.whole, sums);
}

template <int V>
void launch_looped(const Upfirdn2dParams& p, const Stream& stream) {
  require(short_axes(p), "upfirdn2d's image is too long along an axis");
  const Walk s(p, V);
  launch("upfirdn2d", upfirdn2d_kernel<V>, stream, s.blocks, kThreads, p, s);
}

// ---- Tiles ----

// Calls f with the Fir of factors that tiles are made for, if these are.
template <int TAPS, class G>
bool with_fir(const Upfirdn2dParams& p, G&& f) {
  if (p.up_x == 1 && p.down_x == 1) return f(Fir<1, 1, TAPS>{});
  if (p.up_x == 2 && p.down_x == 1) return f(Fir<2, 1, TAPS>{});
  if (p.up_x == 1 && p.down_x == 2) return f(Fir<1, 2, TAPS>{});
  return false;
}

// ---- Tiles of channels_last images ----

template <class T, class F, class S = ChannelShape<T, F>>
HSR_KERNEL(S::threads)
upfirdn2d_channels_kernel(const T* x, T* y, FirTaps filter, bool separable, ChannelTiles t, bool whole) {
  HSR_SHARED(T, S::staged * S::vector, tile);
  HSR_SHARED(float, F::square, taps);
  const ChannelPlace<S> at(t);
  float sums[S::below][S::across][S::vector];
  filter_tile<S, F>(x, filter, separable, t, at, tile, taps, sums);
  write_channels(y, t, at, whole, tile, sums);
}

template <class T>
bool launch_channels(const Upfirdn2dParams& p, const Stream& stream) {
  return with_fir<4>(p, [&](auto fir) {
    using F = decltype(fir);
    const ChannelTiles t(p, ChannelCut::of<ChannelShape<T, F>, F>());
    if (!t.small(F::up)) return false;
    launch("upfirdn2d_channels", upfirdn2d_channels_kernel<T, F>, stream, t.blocks, t.threads,
           static_cast<const T*>(p.x), static_cast<T*>(p.y), p.filter, p.separable, t, t.whole && aligned(p.y));
    return true;
  });
}

// ---- Tiles of contiguous images ----

template <class T, class F, class S = PlaneShape<kVector<T>, F>>
HSR_KERNEL(S::threads)
upfirdn2d_planes_kernel(const T* x, T* y, FirTaps filter, bool separable, PlaneTiles t) {
  constexpr int V = S::vector, R = S::below;
  HSR_SHARED(float, S::staged, tile);
  HSR_SHARED(float, F::square, staged_taps);
  const PlanePlace<S> at(t);
  stage_taps<F::taps>(filter, separable, t.threads, staged_taps);
  stage_planes<S, F>(x, t, at, tile);
  sync();
  float taps[F::square], sums[R][V] = {};
#pragma unroll
  for (int k = 0; k < F::square; k++) taps[k] = staged_taps[k];
  const int corner = (at.plane * t.rows + at.y * S::row_step) * t.pitch + at.x * (S::step + 1);
#pragma unroll
  for (int i = 0; i < F::pixels(R); i++) {
    float pixels[F::pixels(V)];
#pragma unroll
    for (int j = 0; j < F::pixels(V); j++) pixels[j] = tile[corner + i * t.pitch + S::place(j)];
#pragma unroll
    for (int r = 0; r < R; r++) {
      const int near = i - r / F::up * F::down;
      if (near_meets(near, r % F::up, F::up, F::taps))
        filter_row<F>(pixels, taps, near_tap(near, r % F::up, F::up) * F::taps, sums[r]);
    }
  }
  write_planes(y, t, at, tile, sums);
}

// The rows of a staged tile, filtered: [planes, rows, width].
template <class S, class F, int N, int M>
HSR_DEVICE void filter_rows(Shared<float, N>& tile, const float (&taps)[F::taps], const PlaneTiles& t,
                            Shared<float, M>& middle) {
  constexpr int V = S::vector;
  const int total = (t.planes * t.rows) << t.log_x;
#pragma unroll 1
  for (int item = thread_index(); item < total; item += t.threads) {
    const int corner = (item >> t.log_x) * t.pitch + (item & ((1 << t.log_x) - 1)) * (S::step + 1);
    float pixels[F::pixels(V)], sums[V] = {};
#pragma unroll
    for (int j = 0; j < F::pixels(V); j++) pixels[j] = tile[corner + S::place(j)];
    filter_row<F>(pixels, taps, 0, sums);
#pragma unroll
    for (int q = 0; q < V; q += 4)
      shared_store<4>(middle, item * V + q, Pack<float, 4>{{sums[q], sums[q + 1], sums[q + 2], sums[q + 3]}});
  }
}

// Both axes of an outer product, one after the other. In any dtype: it is arithmetic that takes the time.
template <class F, class S = PlaneShape<4, F>>
HSR_KERNEL(S::threads)
upfirdn2d_separable_kernel(const void* x, void* y, FirTaps filter, PlaneTiles t) {
  constexpr int R = S::below;
  HSR_SHARED(float, S::staged, tile);
  HSR_SHARED(float, S::middle, middle);
  HSR_SHARED(float, F::taps, staged_taps);
  const PlanePlace<S> at(t);
#pragma unroll 1
  for (int k = thread_index(); k < F::taps; k += t.threads)
    staged_taps[k] = load(filter.f + (filter.start + k * filter.step_x));
  if (t.dtype == DType::float32) {
    stage_planes<S, F>(static_cast<const float*>(x), t, at, tile);
  } else {
    stage_planes<S, F>(static_cast<const Bits16*>(x), t, at, tile);
  }
  sync();
  float taps[F::taps], sums[R][4] = {};
#pragma unroll
  for (int k = 0; k < F::taps; k++) taps[k] = staged_taps[k];
  filter_rows<S, F>(tile, taps, t, middle);
  sync();
#pragma unroll
  for (int k = 0; k < F::taps; k++) taps[k] *= filter.gain;
  const int corner = (((at.plane * t.rows + at.y * S::row_step) << t.log_x) + at.x) * 4;
#pragma unroll
  for (int i = 0; i < F::pixels(R); i++) {
    const Pack<float, 4> pixels = shared_load<4>(middle, corner + (i << t.log_x) * 4);
#pragma unroll
    for (int r = 0; r < R; r++) {
      const int near = i - r / F::up * F::down;
      if (!near_meets(near, r % F::up, F::up, F::taps)) continue;
#pragma unroll
      for (int v = 0; v < 4; v++) sums[r][v] += pixels.v[v] * taps[near_tap(near, r % F::up, F::up)];
    }
  }
  if (t.dtype == DType::float32) {
    write_planes(static_cast<float*>(y), t, at, tile, sums);
  } else {
    write_planes(static_cast<Bits16*>(y), t, at, tile, sums);
  }
}

template <class T>
bool launch_planes(const Upfirdn2dParams& p, const Stream& stream) {
  return with_fir<4>(p, [&](auto fir) {
    using F = decltype(fir);
    const PlaneTiles t(p, PlaneCut::of<PlaneShape<kVector<T>, F>, F>());
    if (!t.small()) return false;
    launch("upfirdn2d_planes", upfirdn2d_planes_kernel<T, F>, stream, t.blocks, t.threads, static_cast<const T*>(p.x),
           static_cast<T*>(p.y), p.filter, p.separable, t);
    return true;
  });
}

bool launch_separable(const Upfirdn2dParams& p, const Stream& stream) {
  return with_fir<12>(p, [&](auto fir) {
    using F = decltype(fir);
    const PlaneTiles t(p, PlaneCut::of<PlaneShape<4, F>, F>());
    if (!t.small()) return false;
    launch("upfirdn2d_separable", upfirdn2d_separable_kernel<F>, stream, t.blocks, t.threads, p.x, p.y, p.filter, t);
    return true;
  });
}

// ---- Which kernel ----

// Launches a kernel that works on tiles, if there is one.
template <class T>
bool launch_tiles(const Upfirdn2dParams& p, const Stream& stream) {
  if (p.up_x != p.up_y || p.down_x != p.down_y || p.taps_x != p.taps_y || p.y_dtype != p.dtype || !short_axes(p) ||
      p.h * p.w == 0)
    return false;
  if (p.layout == Layout::nchw) {
    if (p.n * p.c >= kInt32) return false;
    if (p.taps_x == 12 && p.separable) return launch_separable(p, stream);
    if (p.taps_x != 4) return false;
    return launch_planes<std::conditional_t<sizeof(T) == 2, Bits16, T>>(p, stream);
  }
  return p.taps_x == 4 && launch_channels<T>(p, stream);
}

}  // namespace

template <class T>
void launch_upfirdn2d(const Upfirdn2dParams& p, const Stream& stream) {
  if (p.n * p.c * p.oh * p.ow == 0 || launch_tiles<T>(p, stream)) return;
  if (p.layout == Layout::nhwc) {
    launch_looped<8>(p, stream);
  } else {
    launch_looped<1>(p, stream);
  }
}

HSR_INSTANTIATE(launch_upfirdn2d, Upfirdn2dParams);

}  // namespace cuda
}  // namespace hsr
