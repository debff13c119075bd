# SPDX-License-Identifier: Apache-2.0
"""The operators of BasicSR, GFPGAN and CodeFormer under their own names: basicsr.ops.

`install()` before the project's imports is all that such a project needs.

fused_act   fused_leaky_relu, FusedLeakyReLU
upfirdn2d   upfirdn2d
"""

from ..shims import Shim
from . import fused_act
from . import upfirdn2d as _upfirdn2d
from .fused_act import FusedLeakyReLU, fused_leaky_relu
from .upfirdn2d import upfirdn2d

__all__ = ["FusedLeakyReLU", "fused_act", "fused_leaky_relu", "install", "uninstall", "upfirdn2d"]

# In BasicSR each operator is a package, with a module of the same name in it.
_SHIM = Shim(
    {
        "basicsr.ops.fused_act": fused_act,
        "basicsr.ops.fused_act.fused_act": fused_act,
        "basicsr.ops.upfirdn2d": _upfirdn2d,
        "basicsr.ops.upfirdn2d.upfirdn2d": _upfirdn2d,
    }
)


def install() -> None:
    """Has `basicsr.ops.fused_act` and `basicsr.ops.upfirdn2d` be those of this package; call it before imports."""
    _SHIM.install()


def uninstall() -> None:
    """Undoes `install` for later imports."""
    _SHIM.uninstall()
