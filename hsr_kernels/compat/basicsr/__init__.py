# SPDX-License-Identifier: Apache-2.0
"""The operators of BasicSR, GFPGAN and CodeFormer under their own names: basicsr.ops.

`install()` before the project's imports is all that such a project needs.

fused_act   fused_leaky_relu, FusedLeakyReLU
upfirdn2d   upfirdn2d
"""

from ..shims import Family, Shim
from . import fused_act
from . import upfirdn2d as _upfirdn2d
from .fused_act import FusedLeakyReLU, fused_leaky_relu
from .upfirdn2d import upfirdn2d

__all__ = ["FusedLeakyReLU", "fused_act", "fused_leaky_relu", "install", "uninstall", "upfirdn2d"]

PACKAGES = ("basicsr.ops",)
_family = Family()


def install(*packages: str) -> None:
    """Has `basicsr.ops.fused_act` and `basicsr.ops.upfirdn2d` be those of this package; call it before imports.

    Args:
        packages: The names under which the project imports its operators, where that isn't basicsr.ops.
    """
    _family.install(_shim(package) for package in packages or PACKAGES)


def uninstall() -> None:
    """Undoes `install` for later imports."""
    _family.uninstall()


def _shim(package: str) -> Shim:
    # In BasicSR each operator is a package, with a module of the same name in it.
    return Shim(
        {
            f"{package}.fused_act": fused_act,
            f"{package}.fused_act.fused_act": fused_act,
            f"{package}.upfirdn2d": _upfirdn2d,
            f"{package}.upfirdn2d.upfirdn2d": _upfirdn2d,
        }
    )
