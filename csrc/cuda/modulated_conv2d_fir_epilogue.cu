// SPDX-License-Identifier: Apache-2.0
// A FIR fused with the epilogue of a modulated layer: y = clamp(act(fir(x) * d + noise + b) * gain).
//
// In the networks this is the filter after a transposed convolution, 4 x 4 taps at the same size. Other filters run
// before and give a float32 image; only the epilogue runs here. x is channels_last, y has either layout.
#include "fir_tile.h"
#include "hsr/epilogue.h"
#include "hsr/error.h"
#include "launchers.h"

namespace hsr {
namespace cuda {
namespace {

struct Epilogue {
  // Null if absent.
  const float *d, *noise, *b;
  int64_t noise_stride;
  PiecewiseLinear<float> act;
};

// Applies the epilogue to the outputs of a thread.
template <class S>
HSR_DEVICE void apply_epilogue(const Epilogue& epilogue, const ChannelTiles& t, const ChannelPlace<S>& place,
                               float (&sums)[S::below][S::across][S::vector]) {
  constexpr int V = S::vector;
  const FirImage& image = t.image;
  float d[V], b[V];
#pragma unroll
  for (int v = 0; v < V; v++) {
    const int channel = place.channel + place.lane * V + v;
    d[v] = epilogue.d && channel < t.c ? load(epilogue.d + (int64_t(place.sample) * t.c + channel)) : 1.0f;
    b[v] = epilogue.b && channel < t.c ? load(epilogue.b + channel) : 0.0f;
  }
  const int column = place.column + place.x;
#pragma unroll
  for (int r = 0; r < S::below; r++) {
    const int row = place.row + place.y * S::below + r;
    float noise = 0;
    if (epilogue.noise && row < image.oh && column < image.ow)
      noise = load(epilogue.noise + (place.sample * epilogue.noise_stride + int64_t(row) * image.ow + column));
#pragma unroll
    for (int v = 0; v < V; v++) sums[r][0][v] = epilogue.act.value(sums[r][0][v] * d[v] + (noise + b[v]));
  }
}

// The outputs of a tile in shared memory, transposed for a contiguous image: a row of pixels per channel, in groups of
// V pixels. The groups are permuted, so that neither threads that write channels nor threads that read rows conflict in
// a bank.
template <int V>
struct TransposedTile {
  int log_pixels, mask;

