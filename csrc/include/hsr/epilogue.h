// SPDX-License-Identifier: Apache-2.0
// The arithmetic of a modulated convolution's epilogue, y = clamp(act(z * d + offset) * gain), and of its inverse; the
// offset is noise plus bias.
#pragma once

#include <cmath>
#include <limits>

#include "hsr/host_device.h"
#include "hsr/params.h"

namespace hsr {

// What is recovered from an output y. Where the slope is 0 (clamped, or ReLU below 0) the other two are finite and have
// no influence.
template <class A>
struct Inverted {
  // dy/dpre.
  A slope;
  // The activation's input, z * d + offset.
  A pre;
  // dpre/dy.
  A inverse_slope;
};

inline bool is_piecewise_linear(const ActivationParams& p) {
  return p.act == Act::linear || p.act == Act::relu || (p.act == Act::lrelu && p.alpha >= 0);
}

// The activations of the epilogue are piecewise linear: gain above zero, gain * alpha below. A: float or double.
template <class A>
struct PiecewiseLinear {
  A alpha, gain, clamp, inv_gain, inv_alpha, min_pre;

  explicit PiecewiseLinear(const ActivationParams& p) {
    alpha = p.act == Act::linear ? A(1) : p.act == Act::relu ? A(0) : A(p.alpha);
    gain = A(p.gain);
    clamp = A(p.clamp < 0 ? INFINITY : p.clamp);
    inv_gain = A(1 / p.gain);
    inv_alpha = alpha == A(0) ? A(0) : A(1) / alpha;
    // With alpha 0 an infinite `pre` would give NaN.
    min_pre = alpha == A(0) ? std::numeric_limits<A>::lowest() : -INFINITY;
  }

  // The value of NaN is NaN.
  HSR_HD A value(A pre) const {
    pre = pre < min_pre ? min_pre : pre;
    const A y = (pre > A(0) ? pre : pre * alpha) * gain;
    const A limited = y > clamp ? clamp : y;
    return limited < -clamp ? -clamp : limited;
  }

  HSR_HD Inverted<A> invert(A y) const {
    const A t = y * inv_gain, magnitude = y < A(0) ? -y : y;
    const A slope = t > A(0) ? gain : gain * alpha, inverse = t > A(0) ? A(1) : inv_alpha;
    return {magnitude < clamp ? slope : A(0), t * inverse, inverse * inv_gain};
  }
};

}  // namespace hsr
