// SPDX-License-Identifier: Apache-2.0
// The arithmetic of a modulated convolution's epilogue, y = clamp(act(z * d + added) * gain), and of its inverse.
#pragma once

#include <cmath>
#include <limits>

#include "hsr/host_device.h"
#include "hsr/params.h"

namespace hsr {

// What is told from an output y. Where the slope is 0 (clamped, ReLU below 0) the rest is finite and never matters.
template <class A>
struct Inverted {
  A slope;    // dy/dpre
  A pre;      // what the activation was applied to: z * d + added
  A inverse;  // dpre/dy
};

// The activations of the epilogue are piecewise linear: gain above zero, gain * alpha below. A: float or double.
template <class A>
struct PiecewiseLinear {
  A alpha, gain, clamp, inv_gain, inv_alpha, lowest;

  explicit PiecewiseLinear(const ActivationParams& p) {
    alpha = p.act == 0 ? A(1) : p.act == 1 ? A(0) : A(p.alpha);
    gain = A(p.gain);
    clamp = A(p.clamp < 0 ? INFINITY : p.clamp);
    inv_gain = A(1 / p.gain);
    inv_alpha = alpha == A(0) ? A(0) : A(1) / alpha;
    lowest = alpha == A(0) ? std::numeric_limits<A>::lowest() : -INFINITY;  // 0 times infinity would be NaN
  }

  // Of NaN it is NaN.
  HSR_HD A value(A pre) const {
    pre = pre < lowest ? lowest : pre;
    const A y = (pre > A(0) ? pre : pre * alpha) * gain;
    const A below = y > clamp ? clamp : y;
    return below < -clamp ? -clamp : below;
  }

  HSR_HD Inverted<A> invert(A y) const {
    const A t = y * inv_gain, magnitude = y < A(0) ? -y : y;
    const A slope = t > A(0) ? gain : gain * alpha, inverse = t > A(0) ? A(1) : inv_alpha;
    return {magnitude < clamp ? slope : A(0), t * inverse, inverse * inv_gain};
  }
};

}  // namespace hsr
