// SPDX-License-Identifier: Apache-2.0
// What the bindings of both extensions share.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <tuple>

#include "hsr/error.h"
#include "hsr/params.h"

namespace hsr {

// The address of a tensor's first element, or 0 for an absent tensor.
using Address = uintptr_t;

// The code of an activation, alpha, gain and clamp.
using ActivationTuple = std::tuple<int, double, double, double>;

// The sentence for a tensor without storage: an error here rather than a crash in a kernel.
constexpr const char* kNoMemory = "a tensor has no memory (is it a fake or meta tensor?)";

inline ActivationParams activation_params(const ActivationTuple& activation) {
  const auto [code, alpha, gain, clamp] = activation;
  require(code >= 0 && code < kActivationCount, "unknown activation code");
  return {Act(code), alpha, gain, clamp};
}

// The names of the activations, in the order of their codes.
inline pybind11::tuple activations() {
  pybind11::tuple names(kActivationCount);
  for (int code = 0; code < kActivationCount; code++) names[size_t(code)] = kActivationNames[code];
  return names;
}

}  // namespace hsr
