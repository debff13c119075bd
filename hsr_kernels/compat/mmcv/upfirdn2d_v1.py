# SPDX-License-Identifier: Apache-2.0
"""mmcv.ops.upfirdn2d up to MMCV 2.0.0rc4, in which two numbers of padding are (before, after)."""

from ..rosinality.upfirdn2d import upfirdn2d

__all__ = ["upfirdn2d"]