  HSR_DEVICE explicit TransposedTile(const ChannelTiles& t, int log_below) {
    log_pixels = t.log_x + t.log_y + log_below;
    mask = (1 << log_pixels) / V - 1;
    if (mask < 0) mask = 0;
  }
  // Returns the index of an output in shared memory.
  HSR_DEVICE int index(int channel, int pixel) const {
    return (channel << log_pixels) + (((pixel / V) ^ (channel / V & mask)) * V + pixel % V);
  }
};

// Copies the rows of a transposed tile to the image, W pixels at a time.
template <class S, int W, class T, int N>
HSR_DEVICE void write_rows(T* y, const ChannelTiles& t, const ChannelPlace<S>& place, Shared<T, N>& tile,
                           const TransposedTile<S::vector>& transposed) {
  const FirImage& image = t.image;
  const int size = image.oh * image.ow;
  T* origin = y + (int64_t(place.sample) * t.c + place.channel) * size;
  const int total = (S::vector << (t.log_c + transposed.log_pixels)) / W;
#pragma unroll 1
  for (int item = thread_index(); item < total; item += t.threads) {
    const int channel = item * W >> transposed.log_pixels, pixel = item * W & ((1 << transposed.log_pixels) - 1);
    const int row = place.row + (pixel >> t.log_x), column = place.column + (pixel & ((1 << t.log_x) - 1));
    if (place.channel + channel >= t.c || row >= image.oh || column >= image.ow) continue;
    const Pack<T, W> pack = shared_load<W>(tile, transposed.index(channel, pixel));
    store(reinterpret_cast<Pack<T, W>*>(origin + (int64_t(channel) * size + (row * image.ow + column))), pack);
  }
}

template <class S, class T, int N>
HSR_DEVICE void write_transposed(T* y, const ChannelTiles& t, const ChannelPlace<S>& place, bool vector_writes,
                                 Shared<T, N>& tile, const float (&sums)[S::below][S::across][S::vector]) {
  constexpr int V = S::vector;
  const TransposedTile<V> transposed(t, 2);
  sync();
#pragma unroll
  for (int r = 0; r < S::below; r++)
#pragma unroll
    for (int v = 0; v < V; v++) {
      const int pixel = ((place.y * S::below + r) << t.log_x) + place.x;
      tile[transposed.index(place.lane * V + v, pixel)] = narrow(sums[r][0][v], T{});
    }
  sync();
  if (vector_writes) {
    write_rows<S, V>(y, t, place, tile, transposed);
  } else {
    write_rows<S, 1>(y, t, place, tile, transposed);
  }
}

template <class T, class F, class S = ChannelShape<T, F>>
HSR_KERNEL_OF(S::threads, (sizeof(T) == 4 ? 2 : 0))
modulated_conv2d_fir_epilogue_kernel(const T* x, T* y, FirTaps filter, bool separable, Epilogue epilogue,
                                     ChannelTiles t, bool channels_last, bool vector_writes) {
  static_assert(S::across == 1 && S::below == 4, "a thread has 1 column and 4 rows of a transposed tile");
  HSR_SHARED(T, S::staged * S::vector, tile);
  HSR_SHARED(float, F::square, taps);
  const ChannelPlace<S> place(t);
  float sums[S::below][S::across][S::vector];
  filter_tile<S, F>(x, filter, separable, t, place, tile, taps, sums);
  apply_epilogue(epilogue, t, place, sums);
  if (channels_last) {
    write_channels(y, t, place, vector_writes, tile, sums);
  } else {
    write_transposed(y, t, place, vector_writes, tile, sums);
  }
}

Epilogue epilogue_of(const ModulatedConv2dEpilogueParams& p) {
  return {static_cast<const float*>(p.d), static_cast<const float*>(p.noise), static_cast<const float*>(p.b),
          p.noise_stride, PiecewiseLinear<float>(p.act)};
}

template <class T>
void launch_fused(const ModulatedConv2dEpilogueParams& p, const Stream& stream) {
  const Upfirdn2dParams& fir = *p.fir;
  using F = Fir<1, 1, 4>;
  using S = ChannelShape<T, F>;
  const ChannelTiles t(fir, ChannelCut::make<S, F>());
  require(fir.h * fir.w > 0, "the image that a layer filters is empty");
  require(axes_fit_int32(fir) && t.fits_int32(F::up) && p.h * p.w < kMaxInt32Elements,
          "the image is too large for the epilogue's tiles");
  const bool channels_last = p.layout == Layout::nhwc;
  // Rows are written in vectors where a tile, a power of 2 wide, has a vector's width.
  const bool vectors = channels_last ? t.c % S::vector == 0 : p.w % S::vector == 0 && 1 << t.log_x >= S::vector;
  launch("modulated_conv2d_fir_epilogue", modulated_conv2d_fir_epilogue_kernel<T, F>, stream, t.blocks, t.threads,
         static_cast<const T*>(fir.x), static_cast<T*>(p.out), fir.filter, fir.separable, epilogue_of(p), t,
         channels_last, vectors && aligned(p.out));
}

// ---- Images that were filtered before ----

constexpr int kThreads = 256;

// Threads take one element each, in the order in which y lies in memory.
HSR_KERNEL(kThreads)
modulated_conv2d_filtered_epilogue_kernel(const float* z, void* y, Epilogue epilogue, int c, int hw, bool channels_last,
                                          DType dtype, Divisor blocks, Divisor inner_size) {
  int block = int(block_index());
  const int64_t element = int64_t(blocks.divide(block)) * kThreads + thread_index();
  if (element >= int64_t(c) * hw) return;
  int outer = int(element);
  const int inner = inner_size.divide(outer), channel = channels_last ? inner : outer,
            pixel = channels_last ? outer : inner;
  const int64_t sample = int64_t(block) * c * hw;
  const float d = epilogue.d ? load(epilogue.d + (int64_t(block) * c + channel)) : 1.0f;
  const float noise = epilogue.noise ? load(epilogue.noise + (block * epilogue.noise_stride + pixel)) : 0.0f;
  const float b = epilogue.b ? load(epilogue.b + channel) : 0.0f;
  const float value = load(z + (sample + int64_t(pixel) * c + channel));
  store_as(dtype, y, sample + element, epilogue.act.value(value * d + (noise + b)));
}

void launch_epilogue_only(const ModulatedConv2dEpilogueParams& p, const Stream& stream) {
  const bool channels_last = p.layout == Layout::nhwc;
  const int64_t hw = p.h * p.w, blocks = ceil_div(p.c * hw, kThreads);
  require(p.c * hw < 2 * kMaxInt32Elements, "an image of a layer has more than 2^31 elements");
  launch("modulated_conv2d_filtered_epilogue", modulated_conv2d_filtered_epilogue_kernel, stream, blocks * p.n,
         kThreads, static_cast<const float*>(p.fir->x), p.out, epilogue_of(p), int(p.c), int(hw), channels_last,
         p.dtype, Divisor(blocks), Divisor(channels_last ? p.c : hw));
}

}  // namespace

template <class T>
void launch_modulated_conv2d_fir_epilogue(const ModulatedConv2dEpilogueParams& p, const Stream& stream) {
  const Upfirdn2dParams& fir = *p.fir;
  if (p.n * p.c * p.h * p.w == 0) return;
  const bool same_size = fir.up_x == 1 && fir.up_y == 1 && fir.down_x == 1 && fir.down_y == 1;
  if (same_size && fir.taps_x == 4 && fir.taps_y == 4 && fir.dtype == p.dtype) {
    launch_fused<T>(p, stream);
  } else {
    require(!fir.filter.f && fir.dtype == DType::float32 && fir.h == p.h && fir.w == p.w && fir.pad_x == 0 &&
                fir.pad_y == 0,
            "the epilogue is fused with 4 x 4 taps at the same size, or comes after the filter");
    launch_epilogue_only(p, stream);
  }
}

HSR_INSTANTIATE(launch_modulated_conv2d_fir_epilogue, ModulatedConv2dEpilogueParams);

}  // namespace cuda
}  // namespace hsr
