# SPDX-License-Identifier: Apache-2.0
"""torch.library.opcheck on every operator under torch.ops.hsr_kernels: schemas, fake outputs and their strides.

The operators have no autograd of their own (the Functions stand outside), so derivatives are for other tests.
"""

from collections.abc import Mapping

import pytest
import torch

import hsr_kernels as hk
from hsr_kernels._dispatch import native
from hsr_kernels.bias_act.activations import ACTIVATIONS
from tests.native import requires_native
from tests.selection import every_other

pytestmark = requires_native

OPS = (
    "bias_act", "bias_act_bwd", "bias_act_bwd_bwd", "feature_loss", "feature_loss_bwd", "filtered_lrelu",
    "filtered_lrelu_bwd", "modulated_conv2d_epilogue", "modulated_conv2d_epilogue_bwd",
    "modulated_conv2d_epilogue_bwd_bwd",
    "modulated_conv2d_fir_epilogue", "scale_channels", "scale_channels_bwd", "upfirdn2d",
)  # fmt: skip
# The cuda backend composes filtered_lrelu of other operators.
CUDA_OPS = tuple(op for op in OPS if not op.startswith(("feature_loss", "filtered_lrelu")))
# Of the triton backend alone.
TRITON_OPS = (
    "modulated_conv2d_layer", "modulated_conv2d_layer_bwd", "modulated_conv2d_layer_weight", "scale_channels_fwd_bwd",
    "scale_channels_bwd_bwd", "modulated_conv2d_projection_bwd", "modulated_conv2d_fir_epilogue_bwd",
)  # fmt: skip
# Of the GPU backends; these have tests of their own.
GPU_OPS = ("demodulation", "demodulation_bwd")
CHECKS = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
# Activations as (code, alpha, gain, clamp).
LRELU = (2, 0.2, 2**0.5, 1.0)
TANH = (3, 0.0, 1.0, -1.0)
SWISH = (8, 0.0, 2**0.5, -1.0)
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
FORMATS = (torch.contiguous_format, torch.channels_last)
FIR = (hk.setup_filter([1, 3, 3, 1]), [2, 2], [1, 1], [2, 1, 2, 1], False, 4.0)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def samples(dtype: torch.dtype, memory_format: torch.memory_format, backend: str = "cpu") -> Mapping[str, list[tuple]]:
    """Arguments for each operator of a backend, which decides itself what the loss keeps for its backward."""

    def image(*shape: int) -> torch.Tensor:
        return torch.randn(shape).to(dtype).to(memory_format=memory_format)

    def vector(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=accumulation_dtype(dtype))

    x, dy, ddx, b = image(2, 3, 5, 4), image(2, 3, 5, 4), image(2, 3, 5, 4), torch.randn(3).to(dtype)
    y = hk.bias_act(x, act="lrelu", clamp=1.0)
    channels_last = memory_format is torch.channels_last
    # From 5 x 4 pixels to 7 x 6, by upsampled images of 17 x 15.
    f, no_filter = FIR[0], None
    if backend == "triton":
        # Its kernel takes separable filters alone.
        f = no_filter = hk.setup_filter([1, 3, 3, 1], separable=True)
    filtered = ([2, 2], [5, 5, 5, 5], 4.0, [2, 2], [0, 0, 0, 0], 1.0, False)
    transposed = ([2, 2], [3, 3, 3, 3], 1.0, [2, 2], [-2, -2, -2, -2], 4.0, True)
    mask = torch.randint(256, (2, 3, 17, 16), dtype=torch.uint8)
    epilogue = (vector(2, 3), vector(2, 1, 5, 4), vector(3))
    doubled = (vector(2, 3), vector(1, 1, 10, 8), vector(3))
    kernel, dz, narrower = image(4, 3, 3, 3), image(2, 4, 3, 4), (vector(2, 4), vector(1, 1, 3, 4), vector(4))
    # Two scales: one that shrinks, one that grows.
    heads = [[torch.randn(shape).to(dtype)] * 2 for shape in ((7, 3), (7,), (4, 7), (4,))]
    scales = ([x, x], [image(2, 4, 3, 3), image(2, 4, 6, 6)], *heads)
    losses, kept = getattr(torch.ops.hsr_kernels.feature_loss, backend)(*scales, 1.4)
    needs = [True] * 8 + [False] * 2
    return {
        "bias_act": [(x, b, 1, *LRELU), (x, None, 1, *TANH), (x[:, :, 0, 0].contiguous(), b, 1, *SWISH)],
        "bias_act_bwd": [(dy, y, None, 1, True, True, *LRELU), (dy, x, b, 1, False, False, *SWISH)],
        "bias_act_bwd_bwd": [(ddx, dy, y, None, 1, True, *TANH), (ddx, dy, x, b, 1, False, *SWISH)],
        "upfirdn2d": [(x, *FIR), (x, None, [1, 2], [2, 1], [0, 1, -1, 0], True, 1.0)],
        "filtered_lrelu": [(x, f, f, b, *filtered, *LRELU, True), (x, f, no_filter, None, *filtered, *LRELU, False)],
        "filtered_lrelu_bwd": [
            (image(2, 3, 7, 6), mask, f, f, *transposed, *LRELU, channels_last, True),
            (image(2, 3, 7, 6), mask, f, no_filter, *transposed, *LRELU, channels_last, False),
        ],
        "scale_channels": [(x, vector(2, 3))],
        "scale_channels_bwd": [(dy, x, vector(2, 3))],
        "scale_channels_fwd_bwd": [(dy, x, vector(2, 3))],
        "scale_channels_bwd_bwd": [(ddx, vector(2, 3), dy, x, vector(2, 3))],
        "modulated_conv2d_epilogue": [
            (x, *epilogue, channels_last, *LRELU),
            (x, None, None, None, channels_last, *LRELU),
        ],
        "modulated_conv2d_fir_epilogue": [(x, *FIR, *doubled, channels_last, *LRELU)],
        "modulated_conv2d_fir_epilogue_bwd": [
            (dy, y, f, [1, 1], [1, 1], [1, 2, 1, 2], True, 4.0, *epilogue, True, *LRELU),
            (dy, y, f, [1, 1], [1, 1], [1, 2, 1, 2], True, 4.0, None, None, None, False, *LRELU),
        ],
        "modulated_conv2d_epilogue_bwd": [(dy, y, *epilogue, True, *LRELU), (dy, y, None, None, None, False, *LRELU)],
        "modulated_conv2d_epilogue_bwd_bwd": [
            (ddx, vector(2, 3), vector(2, 1, 5, 4), vector(3), dy, y, *epilogue, True, *LRELU),
            (ddx, vector(2, 3), None, vector(3), dy, y, None, None, None, False, *LRELU),
        ],
        "modulated_conv2d_layer": [(x, kernel, vector(2, 3), *narrower, [0, 1], *LRELU)],
        "modulated_conv2d_layer_bwd": [(dz, kernel, x, vector(2, 3), [0, 1])],
        "modulated_conv2d_projection_bwd": [(dy, kernel[:3, :, :1, :1].contiguous(), x, vector(2, 3))],
        "modulated_conv2d_layer_weight": [(x, vector(2, 3), dz, [3, 3], [0, 1])],
        "feature_loss": [(*scales, 1.4)],
        "feature_loss_bwd": [
            (torch.randn_like(losses), losses, kept, scales[0], *heads, [3, 6], 1.4, [True] * 10),
            (torch.randn_like(losses), losses, kept, scales[0], *heads, [3, 6], 1.4, needs),
        ],
    }


