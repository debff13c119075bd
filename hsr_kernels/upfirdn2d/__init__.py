# SPDX-License-Identifier: Apache-2.0
"""FIR up- and downsampling: zero-insert, pad, filter, decimate in one pass.

reference     the specification, in plain PyTorch
geometry      sizes and padding, and checks of the filter, for all backends
autograd      derivatives: the transpose of a FIR resampling is another one
ops           the native operator that the backends implement
cpu_impl      the CPU kernel
passes        the launches that one call takes on a GPU
cuda_impl     the CUDA kernels, and a launch that can be repeated
triton_impl   launches of the Triton kernels
triton_fir    these kernels
"""

from collections.abc import Callable, Hashable, Sequence

import torch

from .. import _checks
from .._dispatch import operators
from .._dispatch.replay import Calls, key_of
from . import autograd, reference
from .geometry import Geometry, check_filter, filter_taps, native_limit, validate

_operator = operators.register(
    "upfirdn2d",
    reference=operators.on_reference(reference.upfirdn2d),
    cpu=operators.on_cpu(autograd.upfirdn2d),
    triton=operators.on_triton(autograd.upfirdn2d),
    cuda=operators.on_cuda(autograd.upfirdn2d),
)
_calls = Calls()


def upfirdn2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> torch.Tensor:
    """Inserts zeros, pads, convolves with a FIR filter, keeps every down-th pixel.

    Args:
        x: Images [N, C, H, W], float32, float16, bfloat16 or float64; contiguous or channels_last.
        f: Filter: None (one tap of 1), [taps] (separable, along both axes) or [height, width]; float32, or another
            float dtype, which is cast to it (float64 stays).
        up: Factor of zero insertion, int or (x, y): each pixel is followed by up - 1 zeros.
        down: Factor of decimation, int or (x, y).
        padding: Pixels added to the zero-inserted image: int, (x, y) or (x0, x1, y0, y1); negative crops.
        flip_filter: False convolves, True correlates.
        gain: Factor on the output.

    Returns:
        [N, C, (H * up_y + y0 + y1 - taps_y) // down_y + 1, likewise W'], dtype and layout of x.

    Raises:
        TypeError, ValueError: An argument of the wrong type, shape, dtype or device; an image smaller than the filter.

    Derivatives: every order, with respect to x (its derivative is itself an upfirdn2d). A filter that requires
    grad runs on the reference backend, which differentiates it too.

    Source: the operator of StyleGAN2 (Karras et al., CVPR 2020).
    """
    key = _key(x, f, "upfirdn2d", up, down, padding, flip_filter, gain)
    if call := _calls.get(key):
        return call(x, f)
    f = check_filter(f)
    return _run(key, x, f, validate(x, f, up, down, padding, flip_filter, gain))


def _key(x: torch.Tensor, f: torch.Tensor | None, *options: object) -> Hashable:
    # A filter of 16 bits is cast before it is taken.
    is_cast = isinstance(f, torch.Tensor) and f.dtype.itemsize < 4
    return None if is_cast else key_of((x, f), *options)


def _run(key: Hashable, x: torch.Tensor, f: torch.Tensor | None, geometry: Geometry) -> torch.Tensor:
    """Runs a call whose launch isn't remembered yet, and remembers it under `key` unless that is None."""
    choice = _operator.choose(x, native_limit(f, max(geometry.up + geometry.down)))
    y = _operator.run(choice, x.device, x, f, geometry)
    if key is not None and choice.backend != "reference":
        _calls.note(key, _repeatable(choice.backend, x, f, geometry))
    return y


def _repeatable(
    backend: str, x: torch.Tensor, f: torch.Tensor | None, geometry: Geometry
) -> Callable[..., torch.Tensor]:
    """Returns what a call with tensors like these does once its arguments are checked and its backend is chosen."""
    if backend == "cuda" and not (torch.is_grad_enabled() and x.requires_grad):
        from . import cuda_impl

        if launch := cuda_impl.prepare_launch(x, f, geometry):
            return launch
    apply = autograd.Upfirdn2d.apply
    return lambda x, f: apply(x, f, geometry, backend)


