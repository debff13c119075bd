// SPDX-License-Identifier: Apache-2.0
// One plain struct per operator: what Python passes, and what every kernel reads. "Accumulation type" is the type that
// a storage type is computed in: double for float64, float for all others.
#pragma once

#include <cstdint>

namespace hsr {

// Storage types. Their codes are shared with hsr_kernels/_tensors.py.
enum class DType : int { float32 = 0, float16 = 1, bfloat16 = 2, float64 = 3 };

// Memory order of a 4-D image tensor. The codes are shared with hsr_kernels/_tensors.py.
enum class Layout : int { nchw = 0, nhwc = 1 };

// The activations in the order of their codes, X(name) for each. The extensions return these names to Python, where
// hsr_kernels/bias_act/activations.py has to list the same.
#define HSR_ACTIVATIONS(X) X(linear) X(relu) X(lrelu) X(tanh) X(sigmoid) X(elu) X(selu) X(softplus) X(swish)

enum class Act : int {
#define HSR_ENUMERATOR(name) name,
  HSR_ACTIVATIONS(HSR_ENUMERATOR)
#undef HSR_ENUMERATOR
};

constexpr const char* kActivationNames[] = {
#define HSR_NAME(name) #name,
    HSR_ACTIVATIONS(HSR_NAME)
#undef HSR_NAME
};
constexpr int kActivationCount = sizeof(kActivationNames) / sizeof(*kActivationNames);

struct ActivationParams {
  Act act;
  // Slope below zero of lrelu.
  double alpha;
  // Factor after the activation.
  double gain;
  // Limit of the output's magnitude; negative where there is none.
  double clamp;
};

// A dense tensor seen as [outer, channels, inner] in memory order, the bias running along `channels`.
struct BiasActParams {
  // Forward: the input.
  const void* x;
  // [channels], or null.
  const void* b;
  // Backward: the output, or the input where from_output is false.
  const void* ref;
  // Backward: the gradient of the output.
  const void* dy;
  // Second order: the gradient of dx.
  const void* ddx;
  // Forward: the output. Backward: dx. Second order: the gradient of dy.
  void* y;
  // Second order: the gradient of ref.
  void* dref;
  // Backward on the CPU: [channels] sums of dx, or null.
  double* db;
  // Backward on a GPU: partial sums of dx, or null.
  float* partial;
  int64_t outer, channels, inner;
  bool from_output;
  DType dtype;
  ActivationParams act;
};

// A filter in a GPU's memory. As a correlation its tap (y, x) is f[start + y * step_y + x * step_x]; if it is
// separable, f[start + y * step_y] * f[start + x * step_x].
struct FirTaps {
  // Null for a filter of one tap of 1.
  const float* f;
  int start, step_y, step_x;
  float gain;
};

// Images [n, c, h, w] -> [n, c, oh, ow].
struct Upfirdn2dParams {
  const void* x;
  void* y;
  // On the CPU: [taps_y, taps_x] as a correlation that includes the gain; the taps of y, then of x if it is separable.
  const double* taps;
  // On a GPU.
  FirTaps filter;
  int taps_x, taps_y;
  bool separable;
  int64_t n, c, h, w, oh, ow;
  int up_x, up_y, down_x, down_y;
  // Zeros before the image, on the zero-inserted grid.
  int64_t pad_x, pad_y;
  Layout layout;
  // The dtype of x.
  DType dtype;
  // On a GPU, the dtype of y: the same, or one of the two is float32, between two passes.
  DType y_dtype;
};

// Images are upsampled, go through a leaky ReLU with gain and clamp, and are downsampled. The gradient of the input is
// computed likewise: that of the output is upsampled, multiplied by the slopes and downsampled.
struct FilteredLreluParams {
  // `up` has no down and `down` no up. The images between them, of height up.oh and width up.ow, are never in memory.
  Upfirdn2dParams up, down;
  // [c] in the dtype of x, or null.
  const void* b;
  // [n, c, up.oh, 16 * ceil(up.ow / 64)]: two bits per upsampled pixel, whether it is below zero and whether it was
  // clamped; or null where it isn't needed.
  uint8_t* mask;
  // Whether the mask is written, by the leaky ReLU, or read in its place.
  bool writes_mask;
  // [c], the sums of y per channel, or null.
  double* sums;
  // lrelu.
  ActivationParams act;
};

// The epilogue of a modulated convolution: y = clamp(act(z * d + noise + b) * gain). z is nhwc of size [n, h, w, c];
// where `fir` is given, z is the filter's output.
struct ModulatedConv2dEpilogueParams {
  // Filters images to z, or null.
  const Upfirdn2dParams* fir;
  // Forward without fir: [n, h, w, c]. Second order: the gradient of dz.
  const void* z;
  // [n, c] in the accumulation type, or null for 1.
  const void* d;
  // [n or 1, h, w] in the accumulation type, or null.
  const void* noise;
  // [c] in the accumulation type, or null.
  const void* b;
  // Backward: the output.
  const void* y;
  // Backward: the gradient of the output.
  const void* dy;
  // Forward: y. Backward: dz in nhwc. Second order: the gradient of dy.
  void* out;
  // Backward: [n, c], or null.
  double* dd;
  // Backward: [c], or null.
  double* db;
  // Backward: [n, h, w] in the accumulation type, or null. Second order: the gradient of noise.
  void* dnoise;
  // Second order: [n, c], the gradient of dd over d.
  const void* ratio;
  // Second order: [n, h, w], the gradient of dnoise, or null.
  const void* ddnoise;
  // Second order: [c], the gradient of db.
  const void* ddb;
  // Second order: the gradient of y.
  void* gy;
  // Second order: [3, n, c], the sums of ddz * dpre, dpre * z * d and gy * dy/dpre.
  double* sums;
  // On a GPU: partial sums [kinds, n, parts, c] of dd and db, or of the three kinds of `sums`.
  float* partial;
  int64_t n, c, h, w;
  // Between samples: h * w, or 0 where all samples share one map.
  int64_t noise_stride;
  // The layout of y and dy.
  Layout layout;
  DType dtype;
  // linear, relu, or lrelu with alpha >= 0.
  ActivationParams act;
};

// u = x * s: images [n, c, hw] of a layout times [n, c], written in nhwc.
struct ScaleChannelsParams {
  const void* x;
  // [n, c] in the accumulation type.
  const void* s;
  // Backward: [n, hw, c].
  const void* du;
  // Forward: u in nhwc. Backward: dx in the layout of x.
  void* out;
  // Backward on the CPU: [n, c], or null.
  double* ds;
  // Backward on a GPU: partial sums [n, parts, c] of ds.
  float* partial;
  int64_t n, c, hw;
  // The layout of x and dx.
  Layout layout;
  DType dtype;
};

// The parameters of a demodulating layer, which its forward and its backward pass read.
struct DemodulationOperands {
  // [o, c, k], or [o, k, c] if weight_channels_last.
  const void* weight;
  // [n, c].
  const void* styles;
  int64_t n, o, c, k;
  // Divides weight and styles by their largest magnitudes, which cancel in d.
  bool prescale;
  // Reverses the taps of w.
  bool flip;
  bool weight_channels_last;
  // `dtype` is that of w.
  DType weight_dtype, styles_dtype, dtype;
};

// What a demodulating layer computes from its parameters: d = rsqrt(sum over c and k of (weight * styles)^2 + 1e-8).
struct DemodulationParams : DemodulationOperands {
  // The weight in `dtype`, or null.
  void* w;
  // [n, c], the styles in float32, or null.
  float* s;
  // [n, o].
  float* d;
  // Of w.
  bool channels_last;
};

// The gradients of weight and styles; either may be null.
struct DemodulationBwdParams : DemodulationOperands {
  // [n, c] and [n, o]: the styles as the forward pass scaled them, and its coefficients.
  const float *s, *d;
  // [o, c, k] in `dtype`, its taps in the order of w, or null; strides are in elements.
  const void* dw;
  int64_t dw_stride_o, dw_stride_c, dw_stride_k;
  // [n, c] or null, and [n, o].
  const float *ds, *dd;
  // In the dtypes of weight and styles, and in their layouts.
  void *dweight, *dstyles;
  // [o, c], null where dstyles is: memory for the sums over k of weight^2.
  float* energy;
};

// The hidden layer of the HSR loss, a block of k rows at a time: relu(z + b) * gain, area-pooled from h x w to th x tw.
// What a matrix product takes next, pooled and dz, has the operands' dtype, all else its accumulation type.
struct FeaturePoolParams {
  // [k, h * w]. Forward: the pre-activation without its bias, which is overwritten.
  void* z;
  // Backward: [k, h * w], the gradient of z, which is written.
  void* dz;
  // Forward: [k].
  const void* b;
  // [k, th * tw], rows pooled_row elements apart. Forward: the output. Backward: its gradient.
  void* pooled;
  int64_t pooled_row;
  // [k, ceil(h * w / 8)]: one bit per element, set where the ReLU passes.
  uint8_t* mask;
  // Backward: [k], added to.
  double* db;
  int64_t k, h, w, th, tw;
  double gain;
  // Of the operands: float32, float64 or bfloat16.
  DType dtype;
};

// A packed right matrix has its columns and terms (rows) filled up to multiples of these.
constexpr int64_t kPackedColumns = 64, kPackedTerms = 32;

// c [m, n] = a [m, k] @ b [k, n], or added to c; strides are in elements. The packing of b is an operation of its own,
// which reads b and writes c.
struct MatmulParams {
  const void *a, *b;
  // In the accumulation type, the columns next to each other; or the packed b.
  void* c;
  int64_t m, n, k;
  int64_t a_row, a_column, b_row, b_column, c_row;
  bool add, b_is_packed;
  // That of a and b: float32, float64 or bfloat16.
  DType dtype;
};

}  // namespace hsr
