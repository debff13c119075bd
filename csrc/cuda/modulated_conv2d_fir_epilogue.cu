// SPDX-License-Identifier: Apache-2.0
// A FIR with the epilogue of a modulated layer in its stores: y = clamp(act(fir(x) * d + noise + b) * gain).
//
// In the networks it is the filter after a transposed convolution, 4 x 4 taps at the same size. Any other has been
// applied before, to a float32 image that is only finished here. x is channels_last, y either.
#include "fir_tile.h"
#include "hsr/epilogue.h"
#include "hsr/error.h"
#include "launchers.h"

namespace hsr {
namespace cuda {
namespace {

struct Finish {
  const float *d, *noise, *b;  // null: absent
  int64_t noise_stride;
  PiecewiseLinear<float> act;
};

// y = clamp(act(z * d + noise + b) * gain) for a thread's outputs.
template <class S>
HSR_DEVICE void finish(const Finish& e, const ChannelTiles& t, const ChannelPlace<S>& at,
                       float (&sums)[S::below][S::across][S::vector]) {
  constexpr int V = S::vector;
  const FirImage& image = t.image;
  float d[V], b[V];
#pragma unroll
  for (int v = 0; v < V; v++) {
    const int channel = at.channel + at.lane * V + v;
    d[v] = e.d && channel < t.c ? load(e.d + (int64_t(at.sample) * t.c + channel)) : 1.0f;
    b[v] = e.b && channel < t.c ? load(e.b + channel) : 0.0f;
  }
  const int column = at.column + at.x;
#pragma unroll
  for (int r = 0; r < S::below; r++) {
    const int row = at.row + at.y * S::below + r;
    float noise = 0;
    if (e.noise && row < image.oh && column < image.ow)
      noise = load(e.noise + (at.sample * e.noise_stride + int64_t(row) * image.ow + column));
#pragma unroll
    for (int v = 0; v < V; v++) sums[r][0][v] = e.act.value(sums[r][0][v] * d[v] + (noise + b[v]));
  }
}

// Where the outputs of a tile stand in shared memory on their way to a contiguous image: rows of pixels per channel, in
// blocks of V pixels. Blocks are permuted so that neither those who write channels nor those who read rows meet in a
// bank.
template <int V>
struct Turned {
  int log_pixels, mask;

