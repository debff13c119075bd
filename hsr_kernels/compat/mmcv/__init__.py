# SPDX-License-Identifier: Apache-2.0
"""The StyleGAN operators of MMCV under their own names: mmcv.ops.

`install()` before the project's imports is all that such a project needs. What else an installed MMCV has in mmcv.ops
stays its own.

bias_act               bias_act
conv2d_gradfix         conv2d, conv_transpose2d
filtered_lrelu         filtered_lrelu
fused_bias_leakyrelu   fused_bias_leakyrelu, FusedBiasLeakyReLU
upfirdn2d              upfirdn2d, filter2d, upsample2d, downsample2d of MMCV 2
upfirdn2d_v1           upfirdn2d of MMCV up to 2.0.0rc4
"""

import re
from importlib import metadata

from ..shims import Family, Shim
from . import bias_act as _bias_act
from . import conv2d_gradfix, upfirdn2d_v1
from . import filtered_lrelu as _filtered_lrelu
from . import fused_bias_leakyrelu as _fused_bias_leakyrelu
from . import upfirdn2d as _upfirdn2d
from .bias_act import bias_act
from .conv2d_gradfix import conv2d, conv_transpose2d
from .filtered_lrelu import filtered_lrelu
from .fused_bias_leakyrelu import FusedBiasLeakyReLU, fused_bias_leakyrelu
from .upfirdn2d import downsample2d, filter2d, upfirdn2d, upsample2d

__all__ = [
    "FusedBiasLeakyReLU",
    "bias_act",
    "conv2d",
    "conv2d_gradfix",
    "conv_transpose2d",
    "downsample2d",
    "filter2d",
    "filtered_lrelu",
    "fused_bias_leakyrelu",
    "install",
    "uninstall",
    "upfirdn2d",
    "upfirdn2d_v1",
    "upsample2d",
]

_OPS = "mmcv.ops"
_family = Family()
_V2 = Shim(
    {
        f"{_OPS}.bias_act": _bias_act,
        f"{_OPS}.conv2d_gradfix": conv2d_gradfix,
        f"{_OPS}.filtered_lrelu": _filtered_lrelu,
        f"{_OPS}.fused_bias_leakyrelu": _fused_bias_leakyrelu,
        f"{_OPS}.upfirdn2d": _upfirdn2d,
    },
    {
        _OPS: {
            "FusedBiasLeakyReLU": FusedBiasLeakyReLU,
            "bias_act": bias_act,
            "conv2d": conv2d,
            "conv_transpose2d": conv_transpose2d,
            "filter2d": filter2d,
            "filtered_lrelu": filtered_lrelu,
            "fused_bias_leakyrelu": fused_bias_leakyrelu,
            "upfirdn2d": upfirdn2d,
            "upsample2d": upsample2d,
        }
    },
)
_V1 = Shim(
    {f"{_OPS}.fused_bias_leakyrelu": _fused_bias_leakyrelu, f"{_OPS}.upfirdn2d": upfirdn2d_v1},
    {
        _OPS: {
            "FusedBiasLeakyReLU": FusedBiasLeakyReLU,
            "fused_bias_leakyrelu": fused_bias_leakyrelu,
            "upfirdn2d": upfirdn2d_v1.upfirdn2d,
        }
    },
)


def install(version: str | None = None) -> None:
    """Has the StyleGAN operators of `mmcv.ops` be those of this package; call it before imports.

    Args:
        version: Of MMCV, whose arguments changed with 2.0.0: "1.7.0", say. By default the one that is installed, or 2.
    """
    _family.install([_V1 if _is_old(version or _installed_version()) else _V2])


def uninstall() -> None:
    """Undoes `install` for later imports."""
    _family.uninstall()


def _installed_version() -> str:
    for distribution in ("mmcv", "mmcv-full", "mmcv-lite"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "2"


def _is_old(version: str) -> bool:
    """Whether a version of MMCV is 2.0.0rc4 or older."""
    if not (found := re.fullmatch(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?(?:rc(\d+))?.*", version)):
        raise ValueError(f"version must be one of MMCV, such as '1.7.0', got {version!r}")
    major, minor, micro = (int(group or 0) for group in found.groups()[:3])
    return major < 2 or ((major, minor, micro) == (2, 0, 0) and found[4] is not None and int(found[4]) <= 4)
