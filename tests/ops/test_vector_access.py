# SPDX-License-Identifier: Apache-2.0
"""The sizes in which compiled kernels access memory, read from their PTX: 16 bytes for images."""

import re
from collections import Counter

import pytest
import torch

triton = pytest.importorskip("triton")

from triton.compiler import ASTSource  # noqa: E402

import hsr_kernels as hk  # noqa: E402
from hsr_kernels.aot import record  # noqa: E402
from tests.selection import every_other  # noqa: E402

SM90 = record.CHIPS["sm_90"]
# bfloat16 is as wide as float16.
DTYPES = (torch.float32, torch.float16)
FORMATS = (torch.contiguous_format, torch.channels_last)
DTYPES_AND_FORMATS = pytest.mark.parametrize("dtype, memory_format", every_other(DTYPES, FORMATS))
FIR4 = hk.setup_filter([1, 3, 3, 1])
_ACCESS = re.compile(r"\b(ld|st)\.global(?:\.[\w:]+)*?(?:\.v(\d))?\.b(\d+)\b")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))


def accesses(ptx: str) -> Counter:
    """{("ld" or "st", bytes): instructions that touch global memory in such pieces}."""
    return Counter((kind, int(n or 1) * int(bits) // 8) for kind, n, bits in _ACCESS.findall(ptx))


def compiled(call) -> dict[str, Counter]:
    """{kernel: its accesses} of all that a call on tensors without data launches."""
    with record.recording(SM90) as found:
        call()
    kernels = {}
    for launch in found.launches.values():
        source = ASTSource(launch.function, launch.signature, launch.constants, launch.attributes)
        kernel = triton.compile(source, target=SM90.target, options=launch.options)
        kernels[launch.kernel.removesuffix("_kernel")] = accesses(kernel.asm["ptx"])
    return kernels


def images(dtype: torch.dtype, memory_format: torch.memory_format) -> torch.Tensor:
    return torch.empty((4, 128, 64, 64), dtype=dtype, memory_format=memory_format).requires_grad_()


def differentiate(y: torch.Tensor, *inputs: torch.Tensor) -> None:
    """First and second order."""
    first = torch.autograd.grad(y, inputs, torch.empty_like(y).requires_grad_(), create_graph=True)
    torch.autograd.grad(first[0], inputs[0], torch.empty_like(first[0]), allow_unused=True)


def test_accesses_are_counted_by_size():
    ptx = """
    @%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];
    @%p1 ld.global.L1::evict_last.v2.b64 { %rd1, %rd2 }, [ %rd1 + 0 ];
    @%p2 ld.global.b16 { %rs1 }, [ %rd1 + 0 ];
    @%p2 st.global.v2.b32 [ %rd1 + 0 ], { %r1, %r2 };
    st.shared.v4.b32 [ %r1 ], { %r1, %r2, %r3, %r4 };
    """
    assert accesses(ptx) == {("ld", 16): 2, ("ld", 2): 1, ("st", 8): 1}


@DTYPES_AND_FORMATS
def test_bias_act_accesses_16_bytes(dtype, memory_format):
    def call():
        x, b = images(dtype, memory_format), torch.empty(128, dtype=dtype, requires_grad=True)
        # swish saves its input, so all three kernels read a bias.
        differentiate(hk.bias_act(x, b, act="swish", clamp=256), x, b)

    tensors = {"bias_act": (1, 1), "bias_act_bwd": (2, 1), "bias_act_bwd_bwd": (3, 2)}
    for kernel, found in compiled(call).items():
        read, written = tensors.pop(kernel)
        # Accesses of each of 256 threads to its part of a tile.
        accesses_per_tile = 4096 // 256 * dtype.itemsize // 16
        assert found["ld", 16] >= read * accesses_per_tile, found
        assert found["st", 16] == written * accesses_per_tile, found
        # The rest: the bias, a value per row or a few per column, and the partial sums of its gradient.
        assert sum(n for (kind, size), n in found.items() if kind == "ld" and size < 16) <= 16, found
        assert sum(n for (kind, size), n in found.items() if kind == "st" and size < 16) <= (kernel == "bias_act_bwd")
    assert not tensors


@pytest.mark.parametrize(
    "function, dtype, memory_format", every_other(("filter2d", "upsample2d", "downsample2d"), DTYPES, FORMATS)
)
def test_upfirdn2d_accesses_16_bytes(function, dtype, memory_format):
    (found,) = compiled(lambda: getattr(hk, function)(images(dtype, memory_format), FIR4)).values()
    assert {size for kind, size in found if kind == "st"} == {16}, found
    # Half of what goes up is read, in vectors of half the length; scalars are the taps.
    read = 8 if function == "upsample2d" and memory_format == torch.contiguous_format else 16
    assert {size for kind, size in found if kind == "ld"} == {read, 4}, found
    assert found["ld", 4] == FIR4.numel()


@DTYPES_AND_FORMATS
def test_layer_accesses_16_bytes(dtype, memory_format):
    def call():
        x, styles = images(dtype, memory_format), torch.empty(4, 128, dtype=dtype, requires_grad=True)
        weight, b = torch.empty(128, 128, 3, 3, dtype=dtype), torch.empty(128, dtype=dtype)
        y = hk.modulated_conv2d(x, weight, styles, padding=1, bias=b, act="lrelu", clamp=256)
        differentiate(y, x, styles)

    layers = {k: v for k, v in compiled(call).items() if k.startswith(("scale_channels", "modulated_conv2d_epilogue"))}
    assert layers
    for kernel, found in layers.items():
        assert found["ld", 16] and found["st", 16], (kernel, found)
        # The rest: a few values of vectors per channel, and at most three partial sums, all float32.
        assert {size for _, size in found} <= {16, 4}, (kernel, found)
        assert found["st", 4] <= 3 and found["ld", 4] <= 8, (kernel, found)
