# SPDX-License-Identifier: Apache-2.0
"""Gradients with respect to the features of the HSR loss keep their layout, as the fake operators promise."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import hsr_kernels as hk
from tests.native import TRITON_DEVICES, requires_native

CHANNELS_LAST = torch.channels_last
# Per scale: channels, height and width, and how the features lie in memory.
SCALES = {
    "contiguous": [((5, 6, 4), "contiguous"), ((4, 3, 3), "contiguous")],
    "channels_last": [((5, 6, 4), "channels_last"), ((4, 3, 3), "channels_last")],
    "both": [((5, 6, 4), "channels_last"), ((4, 3, 3), "contiguous"), ((8, 8, 8), "channels_last")],
    "slices": [((5, 6, 4), "slice of channels_last"), ((4, 3, 3), "slice")],
    "one pixel, one channel": [(shape, "channels_last") for shape in ((5, 1, 1), (1, 3, 3), (4, 4, 4))],
}


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    memory_format = CHANNELS_LAST if layout.endswith("channels_last") else torch.contiguous_format
    if layout.startswith("slice"):
        return torch.cat([x, x], 1).contiguous(memory_format=memory_format)[:, : x.shape[1]]
    return x.contiguous(memory_format=memory_format)


def draw(scales, dtype: torch.dtype) -> tuple:
    """Draws features, targets and heads with 33 hidden channels and 3 x 3 targets."""
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    features = [laid_out(tensor(2, *shape), layout).requires_grad_() for shape, layout in scales]
    targets = [tensor(2, 7, 3, 3) for _ in scales]
    heads = [(tensor(33, c), tensor(33), tensor(7, 33), tensor(7)) for (c, _, _), _ in scales]
    return features, targets, heads


def gradients(features, targets, heads) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(hk.feature_projection_loss(features, targets, heads).sum(), features)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=("float32", "float16"))
@pytest.mark.parametrize("scales", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize(
    "backend, device",
    [pytest.param("cpu", "cpu", marks=requires_native)]
    + [pytest.param("triton", device, marks=mark) for device, mark in TRITON_DEVICES.items()],
)
def test_gradients_are_laid_out_as_features_are(backend, device, scales, dtype):
    features, targets, heads = draw(scales, dtype)
    expected = [t.clone().contiguous().requires_grad_() for t in features]
    with hk.use_backend("reference"):
        reference_gradients = gradients(expected, targets, heads)
    features = [t.detach().to(device).requires_grad_() for t in features]
    targets = [t.to(device) for t in targets]
    heads = [tuple(t.to(device) for t in head) for head in heads]
    with hk.use_backend(backend):
        found = gradients(features, targets, heads)
    for dx, x, value in zip(found, features, reference_gradients, strict=True):
        channels_last = x.shape[1] > 1 and x.stride(1) == 1 and not x.is_contiguous()
        assert dx.is_contiguous(memory_format=CHANNELS_LAST if channels_last else torch.contiguous_format)
        tolerance = 1e-5 if dtype == torch.float32 else 1e-2
        torch.testing.assert_close(dx.cpu(), value, rtol=tolerance, atol=tolerance * value.abs().max().item())
    with FakeTensorMode() as mode, hk.use_backend(backend):
        fakes = [mode.from_tensor(t) for t in features]
        others = [mode.from_tensor(t) for t in targets], [tuple(map(mode.from_tensor, head)) for head in heads]
        assert [t.stride() for t in gradients(fakes, *others)] == [t.stride() for t in found]
