# SPDX-License-Identifier: Apache-2.0
"""The route of a call on the triton backend: one fused kernel, or bias_act and upfirdn2d one after the other."""

from collections.abc import Iterator

import torch

from .._tensors import is_channels_last
from .geometry import Resamplings

COMPOSITION = "bias_act and upfirdn2d one after the other, with upsampled images in memory"
# With smaller factors the fused kernel saves little, with larger ones its tiles have few outputs.
FUSED_FACTORS = ((2, 2), (4, 4))
# With more taps its tiles overlap too much.
MAX_FUSED_TAPS = 24
FUSED_DTYPES = (torch.float16, torch.bfloat16)
# With more taps the kernel without upsampling computes leaky ReLUs more often than it is worth.
MAX_TAPS_AFTER_ACTIVATION = 6


def why_not_fused(
    x: torch.Tensor, fu: torch.Tensor | None, fd: torch.Tensor | None, resamplings: Resamplings | None = None
) -> str:
    """Returns the reason why no fused kernel takes a call, empty if one does; the same of its transpose.

    Args:
        x, fu, fd: The call's.
        resamplings: The call's; None doesn't ask about them.
    """
    if fu is None and fd is not None:
        return _why_not_one_filter(x, fd, resamplings)
    if x.dtype not in FUSED_DTYPES:
        return "the fused kernel takes float16 and bfloat16 only"
    if any(f is None or f.ndim != 1 or f.shape[0] > MAX_FUSED_TAPS for f in (fu, fd)):
        return f"the fused kernel takes separable filters of at most {MAX_FUSED_TAPS} taps only"
    if resamplings and not {resamplings.up.up, resamplings.down.down} <= set(FUSED_FACTORS):
        return "the fused kernel takes the factors 2 and 4 only"
    return ""


def _why_not_one_filter(x: torch.Tensor, fd: torch.Tensor, resamplings: Resamplings | None) -> str:
    if not is_channels_last(x):
        return "without a filter for upsampling the fused kernel takes channels_last images only"
    if fd.ndim != 1 or fd.shape[0] > MAX_TAPS_AFTER_ACTIVATION:
        return (
            "without a filter for upsampling the fused kernel takes separable filters of at most "
            f"{MAX_TAPS_AFTER_ACTIVATION} taps only"
        )
    if resamplings and not resamplings.keeps_resolution:
        return "without a filter for upsampling the fused kernel takes the factor 1 only"
    return ""


def fused_on(
    x: torch.Tensor | None = None,
    fu: torch.Tensor | None = None,
    fd: torch.Tensor | None = None,
    resamplings: Resamplings | None = None,
) -> str:
    """Returns the backend for GPUs that has one kernel for a call, empty if none has."""
    return "" if x is None or x.device.type != "cuda" or why_not_fused(x, fu, fd, resamplings) else "triton"


def describe(
    x: torch.Tensor | None = None, fu: torch.Tensor | None = None, fd: torch.Tensor | None = None, *_: torch.Tensor
) -> Iterator[str]:
    """Yields what runs on the triton backend for x and these filters, for `hsr_kernels.explain`."""
    if x is None or (x.dtype in FUSED_DTYPES and fu is None and fd is None):
        yield 'give x, fu and fd to see the route: explain("filtered_lrelu", x, fu, fd)'
    elif reason := why_not_fused(x, fu, fd):
        yield f"{COMPOSITION}: {reason}"
    else:
        factors = "1" if fu is None else "2 or 4"
        yield f"one fused kernel where up and down are {factors}, otherwise {COMPOSITION}"
