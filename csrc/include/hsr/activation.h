// SPDX-License-Identifier: Apache-2.0
// The activations: value, slope and curvature, for host and device.
#pragma once

#include <cmath>

#include "hsr/host_device.h"
#include "hsr/params.h"

namespace hsr {

// The numbers of an activation in the accumulation type A: float or double.
template <class A>
struct ActivationNumbers {
  A alpha, gain, clamp, inv_gain;

  explicit ActivationNumbers(const ActivationParams& p)
      : alpha(A(p.alpha)), gain(A(p.gain)), clamp(A(p.clamp < 0 ? INFINITY : p.clamp)), inv_gain(A(1 / p.gain)) {}
};

// Values, slopes and curvatures include gain and clamp; where the output has the magnitude of the clamp, slopes are 0.
template <class A, Act act>
struct Activation : ActivationNumbers<A> {
  using ActivationNumbers<A>::alpha;
  using ActivationNumbers<A>::gain;
  using ActivationNumbers<A>::clamp;
  using ActivationNumbers<A>::inv_gain;

  explicit Activation(const ActivationParams& p) : ActivationNumbers<A>(p) {}
  HSR_HD explicit Activation(const ActivationNumbers<A>& numbers) : ActivationNumbers<A>(numbers) {}

  static constexpr A selu_scale = A(1.0507009873554804934193349852946);
  static constexpr A selu_alpha = A(1.6732632423543772848170429916717);
  // PyTorch's softplus is the identity above this.
  static constexpr A softplus_threshold = A(20);

  HSR_HD static A logistic(A x) { return A(1) / (A(1) + std::exp(-x)); }

  // act(x), before gain and clamp.
  HSR_HD A raw(A x) const {
    // The comparison is false for NaN, which thus stays NaN.
    if constexpr (act == Act::relu) return x <= A(0) ? A(0) : x;
    if constexpr (act == Act::lrelu) return x > A(0) ? x : x * alpha;
    if constexpr (act == Act::tanh) return std::tanh(x);
    if constexpr (act == Act::sigmoid) return logistic(x);
    if constexpr (act == Act::elu) return x > A(0) ? x : std::expm1(x);
    if constexpr (act == Act::selu) return selu_scale * (x > A(0) ? x : selu_alpha * std::expm1(x));
    if constexpr (act == Act::softplus) return x > softplus_threshold ? x : std::log1p(std::exp(x));
    if constexpr (act == Act::swish) return x * logistic(x);
    return x;
  }

  HSR_HD A limit(A y) const {
    y = y > clamp ? clamp : y;
    return y < -clamp ? -clamp : y;
  }

  HSR_HD A value(A x) const { return limit(raw(x) * gain); }

  HSR_HD bool passes(A y) const { return y < clamp && y > -clamp; }

  // act'(x), computed from t = act(x).
  HSR_HD A raw_slope(A t) const {
    if constexpr (act == Act::relu) return t > A(0) ? A(1) : A(0);
    if constexpr (act == Act::lrelu) return t > A(0) ? A(1) : alpha;
    if constexpr (act == Act::tanh) return A(1) - t * t;
    if constexpr (act == Act::sigmoid) return t * (A(1) - t);
    if constexpr (act == Act::elu) return t > A(0) ? A(1) : t + A(1);
    if constexpr (act == Act::selu) return t > A(0) ? selu_scale : t + selu_scale * selu_alpha;
    if constexpr (act == Act::softplus) return t > softplus_threshold ? A(1) : -std::expm1(-t);
    return A(1);
  }

  // Derivative of raw_slope with respect to t.
  HSR_HD A raw_curvature(A t) const {
    if constexpr (act == Act::tanh) return A(-2) * t;
    if constexpr (act == Act::sigmoid) return A(1) - A(2) * t;
    if constexpr (act == Act::elu || act == Act::selu) return t > A(0) ? A(0) : A(1);
    if constexpr (act == Act::softplus) return t > softplus_threshold ? A(0) : std::exp(-t);
    return A(0);
  }

  // dy/dx, computed from the output y.
  HSR_HD A slope_from_output(A y) const { return passes(y) ? gain * raw_slope(y * inv_gain) : A(0); }

  // Derivative of slope_from_output with respect to y.
  HSR_HD A curvature_from_output(A y) const { return passes(y) ? raw_curvature(y * inv_gain) : A(0); }

  // dy/dx, computed from the input x.
  HSR_HD A slope_from_input(A x) const {
    const A t = raw(x);
    if (!passes(t * gain)) return A(0);
    if constexpr (act == Act::swish) {
      const A s = logistic(x);
      return gain * s * (A(1) + x * (A(1) - s));
    }
    if constexpr (act == Act::lrelu) return gain * (x > A(0) ? A(1) : alpha);
    return gain * raw_slope(t);
  }

  // Derivative of slope_from_input with respect to x.
  HSR_HD A curvature_from_input(A x) const {
    const A t = raw(x);
    if (!passes(t * gain)) return A(0);
    if constexpr (act == Act::swish) {
      const A s = logistic(x);
      return gain * s * (A(1) - s) * (A(2) + x * (A(1) - A(2) * s));
    }
    return gain * raw_curvature(t) * raw_slope(t);
  }

  // The same two, computed from the tensor that a backward keeps: the output or the input.
  template <bool from_output>
  HSR_HD A slope_from(A ref) const {
    if constexpr (from_output) return slope_from_output(ref);
    return slope_from_input(ref);
  }
  template <bool from_output>
  HSR_HD A curvature_from(A ref) const {
    if constexpr (from_output) return curvature_from_output(ref);
    return curvature_from_input(ref);
  }
};

// An activation, and whether its backward computes slopes from the output or from the input.
template <Act act_, bool from_output_>
struct Kind {
  static constexpr Act act = act_;
  static constexpr bool from_output = from_output_;
};

// Calls f with the Kind of an activation. The slopes of swish, and of lrelu with a negative alpha, are computed from
// the input; those of all others from the output.
template <class F>
HSR_HD void with_activation(Act act, bool from_output, F&& f) {
  switch (act) {
    case Act::linear:
      return f(Kind<Act::linear, true>{});
    case Act::relu:
      return f(Kind<Act::relu, true>{});
    case Act::lrelu:
      return from_output ? f(Kind<Act::lrelu, true>{}) : f(Kind<Act::lrelu, false>{});
    case Act::tanh:
      return f(Kind<Act::tanh, true>{});
    case Act::sigmoid:
      return f(Kind<Act::sigmoid, true>{});
    case Act::elu:
      return f(Kind<Act::elu, true>{});
    case Act::selu:
      return f(Kind<Act::selu, true>{});
    case Act::softplus:
      return f(Kind<Act::softplus, true>{});
    case Act::swish:
      return f(Kind<Act::swish, false>{});
  }
}

}  // namespace hsr
