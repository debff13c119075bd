// SPDX-License-Identifier: Apache-2.0
// upfirdn2d: zero insertion, padding, FIR and decimation in one pass.
//
// Factors of 1 and 2 with 4 taps along each axis, or 12 of an outer product, have kernels that work on tiles in shared
// memory: contiguous images are staged as floats (fir_planes.h), channels_last images in their dtype (fir_tile.h). All
// others take a kernel that loops over taps.
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

// Blocks of 2^log_planes planes x 2^log_y rows x 2^log_x vectors of outputs. A vector has V channels, or one pixel of
// contiguous images.
struct Walk {
  int64_t planes;
  int c;
  // The vectors of a row.
  int count;
  int log_x, log_y, log_planes;
  Divisor blocks_x, blocks_y;
  // The vectors of a pixel.
  Divisor vectors;
  // Whether vectors are aligned and complete.
  bool vector_access;
  int64_t blocks;

  Walk(const Upfirdn2dParams& p, int V) : log_x(0), log_y(0), log_planes(0) {
    const bool channels_last = p.layout == Layout::nhwc;
    planes = channels_last ? p.n : p.n * p.c, c = channels_last ? int(p.c) : 1;
    vectors = Divisor(ceil_div(c, V));
    require(p.ow * vectors.divisor < kMaxInt32Elements, "upfirdn2d's rows are too long");
    count = int(p.ow) * vectors.divisor;
    while (1 << log_x < count && 1 << log_x < kThreads) log_x++;
    while (1 << log_y < p.oh && 1 << (log_x + log_y) < kThreads) log_y++;
    while (1 << (log_x + log_y + log_planes) < kThreads) log_planes++;
    blocks_x = Divisor(ceil_div(count, 1 << log_x)), blocks_y = Divisor(ceil_div(p.oh, 1 << log_y));
    vector_access = c % V == 0 && aligned(p.x) && aligned(p.y);
    blocks = ceil_div(planes, 1 << log_planes) * blocks_y.divisor * blocks_x.divisor;
  }
};

// Reads V elements of any dtype from `offset` on.
template <int V>
HSR_DEVICE void read_any(DType dtype, const void* tensor, int64_t offset, int count, bool vector_access,
                         float (&out)[V]) {
  if (dtype == DType::float16) {
    read(static_cast<const half*>(tensor) + offset, count, vector_access, out);
  } else if (dtype == DType::bfloat16) {
    read(static_cast<const bfloat16*>(tensor) + offset, count, vector_access, out);
  } else if constexpr (V == 1) {
    out[0] = load(static_cast<const float*>(tensor) + offset);
  } else {
#pragma unroll
    for (int q = 0; q < V; q += 4) {
      float part[4];
      read(static_cast<const float*>(tensor) + (offset + q), count - q, vector_access, part);
#pragma unroll
      for (int j = 0; j < 4; j++) out[q + j] = part[j];
    }
  }
}

template <int V>
HSR_DEVICE void write_any(DType dtype, void* tensor, int64_t offset, int count, bool vector_access,
                          const float (&in)[V]) {
  if (dtype == DType::float16) {
    write(static_cast<half*>(tensor) + offset, count, vector_access, in);
  } else if (dtype == DType::bfloat16) {
    write(static_cast<bfloat16*>(tensor) + offset, count, vector_access, in);
  } else if constexpr (V == 1) {
    store(static_cast<float*>(tensor) + offset, in[0]);
  } else {
#pragma unroll
    for (int q = 0; q < V; q += 4) {
      const float part[4] = {in[q], in[q + 1], in[q + 2], in[q + 3]};
      write(static_cast<float*>(tensor) + (offset + q), count - q, vector_access, part);
    }
  }
}

