// SPDX-License-Identifier: Apache-2.0
// The 16-bit storage types and their conversion to and from float: to nearest, ties to even.
#pragma once

#include <cstdint>
#include <cstring>

#include "hsr/host_device.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#elif defined(__F16C__)
#include <immintrin.h>
#endif

namespace hsr {

struct half {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};

template <class T>
constexpr bool is_half = false;
template <>
constexpr bool is_half<half> = true;

HSR_HD float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
HSR_HD uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

HSR_HD float widen(float v) { return v; }
HSR_HD float narrow(float v, float) { return v; }
HSR_HD double narrow(double v, double) { return v; }

HSR_HD float widen(bfloat16 v) { return bits_to_float(uint32_t(v.bits) << 16); }

#if defined(__CUDA_ARCH__)

HSR_HD bfloat16 narrow(float v, bfloat16) { return {__bfloat16_as_ushort(__float2bfloat16_rn(v))}; }
HSR_HD float widen(half v) { return __half2float(__ushort_as_half(v.bits)); }
HSR_HD half narrow(float v, half) { return {__half_as_ushort(__float2half_rn(v))}; }

#else

HSR_HD bfloat16 narrow(float v, bfloat16) {
  const uint32_t bits = float_to_bits(v);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return {uint16_t(v != v ? 0x7fc0u : rounded)};
}

#if defined(__F16C__)
HSR_HD float widen(half v) { return _cvtsh_ss(v.bits); }
HSR_HD half narrow(float v, half) { return {uint16_t(_cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT))}; }
#else
HSR_HD float widen(half v) {
  const uint32_t sign = uint32_t(v.bits & 0x8000u) << 16, magnitude = v.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  // The bits are read as a float of exponent bias 15, then rescaled by 2^112: exact, also for subnormals.
  return bits_to_float(sign | float_to_bits(bits_to_float(magnitude << 13) * 0x1p112f));
}
HSR_HD half narrow(float v, half) {
  const uint32_t bits = float_to_bits(v), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {uint16_t(sign | 0x7e00u)};
  // 65520 and above round to infinity.
  if (magnitude >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)};
  // Below 2^-14 numbers are subnormal, in steps of 2^-24.
  if (magnitude < 0x38800000u) {
    const float steps = bits_to_float(magnitude) * 0x1p24f;
    const float rounded = (steps + 8388608.0f) - 8388608.0f;
    return {uint16_t(sign | uint32_t(rounded))};
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return {uint16_t(sign | ((rounded - 0x38000000u) >> 13))};
}
#endif

#endif  // __CUDA_ARCH__

}  // namespace hsr
