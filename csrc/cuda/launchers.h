// SPDX-License-Identifier: Apache-2.0
// The launchers of the CUDA kernels, one file of kernels per operator, which instantiates them for the storage types T
// of p.dtype.
#pragma once

#include <cstdint>
#include <string>

#include "hsr/params.h"
#include "hsr/storage.h"

namespace hsr {
namespace cuda {

// Where to launch: the tensors' device, and a stream of it.
struct Stream {
  int device;
  uintptr_t handle;
};

// Why kernels can't run on this machine, or on one of its devices; empty where they can.
std::string problem();
std::string problem_of(int device);
// What the kernels were compiled for.
const char* architectures();

// Float32 sums that blocks keep apart: [rows, columns], to be added up over rows.
struct PartialSums {
  int64_t rows, columns;
};

template <class T>
void launch_bias_act(const BiasActParams&, const Stream&);
template <class T>
void launch_bias_act_bwd(const BiasActParams&, const Stream&);
template <class T>
void launch_bias_act_bwd_bwd(const BiasActParams&, const Stream&);
// Of the backward with a gradient of the bias; the columns are those of the channels, over and over.
PartialSums bias_act_bwd_sums(int64_t outer, int64_t channels, int64_t inner, DType);

template <class T>
void launch_upfirdn2d(const Upfirdn2dParams&, const Stream&);
// Of 4 x 4 taps at the same size; or of a single one, of a float32 image.
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
// Of these three's backwards: sums per channel are [kinds, n, parts, c], sums per pixel [channel_blocks, n, h * w].
struct TileSums {
  int64_t parts, channel_blocks;
};
TileSums tile_sums(int64_t n, int64_t c, int64_t hw);

void launch_demodulation(const DemodulationParams&, const Stream&);

}  // namespace cuda
}  // namespace hsr