template <int V>
HSR_KERNEL_OF(kThreads, 4)
upfirdn2d_kernel(Upfirdn2dParams p, Walk s) {
  const int thread = thread_index();
  int block = int(block_index());
  int column = (s.blocks_x.divide(block) << s.log_x) + (thread & ((1 << s.log_x) - 1));
  const int row = (s.blocks_y.divide(block) << s.log_y) + ((thread >> s.log_x) & ((1 << s.log_y) - 1));
  const int64_t plane = (int64_t(block) << s.log_planes) + (thread >> (s.log_x + s.log_y));
  if (plane >= s.planes || row >= p.oh || column >= s.count) return;
  const int channel = s.vectors.divide(column) * V, count = s.c - channel < V ? s.c - channel : V;
  const int64_t offset = ((plane * p.oh + row) * p.ow + column) * s.c + channel;
  const TapRange y = tap_range_in<int>(row, p.up_y, p.down_y, int(p.pad_y));
  const TapRange x = tap_range_in<int>(column, p.up_x, p.down_x, int(p.pad_x));
  const int h = int(p.h), w = int(p.w), first_column = int(x.pixel);
  const FirTaps& f = p.filter;
  const int count_x = tap_count(p.taps_x, x.tap, p.up_x);
  int image_row = int(y.pixel);
  int64_t line = ((plane * h + image_row) * w + first_column) * s.c + channel;
  float sums[V] = {};
  // The loops run over the taps that meet pixels.
#pragma unroll 1
  for (int tap_y = y.tap; tap_y < p.taps_y; tap_y += p.up_y) {
    if (unsigned(image_row) < unsigned(h)) {
      const int along_y = f.start + tap_y * f.step_y;
      const float factor = f.f && p.separable ? load(f.f + along_y) : 1.0f;
      const int taps = (p.separable ? f.start : along_y) + x.tap * f.step_x;
#pragma unroll 1
      for (int i = 0; i < count_x; i++) {
        if (unsigned(first_column + i) >= unsigned(w)) continue;
        const float tap = f.f ? factor * load(f.f + (taps + i * p.up_x * f.step_x)) : 1.0f;
        float pixel[V];
        read_any(p.dtype, p.x, line + int64_t(i) * s.c, count, s.vector_access, pixel);
#pragma unroll
        for (int v = 0; v < V; v++) sums[v] += pixel[v] * tap;
      }
    }
    image_row++, line += int64_t(w) * s.c;
  }
#pragma unroll
  for (int v = 0; v < V; v++) sums[v] *= f.gain;
  write_any(p.y_dtype, p.y, offset, count, s.vector_access, sums);
}

template <int V>
void launch_loop(const Upfirdn2dParams& p, const Stream& stream) {
  require(axes_fit_int32(p), "upfirdn2d's image is too long along an axis");
  const Walk s(p, V);
  launch("upfirdn2d", upfirdn2d_kernel<V>, stream, s.blocks, kThreads, p, s);
}

// ---- Tiles ----

// Returns f(Fir) if there are tiles for these factors, otherwise false.
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
upfirdn2d_channels_kernel(const T* x, T* y, FirTaps filter, bool separable, ChannelTiles t, bool vector_writes) {
  HSR_SHARED(T, S::staged * S::vector, tile);
  HSR_SHARED(float, F::square, taps);
  const ChannelPlace<S> place(t);
  float sums[S::below][S::across][S::vector];
  filter_tile<S, F>(x, filter, separable, t, place, tile, taps, sums);
  write_channels(y, t, place, vector_writes, tile, sums);
}

