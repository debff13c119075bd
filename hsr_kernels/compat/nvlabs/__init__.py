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
replacements         puts these two into a project's networks, which define them for themselves
"""

from ..shims import Family, Shim
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
from .replacements import replacements

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

PACKAGES = ("torch_utils.ops",)
_family = Family()


def install(*packages: str) -> None:
    """Has `torch_utils.ops.*` and `torch_utils.custom_ops` be the modules of this package; call it before imports.

    Networks that are imported from then on (modules whose names begin with "networks") get `modulated_conv2d` in place
    of their own too, if theirs has the same arguments and computes the same.

    Args:
        packages: The names under which the project imports its operators, where that isn't torch_utils.ops.
    """
    _family.install(_shim(package) for package in packages or PACKAGES)


def uninstall() -> None:
    """Undoes `install` for later imports."""
    _family.uninstall()


def _shim(package: str) -> Shim:
    operators = (
        bias_act, conv2d_gradfix, conv2d_resample, filtered_lrelu, fma, grid_sample_gradfix, upfirdn2d,
    )  # fmt: skip
    modules = {f"{package}.{module.__name__.rpartition('.')[2]}": module for module in operators}
    parent = package.rpartition(".")[0]
    return Shim(
        {**modules, f"{parent}.custom_ops" if parent else "custom_ops": custom_ops},
        watched=("networks",),
        replacements=replacements,
    )
