// SPDX-License-Identifier: Apache-2.0
// The launchers of the CUDA kernels. The file that defines a launcher instantiates it for each storage type T, which is
// that of the parameters' dtype.
#pragma once

#include <cstdint>
#include <string>

#include "hsr/params.h"
#include "hsr/storage.h"

namespace hsr {
namespace cuda {

// The tensors' device, and one of its streams.
struct Stream {
  int device;
  uintptr_t handle;
};

// Return the reason why kernels can't run on this machine, or on one of its devices; empty if they can.
std::string problem();
std::string problem_of(int device);
// Returns what the kernels were compiled for.
const char* architectures();

// The size of the float32 sums of single blocks: [rows, columns], to be added up over rows.
struct PartialSums {
  int64_t rows, columns;
};

template <class T>
void launch_bias_act(const BiasActParams&, const Stream&);
template <class T>
void launch_bias_act_bwd(const BiasActParams&, const Stream&);
template <class T>
void launch_bias_act_bwd_bwd(const BiasActParams&, const Stream&);
// Returns the size of the partial sums of a backward with a gradient of the bias. Column i belongs to channel
// i % channels.
PartialSums bias_act_bwd_sums(int64_t outer, int64_t channels, int64_t inner, DType);

template <class T>
void launch_upfirdn2d(const Upfirdn2dParams&, const Stream&);
// Takes filters of 4 x 4 taps at the same size, or of a single tap on a float32 image.
template <class T>
void launch_modulated_conv2d_fir_epilogue(const ModulatedConv2dEpilogueParams&, const Stream&);

template <class T>
void launch_scale_channels(const ScaleChannelsParams&, const Stream&);
template <class T>
void launch_scale_channels_bwd(const ScaleChannelsParams&, const Stream&);
template <class T>
void launch_modulated_conv2d_epilogue(const ModulatedConv2dEpilogueParams&, const Stream&);
template <class T>
void launch_modulated_conv2d_epilogue_bwd(const ModulatedConv2dEpilogueParams&, const Stream&);
template <class T>
void launch_modulated_conv2d_epilogue_bwd_bwd(const ModulatedConv2dEpilogueParams&, const Stream&);
// The size of the partial sums of the backwards of these operators: per channel [kinds, n, parts, c], per pixel
// [channel_blocks, n, h * w].
struct TileSums {
  int64_t parts, channel_blocks;
};
TileSums tile_sums(int64_t n, int64_t c, int64_t hw);

void launch_demodulation(const DemodulationParams&, const Stream&);
void launch_demodulation_bwd(const DemodulationBwdParams&, const Stream&);

}  // namespace cuda
}  // namespace hsr