def test_every_operator_is_checked():
    names = (name.partition("::") for name in torch._C._dispatch_get_all_op_names())
    registered = {name for namespace, _, name in names if namespace == "hsr_kernels"}
    assert {name for name in registered if name.endswith(".cpu")} == {f"{op}.cpu" for op in OPS}
    of_cuda = {name for name in registered if name.endswith(".cuda")}
    assert of_cuda == {f"{op}.cuda" for op in (*CUDA_OPS, *GPU_OPS)}
    # Triton's kernels take no float64, and are checked where they are interpreted.
    of_triton = {name for name in registered if name.endswith(".triton")}
    demodulation = {f"demodulation_each{part}.triton" for part in ("", "_bwd")}
    assert of_triton == {f"{op}.triton" for op in (*OPS, *TRITON_OPS, *GPU_OPS)} | demodulation


@pytest.mark.parametrize("op, dtype, memory_format", every_other(OPS, DTYPES, FORMATS))
def test_opcheck(op, dtype, memory_format):
    for args in samples(dtype, memory_format)[op]:
        torch.library.opcheck(getattr(torch.ops.hsr_kernels, op).cpu, args, test_utils=CHECKS)


@pytest.mark.emulate
@pytest.mark.parametrize("op, dtype, memory_format", every_other(CUDA_OPS, (torch.float32, torch.float16), FORMATS))
def test_opcheck_of_cuda(op, dtype, memory_format):
    for args in samples(dtype, memory_format)[op]:
        torch.library.opcheck(getattr(torch.ops.hsr_kernels, op).cuda, args, test_utils=CHECKS)