template <class T>
bool launch_channels(const Upfirdn2dParams& p, const Stream& stream) {
  return with_fir<4>(p, [&](auto fir) {
    using F = decltype(fir);
    const ChannelTiles t(p, ChannelCut::make<ChannelShape<T, F>, F>());
    if (!t.fits_int32(F::up)) return false;
    launch("upfirdn2d_channels", upfirdn2d_channels_kernel<T, F>, stream, t.blocks, t.threads,
           static_cast<const T*>(p.x), static_cast<T*>(p.y), p.filter, p.separable, t, t.vector_reads && aligned(p.y));
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
  const PlanePlace<S> place(t);
  stage_taps<F::taps>(filter, separable, t.threads, staged_taps);
  stage_planes<S, F>(x, t, place, tile);
  sync();
  float taps[F::square], sums[R][V] = {};
#pragma unroll
  for (int k = 0; k < F::square; k++) taps[k] = staged_taps[k];
  const int corner = (place.plane * t.rows + place.y * S::row_step) * t.pitch + place.x * (S::step + 1);
#pragma unroll
  for (int i = 0; i < F::pixels(R); i++) {
    float pixels[F::pixels(V)];
#pragma unroll
    for (int j = 0; j < F::pixels(V); j++) pixels[j] = tile[corner + i * t.pitch + S::word(j)];
#pragma unroll
    for (int r = 0; r < R; r++) {
      const int window_row = i - r / F::up * F::down;
      if (window_has_tap(window_row, r % F::up, F::up, F::taps))
        filter_row<F>(pixels, taps, window_tap(window_row, r % F::up, F::up) * F::taps, sums[r]);
    }
  }
  write_planes(y, t, place, tile, sums);
}

// Filters the rows of a staged tile: [planes_per_block, rows, width].
template <class S, class F, int N, int M>
HSR_DEVICE void filter_rows(Shared<float, N>& tile, const float (&taps)[F::taps], const PlaneTiles& t,
                            Shared<float, M>& row_outputs) {
  constexpr int V = S::vector;
  const int total = (t.planes_per_block * t.rows) << t.log_x;
#pragma unroll 1
  for (int item = thread_index(); item < total; item += t.threads) {
    const int corner = (item >> t.log_x) * t.pitch + (item & ((1 << t.log_x) - 1)) * (S::step + 1);
    float pixels[F::pixels(V)], sums[V] = {};
#pragma unroll
    for (int j = 0; j < F::pixels(V); j++) pixels[j] = tile[corner + S::word(j)];
    filter_row<F>(pixels, taps, 0, sums);
#pragma unroll
    for (int q = 0; q < V; q += 4)
      shared_store<4>(row_outputs, item * V + q, Pack<float, 4>{{sums[q], sums[q + 1], sums[q + 2], sums[q + 3]}});
  }
}

// Filters along both axes with an outer product, one after the other. One kernel serves all dtypes, as it is
// compute-bound.
template <class F, class S = PlaneShape<4, F>>
HSR_KERNEL(S::threads)
upfirdn2d_separable_kernel(const void* x, void* y, FirTaps filter, PlaneTiles t) {
  constexpr int R = S::below;
  HSR_SHARED(float, S::staged, tile);
  HSR_SHARED(float, S::row_outputs, row_outputs);
  HSR_SHARED(float, F::taps, staged_taps);
  const PlanePlace<S> place(t);
#pragma unroll 1
  for (int k = thread_index(); k < F::taps; k += t.threads)
    staged_taps[k] = load(filter.f + (filter.start + k * filter.step_x));
  if (t.dtype == DType::float32) {
    stage_planes<S, F>(static_cast<const float*>(x), t, place, tile);
  } else {
    stage_planes<S, F>(static_cast<const Bits16*>(x), t, place, tile);
  }
  sync();
  float taps[F::taps], sums[R][4] = {};
#pragma unroll
  for (int k = 0; k < F::taps; k++) taps[k] = staged_taps[k];
  filter_rows<S, F>(tile, taps, t, row_outputs);
  sync();
#pragma unroll
  for (int k = 0; k < F::taps; k++) taps[k] *= filter.gain;
  const int corner = (((place.plane * t.rows + place.y * S::row_step) << t.log_x) + place.x) * 4;
#pragma unroll
  for (int i = 0; i < F::pixels(R); i++) {
    const Pack<float, 4> pixels = shared_load<4>(row_outputs, corner + (i << t.log_x) * 4);
#pragma unroll
    for (int r = 0; r < R; r++) {
      const int window_row = i - r / F::up * F::down;
      if (!window_has_tap(window_row, r % F::up, F::up, F::taps)) continue;
#pragma unroll
      for (int v = 0; v < 4; v++) sums[r][v] += pixels.v[v] * taps[window_tap(window_row, r % F::up, F::up)];
    }
  }
  if (t.dtype == DType::float32) {
    write_planes(static_cast<float*>(y), t, place, tile, sums);
  } else {
    write_planes(static_cast<Bits16*>(y), t, place, tile, sums);
  }
}

template <class T>
bool launch_planes(const Upfirdn2dParams& p, const Stream& stream) {
  return with_fir<4>(p, [&](auto fir) {
    using F = decltype(fir);
    const PlaneTiles t(p, PlaneCut::make<PlaneShape<kVector<T>, F>, F>());
    if (!t.fits_int32()) return false;
    launch("upfirdn2d_planes", upfirdn2d_planes_kernel<T, F>, stream, t.blocks, t.threads, static_cast<const T*>(p.x),
           static_cast<T*>(p.y), p.filter, p.separable, t);
    return true;
  });
}

bool launch_separable(const Upfirdn2dParams& p, const Stream& stream) {
  return with_fir<12>(p, [&](auto fir) {
    using F = decltype(fir);
    const PlaneTiles t(p, PlaneCut::make<PlaneShape<4, F>, F>());
    if (!t.fits_int32()) return false;
    launch("upfirdn2d_separable", upfirdn2d_separable_kernel<F>, stream, t.blocks, t.threads, p.x, p.y, p.filter, t);
    return true;
  });
}

// ---- Which kernel ----

// Launches a kernel that works on tiles; returns false if there is none.
template <class T>
bool launch_tiles(const Upfirdn2dParams& p, const Stream& stream) {
  if (p.up_x != p.up_y || p.down_x != p.down_y || p.taps_x != p.taps_y || p.y_dtype != p.dtype || !axes_fit_int32(p) ||
      p.h * p.w == 0)
    return false;
  if (p.layout == Layout::nchw) {
    if (p.n * p.c >= kMaxInt32Elements) return false;
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
    launch_loop<8>(p, stream);
  } else {
    launch_loop<1>(p, stream);
  }
}

HSR_INSTANTIATE(launch_upfirdn2d, Upfirdn2dParams);

}  // namespace cuda
}  // namespace hsr
