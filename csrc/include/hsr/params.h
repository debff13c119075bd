// SPDX-License-Identifier: Apache-2.0
// One plain struct per operator: what Python passes, what every kernel reads.
#pragma once

#include <cstdint>

namespace hsr {

// Storage types; the numbers are shared with hsr_kernels/_registry.py. half and bfloat16 accumulate in float.
enum class DType : int { float32 = 0, float16 = 1, bfloat16 = 2, float64 = 3 };

// Memory order of a 4-D image tensor.
enum class Layout : int { nchw = 0, nhwc = 1 };

struct ActivationParams {
  int act;       // Act in activation.h
  double alpha;  // slope below zero (lrelu)
  double gain;   // factor after the activation
  double clamp;  // limit of the output's magnitude; negative: none
};

// A dense tensor seen as [outer, channels, inner] in memory order, the bias running along `channels`.
struct BiasActParams {
  const void* x;    // forward: input
  const void* b;    // [channels] or null
  const void* ref;  // backward: output, or input where from_output is false
  const void* dy;   // backward: gradient of the output
  const void* ddx;  // second order: gradient of dx
  void* y;          // forward: output; backward: dx; second order: gradient of dy
  void* dref;       // second order: gradient of ref
  double* db;       // backward on the CPU: [channels] sum of dx, or null
  float* partial;   // backward on a GPU: its partial sums, or null
  int64_t outer, channels, inner;
  bool from_output;
  DType dtype;
  ActivationParams act;
};

// A filter that stays in a GPU's memory. As a correlation its tap (y, x) is f[start + y * step_y + x * step_x]; where
// it is separable, f[start + y * step_y] * f[start + x * step_x].
struct FirTaps {
  const float* f;  // null: one tap of 1
  int start, step_y, step_x;
  float gain;
};

// Images [n, c, h, w] -> [n, c, oh, ow].
struct UpfirdnParams {
  const void* x;
  void* y;
  const double* taps;  // on the CPU: [taps_y, taps_x] as a correlation with the gain; fy, then fx where separable
  FirTaps filter;      // on a GPU
  int taps_x, taps_y;
  bool separable;
  int64_t n, c, h, w, oh, ow;
  int up_x, up_y, down_x, down_y;
  int64_t pad_x, pad_y;  // before the image, on the zero-inserted grid
  Layout layout;
  DType dtype;    // of x
  DType y_dtype;  // on a GPU, of y: the same, or one of them is float32, between two passes
};

// The epilogue of a modulated convolution: y = clamp(act(z * d + noise + b) * gain); z is nhwc.
// z has the size [n, h, w, c]; where `fir` is given, z is its output rather than its input.
struct EpilogueParams {
  const UpfirdnParams* fir;  // filters z's source on the way, or null
  const void* z;             // forward without fir: [n, h, w, c]; second order: gradient of dz
  const void* d;             // [n, c] accumulation type, or null: 1
  const void* noise;         // [n or 1, h, w] accumulation type, or null
  const void* b;             // [c] accumulation type, or null
  const void* y;             // backward: the output
  const void* dy;            // backward: gradient of the output
  void* out;                 // forward: y; backward: dz (nhwc); second order: gradient of dy
  double* dd;                // backward: [n, c] or null
  double* db;                // backward: [c] or null
  void* dnoise;              // backward: [n, h, w] accumulation type, or null; second order: gradient of noise
  const void* ratio;         // second order: [n, c] gradient of dd over d
  const void* ddnoise;       // second order: [n, h, w] gradient of dnoise, or null
  const void* ddb;           // second order: [c] gradient of db
  void* gy;                  // second order: gradient of y
  double* sums;              // second order: [3, n, c] sums of ddz * dpre, dpre * z * d and dpre
  float* partial;            // on a GPU: partial sums [kinds, n, parts, c]: dd and db, or the three of `sums`
  int64_t n, c, h, w;
  int64_t noise_stride;  // between samples: h * w or 0
  Layout layout;         // of y and dy
  DType dtype;
  ActivationParams act;  // linear, relu or lrelu with alpha >= 0
};

// u = x * s: images [n, c, hw] of a layout times [n, c], written nhwc.
struct ScaleParams {
  const void* x;
  const void* s;   // [n, c] accumulation type
  const void* du;  // backward: [n, hw, c]
  void* out;       // forward: u (nhwc); backward: dx (layout of x)
  double* ds;      // backward on the CPU: [n, c] or null
  float* partial;  // backward on a GPU: ds in partial sums [n, parts, c]
  int64_t n, c, hw;
  Layout layout;  // of x and dx
  DType dtype;
};

// What a demodulating layer computes from its parameters: d = rsqrt(sum over c and k of (weight * styles)^2 + 1e-8).
struct DemodulationParams {
  const void* weight;  // [o, c, k], or [o, k, c] where it is channels_last
  const void* styles;  // [n, c]
  void* w;             // weight in `dtype`, or null
  float* s;            // [n, c] styles, or null
  float* d;            // [n, o]
  int64_t n, o, c, k;
  bool prescale;       // by their largest magnitudes, which d cancels, weight and styles first
  bool flip;           // w's taps in reverse
  bool weight_last;    // weight is channels_last
  bool channels_last;  // w is to be
  DType weight_dtype, styles_dtype, dtype;
};

// The hidden layer of the HSR loss, a block of k rows at a time: relu(z + b) * gain, area-pooled from h x w to t x t.
struct FeaturePoolParams {
  void* z;        // [k, h * w]: forward: pre-activation less bias; backward: written with its gradient
  const void* b;  // forward: [k]
  void* pooled;   // [k, th * tw]: forward: output; backward: its gradient
  uint8_t* mask;  // [k, ceil(h * w / 8)]: one bit per element, set where the ReLU passes
  double* db;     // backward: [k], added to
  int64_t k, h, w, th, tw;
  double gain;
  DType dtype;  // float32 or float64
};

// c [m, n] = a [m, k] @ b [k, n], or added to, for each of a batch; strides are in elements.
struct MatmulParams {
  const void *a, *b;
  void* c;  // columns lie next to each other
  int64_t batch, m, n, k;
  int64_t a_batch, a_row, a_column, b_batch, b_row, b_column, c_batch, c_row;
  bool add;
  DType dtype;  // float32 or float64
};

}  // namespace hsr
