// SPDX-License-Identifier: Apache-2.0
// Errors of the native layer: one sentence, raised in Python as RuntimeError.
#pragma once

#include <stdexcept>
#include <string>

namespace hsr {

inline void require(bool condition, const char* sentence) {
  if (!condition) throw std::runtime_error(std::string("hsr_kernels: ") + sentence);
}

}  // namespace hsr