@pytest.mark.interpret
@pytest.mark.parametrize(
    "op, memory_format",
    every_other(OPS, FORMATS) + [pytest.param(op, torch.channels_last, id=op) for op in TRITON_OPS],
)
def test_opcheck_of_triton(op, memory_format):
    for args in samples(torch.float32, memory_format, "triton")[op]:
        torch.library.opcheck(getattr(torch.ops.hsr_kernels, op).triton, args, test_utils=CHECKS)


@pytest.mark.parametrize(
    "backend", (pytest.param("cuda", marks=pytest.mark.emulate), pytest.param("triton", marks=pytest.mark.interpret))
)
@pytest.mark.parametrize("channels_last", (False, True), ids=("contiguous", "channels_last"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=("float32", "float16"))
def test_opcheck_of_demodulation(dtype, channels_last, backend):
    weight, styles = torch.randn(5, 6, 3, 3), torch.randn(2, 6)
    for flip, needs_w, needs_s in ((False, True, True), (True, True, False), (False, False, False)):
        args = (weight, styles, dtype, flip, channels_last, needs_w, needs_s)
        torch.library.opcheck(getattr(torch.ops.hsr_kernels.demodulation, backend), args, test_utils=CHECKS)
    # The weight's layout is that of w here.
    dw, s, d = torch.randn(5, 6, 3, 3).to(dtype), torch.randn(2, 6), torch.randn(2, 5)
    if channels_last:
        weight = weight.contiguous(memory_format=torch.channels_last)
    for gradients, needs_weight, needs_styles in (
        ((dw, s, d), True, True), ((None, None, d), True, False), ((None, s, d), False, True),
    ):  # fmt: skip
        args = (weight, styles, s, d, *gradients, dtype, True, needs_weight, needs_styles)
        torch.library.opcheck(getattr(torch.ops.hsr_kernels.demodulation_bwd, backend), args, test_utils=CHECKS)


@pytest.mark.interpret
def test_opcheck_of_demodulation_of_several_layers():
    op, weights = torch.ops.hsr_kernels, [torch.randn(5, 6, 3, 3), torch.randn(4, 3, 1, 1)]
    styles, d = [torch.randn(2, 6), torch.randn(2, 3)], [torch.rand(2, 5), torch.rand(2, 4)]
    halves = [weight.half() for weight in weights]
    for dtype, dw, ds, needs in (
        (torch.float16, halves, styles, True),
        (torch.float32, [], [None, styles[1]], False),
    ):
        args = (weights, styles, dtype, [True, False], needs, needs)
        torch.library.opcheck(op.demodulation_each.triton, args, test_utils=CHECKS)
        args = (weights, styles, styles, d, dw, ds, d, dtype)
        torch.library.opcheck(op.demodulation_each_bwd.triton, args, test_utils=CHECKS)


def test_tensors_without_memory_are_refused():
    """The address of a fake or meta tensor is 0: the bindings raise, where reading there would crash."""
    cpu = native.cpu()
    x = torch.zeros(1, 2, 3, 4)
    for call in (
        lambda: cpu.bias_act(0, 0, x.data_ptr(), 1, 2, 12, 0, LRELU, 1),
        lambda: cpu.bias_act_bwd(x.data_ptr(), 0, 0, x.data_ptr(), 0, 1, 2, 12, True, 0, LRELU, 1),
        lambda: cpu.scale_channels(x.data_ptr(), 0, x.data_ptr(), (1, 2, 12), 0, 0, 1),
        lambda: cpu.modulated_conv2d_epilogue(x.data_ptr(), 0, 0, 0, 0, 0, (1, 2, 3, 4), 0, 0, LRELU, 1),
    ):
        with pytest.raises((RuntimeError, ValueError), match="no memory"):
            call()


@pytest.mark.parametrize("code", (-1, 4))
def test_unknown_codes_are_refused(code):
    x = torch.zeros(1, 2, 3, 4)
    with pytest.raises((RuntimeError, ValueError), match="dtype code"):
        native.cpu().bias_act(x.data_ptr(), 0, x.data_ptr(), 1, 2, 12, code, LRELU, 1)


def test_codes_of_activations_are_those_of_the_extension():
    codes = {name: activation.code for name, activation in ACTIVATIONS.items()}
    assert codes == {name: code for code, name in enumerate(native.cpu().activations())}