  HSR_DEVICE explicit Turned(const ChannelTiles& t, int log_below) {
    log_pixels = t.log_x + t.log_y + log_below;
    mask = (1 << log_pixels) / V - 1;
    if (mask < 0) mask = 0;
  }
  HSR_DEVICE int place(int channel, int pixel) const {
    return (channel << log_pixels) + (((pixel / V) ^ (channel / V & mask)) * V + pixel % V);
  }
};

// Reads a turned tile's rows and writes them, `width` pixels at a time.
template <class S, int W, class T, int N>
HSR_DEVICE void write_rows(T* y, const ChannelTiles& t, const ChannelPlace<S>& at, Shared<T, N>& tile,
                           const Turned<S::vector>& turned) {
  const FirImage& image = t.image;
  const int size = image.oh * image.ow;
  T* origin = y + (int64_t(at.sample) * t.c + at.channel) * size;
  const int total = (S::vector << (t.log_c + turned.log_pixels)) / W;
#pragma unroll 1
  for (int item = thread_index(); item < total; item += t.threads) {
    const int channel = item * W >> turned.log_pixels, pixel = item * W & ((1 << turned.log_pixels) - 1);
    const int row = at.row + (pixel >> t.log_x), column = at.column + (pixel & ((1 << t.log_x) - 1));
    if (at.channel + channel >= t.c || row >= image.oh || column >= image.ow) continue;
    const Pack<T, W> pack = shared_load<W>(tile, turned.place(channel, pixel));
    store(reinterpret_cast<Pack<T, W>*>(origin + (int64_t(channel) * size + (row * image.ow + column))), pack);
  }
}

template <class S, class T, int N>
HSR_DEVICE void write_turned(T* y, const ChannelTiles& t, const ChannelPlace<S>& at, bool whole, Shared<T, N>& tile,
                             const float (&sums)[S::below][S::across][S::vector]) {
  constexpr int V = S::vector;
  const Turned<V> turned(t, 2);
  sync();
#pragma unroll
  for (int r = 0; r < S::below; r++)
#pragma unroll
    for (int v = 0; v < V; v++) {
      const int pixel = ((at.y * S::below + r) << t.log_x) + at.x;
      tile[turned.place(at.lane * V + v, pixel)] = narrow(sums[r][0][v], T{});
    }
  sync();
  if (whole) {
    write_rows<S, V>(y, t, at, tile, turned);
  } else {
    write_rows<S, 1>(y, t, at, tile, turned);
  }
}

template <class T, class F, class S = ChannelShape<T, F>>
HSR_KERNEL_OF(S::threads, (sizeof(T) == 4 ? 2 : 0))
modulated_conv2d_fir_epilogue_kernel(const T* x, T* y, FirTaps filter, bool separable, Finish e, ChannelTiles t,
                                     bool last, bool whole) {
  static_assert(S::across == 1 && S::below == 4, "turned tiles are 1 column and 4 rows to a thread");
  HSR_SHARED(T, S::staged * S::vector, tile);
  HSR_SHARED(float, F::square, taps);
  const ChannelPlace<S> at(t);
  float sums[S::below][S::across][S::vector];
  filter_tile<S, F>(x, filter, separable, t, at, tile, taps, sums);
  finish(e, t, at, sums);
  if (last) {
    write_channels(y, t, at, whole, tile, sums);
  } else {
    write_turned(y, t, at, whole, tile, sums);
  }
}

Finish finish_of(const ModulatedConv2dEpilogueParams& p) {
  return {static_cast<const float*>(p.d), static_cast<const float*>(p.noise), static_cast<const float*>(p.b),
          p.noise_stride, PiecewiseLinear<float>(p.act)};
}

template <class T>
void launch_filtered(const ModulatedConv2dEpilogueParams& p, const Stream& stream) {
  const Upfirdn2dParams& fir = *p.fir;
  using F = Fir<1, 1, 4>;
  using S = ChannelShape<T, F>;
  const ChannelTiles t(fir, ChannelCut::of<S, F>());
  require(fir.h * fir.w > 0, "the image that a layer filters is empty");
  require(short_axes(fir) && t.small(F::up) && p.h * p.w < kInt32, "the image is too large for the epilogue's tiles");
  const bool last = p.layout == Layout::nhwc;
  // Rows are written in vectors where a tile, a power of 2 wide, has a vector's width.
  const bool vectors = last ? t.c % S::vector == 0 : p.w % S::vector == 0 && 1 << t.log_x >= S::vector;
  launch("modulated_conv2d_fir_epilogue", modulated_conv2d_fir_epilogue_kernel<T, F>, stream, t.blocks, t.threads,
         static_cast<const T*>(fir.x), static_cast<T*>(p.out), fir.filter, fir.separable, finish_of(p), t, last,
         vectors && aligned(p.out));
}

// ---- Images that have been filtered ----

constexpr int kThreads = 256;

// One element to a thread, in the order in which y lies in memory.
HSR_KERNEL(kThreads)
modulated_conv2d_filtered_epilogue_kernel(const float* z, void* y, Finish e, int c, int hw, bool last, DType dtype,
                                          Divisor blocks, Divisor fastest) {
  int block = int(block_index());
  const int64_t element = int64_t(blocks.split(block)) * kThreads + thread_index();
  if (element >= int64_t(c) * hw) return;
  int slow = int(element);
  const int fast = fastest.split(slow), channel = last ? fast : slow, pixel = last ? slow : fast;
  const int64_t sample = int64_t(block) * c * hw;
  const float d = e.d ? load(e.d + (int64_t(block) * c + channel)) : 1.0f;
  const float noise = e.noise ? load(e.noise + (block * e.noise_stride + pixel)) : 0.0f;
  const float b = e.b ? load(e.b + channel) : 0.0f;
  const float value = load(z + (sample + int64_t(pixel) * c + channel));
  store_as(dtype, y, sample + element, e.act.value(value * d + (noise + b)));
}

void launch_filtered_before(const ModulatedConv2dEpilogueParams& p, const Stream& stream) {
  const bool last = p.layout == Layout::nhwc;
  const int64_t hw = p.h * p.w, blocks = ceil_div(p.c * hw, kThreads);
  require(p.c * hw < 2 * kInt32, "an image of a layer has more than 2^31 elements");
  launch("modulated_conv2d_filtered_epilogue", modulated_conv2d_filtered_epilogue_kernel, stream, blocks * p.n,
         kThreads, static_cast<const float*>(p.fir->x), p.out, finish_of(p), int(p.c), int(hw), last, p.dtype,
         Divisor(blocks), Divisor(last ? p.c : hw));
}

}  // namespace

template <class T>
void launch_modulated_conv2d_fir_epilogue(const ModulatedConv2dEpilogueParams& p, const Stream& stream) {
  const Upfirdn2dParams& fir = *p.fir;
  if (p.n * p.c * p.h * p.w == 0) return;
  const bool same_size = fir.up_x == 1 && fir.up_y == 1 && fir.down_x == 1 && fir.down_y == 1;
  if (same_size && fir.taps_x == 4 && fir.taps_y == 4 && fir.dtype == p.dtype) {
    launch_filtered<T>(p, stream);
  } else {
    require(!fir.filter.f && fir.dtype == DType::float32 && fir.h == p.h && fir.w == p.w && fir.pad_x == 0 &&
                fir.pad_y == 0,
            "the epilogue rides on 4 x 4 taps at the same size, or comes after the filter");
    launch_filtered_before(p, stream);
  }
}

HSR_INSTANTIATE(launch_modulated_conv2d_fir_epilogue, ModulatedConv2dEpilogueParams);

}  // namespace cuda
}  // namespace hsr