def setup_filter(
    f: torch.Tensor | Sequence[float] | Sequence[Sequence[float]] | float | None,
    device: str | torch.device = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> torch.Tensor:
    """Prepares a filter for the FIR functions.

    Args:
        f: Taps: a number, a 1-D or 2-D sequence, array or tensor; None is a single tap of 1.
        device: Where the result goes.
        normalize: Scale the taps to sum 1.
        flip_filter: Reverse the taps.
        gain: Factor of the whole filter, entering as gain^(ndim / 2).
        separable: Keep a 1-D filter 1-D (applied along both axes); None: from 8 taps on. A shorter one becomes
            its outer product.

    Returns:
        float32 [taps] or [height, width].

    Raises:
        ValueError: No taps, more than two dimensions, or taps that sum to zero and can't be normalised.
    """
    try:
        # On the CPU even where another device is PyTorch's default, such as meta, whose tensors have no values.
        taps = torch.as_tensor(1.0 if f is None else f, dtype=torch.float32, device=_device_of(f))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"f must be a number, [taps] or [height, width], got {type(f).__name__} {f!r}") from error
    if taps.ndim > 2 or taps.numel() == 0:
        raise ValueError(f"f must be a number, [taps] or [height, width], got shape {list(taps.shape)}")
    if taps.ndim == 0:
        taps = taps[None]
    if separable is None:
        separable = taps.ndim == 1 and taps.numel() >= 8
    if taps.ndim == 1 and not separable:
        taps = torch.outer(taps, taps)
    if separable and taps.ndim != 1:
        raise ValueError(f"separable filters must be 1-D, got f of shape {list(taps.shape)}")
    if normalize:
        total = taps.sum()
        # In a graph, and on the meta device, there are no values to look at.
        if not torch.compiler.is_compiling() and not taps.is_meta and total == 0:
            raise ValueError("f sums to zero, so it can't be normalised; pass normalize=False")
        taps = taps / total
    if flip_filter:
        taps = taps.flip(list(range(taps.ndim)))
    if gain < 0 and taps.ndim == 1:
        raise ValueError(f"gain must not be negative for a separable filter, which takes its square root; got {gain}")
    return (taps * gain ** (taps.ndim / 2)).to(device)


def _device_of(f: object) -> torch.device:
    return f.device if isinstance(f, torch.Tensor) else torch.device("cpu")


def filter2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> torch.Tensor:
    """Filters images and keeps their size; `padding` comes on top. Arguments as for `upfirdn2d`."""
    key = _key(x, f, "filter2d", padding, flip_filter, gain)
    if call := _calls.get(key):
        return call(x, f)
    x0, x1, y0, y1 = _checks.padding4("padding", padding)
    f = check_filter(f)
    fh, fw = filter_taps(f)
    centred = (x0 + fw // 2, x1 + (fw - 1) // 2, y0 + fh // 2, y1 + (fh - 1) // 2)
    return _run(key, x, f, validate(x, f, 1, 1, centred, flip_filter, gain))


def upsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    up: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> torch.Tensor:
    """Enlarges images by `up`, centred and of the same brightness; `padding` comes on top. See `upfirdn2d`."""
    key = _key(x, f, "upsample2d", up, padding, flip_filter, gain)
    if call := _calls.get(key):
        return call(x, f)
    upx, upy = _checks.pair("up", up)
    x0, x1, y0, y1 = _checks.padding4("padding", padding)
    f = check_filter(f)
    fh, fw = filter_taps(f)
    centred = (
        x0 + (fw + upx - 1) // 2, x1 + (fw - upx) // 2,
        y0 + (fh + upy - 1) // 2, y1 + (fh - upy) // 2,
    )  # fmt: skip
    return _run(key, x, f, validate(x, f, (upx, upy), 1, centred, flip_filter, gain * upx * upy))


def downsample2d(
    x: torch.Tensor,
    f: torch.Tensor | None,
    down: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> torch.Tensor:
    """Filters images and keeps every down-th pixel, centred; `padding` comes on top. See `upfirdn2d`."""
    key = _key(x, f, "downsample2d", down, padding, flip_filter, gain)
    if call := _calls.get(key):
        return call(x, f)
    downx, downy = _checks.pair("down", down)
    x0, x1, y0, y1 = _checks.padding4("padding", padding)
    f = check_filter(f)
    fh, fw = filter_taps(f)
    centred = (
        x0 + (fw - downx + 1) // 2, x1 + (fw - downx) // 2,
        y0 + (fh - downy + 1) // 2, y1 + (fh - downy) // 2,
    )  # fmt: skip
    return _run(key, x, f, validate(x, f, 1, (downx, downy), centred, flip_filter, gain))
