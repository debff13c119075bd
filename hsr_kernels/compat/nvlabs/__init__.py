# SPDX-License-Identifier: Apache-2.0
"""The operators of StyleGAN2-ADA and StyleGAN3 under their own names: torch_utils.ops.

`install()` before the project's imports is all that such a project needs. The modules here have the names and
signatures of the project's own; `impl="ref"` means the reference backend.

bias_act             bias_act, activation_funcs
upfirdn2d            setup_filter, upfirdn2d, filter2d, upsample2d, downsample2d
conv2d_resample      conv2d_resample
conv2d_gradfix       conv2d, conv_transpose2d, no_weight_gradients
grid_sample_gradfix  grid_sample
fma                  fma
filtered_lrelu       filtered_lrelu
custom_ops           get_plugin, which builds nothing
networks             modulated_conv2d of StyleGAN2
networks_stylegan3   modulated_conv2d of StyleGAN3
"""

from ..shims import Shim
from . import (
    bias_act,
    conv2d_gradfix,
    conv2d_resample,
    custom_ops,
    filtered_lrelu,
    fma,
    grid_sample_gradfix,
    networks,
    networks_stylegan3,
    upfirdn2d,
)
from .networks import modulated_conv2d

__all__ = [
    "bias_act",
    "conv2d_gradfix",
    "conv2d_resample",
    "custom_ops",
    "filtered_lrelu",
    "fma",
    "grid_sample_gradfix",
    "install",
    "modulated_conv2d",
    "networks",
    "networks_stylegan3",
    "uninstall",
    "upfirdn2d",
]

_SHIM = Shim(
    {
        "torch_utils.custom_ops": custom_ops,
        "torch_utils.ops.bias_act": bias_act,
        "torch_utils.ops.conv2d_gradfix": conv2d_gradfix,
        "torch_utils.ops.conv2d_resample": conv2d_resample,
        "torch_utils.ops.filtered_lrelu": filtered_lrelu,
        "torch_utils.ops.fma": fma,
        "torch_utils.ops.grid_sample_gradfix": grid_sample_gradfix,
        "torch_utils.ops.upfirdn2d": upfirdn2d,
    }
)


def install() -> None:
    """Has `torch_utils.ops.*` and `torch_utils.custom_ops` be the modules of this package; call it before imports."""
    _SHIM.install()


def uninstall() -> None:
    """Undoes `install` for later imports."""
    _SHIM.uninstall()
