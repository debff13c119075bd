# SPDX-License-Identifier: Apache-2.0
"""The operators of rosinality's stylegan2-pytorch under their own names.

`install()` before the project's imports is all that such a project needs. Projects have their copy under various
names: op, models.stylegan2.op, face_model.op and ZSSGAN.op are known, and `install` takes others.

fused_act        fused_leaky_relu, FusedLeakyReLU
upfirdn2d        upfirdn2d, whose two numbers of padding are (before, after)
conv2d_gradfix   conv2d, conv_transpose2d, no_weight_gradients
"""

from ..shims import Family, Shim
from . import conv2d_gradfix, fused_act
from . import upfirdn2d as _upfirdn2d
from .fused_act import FusedLeakyReLU, fused_leaky_relu
from .upfirdn2d import upfirdn2d

__all__ = ["FusedLeakyReLU", "conv2d_gradfix", "fused_act", "fused_leaky_relu", "install", "uninstall", "upfirdn2d"]

PACKAGES = ("op", "models.stylegan2.op", "face_model.op", "ZSSGAN.op")
_family = Family()


def install(*packages: str) -> None:
    """Has a project's package of operators be that of this package; call it before imports.

    Args:
        packages: The names under which the project imports it, where they aren't among the known ones.
    """
    _family.install([_shim(packages or PACKAGES)])


def uninstall() -> None:
    """Undoes `install` for later imports."""
    _family.uninstall()


def _shim(packages: tuple[str, ...]) -> Shim:
    modules = {"fused_act": fused_act, "upfirdn2d": _upfirdn2d, "conv2d_gradfix": conv2d_gradfix}
    exports = {
        "FusedLeakyReLU": FusedLeakyReLU,
        "conv2d_gradfix": conv2d_gradfix,
        "fused_leaky_relu": fused_leaky_relu,
        "upfirdn2d": upfirdn2d,
    }
    return Shim(
        {f"{package}.{name}": module for package in packages for name, module in modules.items()},
        dict.fromkeys(packages, exports),
    )
