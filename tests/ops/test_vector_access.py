# SPDX-License-Identifier: Apache-2.0
"""In what pieces the compiled kernels touch memory, by their PTX: images in 16 bytes."""

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
EACH = pytest.mark.parametrize("dtype, memory_format", every_other(DTYPES, FORMATS))
FIR4 = hk.setup_filter([1, 3, 3, 1])
_ACCESS = re.compile(r"\b(ld|st)\.global(?:\.[\w:]+)*?(?:\.v(\d))?\.b(\d+)\b")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path / "cache"))


def accesses(ptx: str) -> Counter:
    """{("ld" or "st", bytes): instructions that touch global memory in such pieces}."""
    return Counter((kind, int(n or 1) * int(bits) // 8) for kind, n, bits in _ACCESS.findall(ptx))


def compiled(call) -> dict[str, Counter]:
    """{kernel: its accesses} of all that a call on tensors without data launches."""
    with record.recording(SM90) as found:
        call()
    told = {}
    for launch in found.launches.values():
        source = ASTSource(launch.function, launch.signature, launch.constants, launch.attributes)
        kernel = triton.compile(source, target=SM90.target, options=launch.options)
        told[launch.kernel.removesuffix("_kernel")] = accesses(kernel.asm["ptx"])
    return told


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


@EACH
def test_bias_act(dtype, memory_format):
    def call():
        x, b = images(dtype, memory_format), torch.empty(128, dtype=dtype, requires_grad=True)
        differentiate(hk.bias_act(x, b, act="swish", clamp=256), x, b)  # saves its input, so all three read a bias

    tensors = {"bias_act": (1, 1), "bias_act_bwd": (2, 1), "bias_act_bwd_bwd": (3, 2)}
    for kernel, found in compiled(call).items():
        read, written = tensors.pop(kernel)
        pieces = 4096 // 256 * dtype.itemsize // 16  # of a tile, for each of 256 threads
        assert found["ld", 16] >= read * pieces, found
        assert found["st", 16] == written * pieces, found
        # The rest: the bias, a value per row or a few per column, and the partial sums of its gradient.
        assert sum(n for (kind, size), n in found.items() if kind == "ld" and size < 16) <= 16, found
        assert sum(n for (kind, size), n in found.items() if kind == "st" and size < 16) <= (kernel == "bias_act_bwd")
    assert not tensors


@pytest.mark.parametrize(
    "function, dtype, memory_format", every_other(("filter2d", "upsample2d", "downsample2d"), DTYPES, FORMATS)
)
def test_upfirdn2d(function, dtype, memory_format):
    (found,) = compiled(lambda: getattr(hk, function)(images(dtype, memory_format), FIR4)).values()
    assert {size for kind, size in found if kind == "st"} == {16}, found
    # Half of what goes up is read, in vectors of half the length; scalars are the taps.
    read = 8 if function == "upsample2d" and memory_format == torch.contiguous_format else 16
    assert {size for kind, size in found if kind == "ld"} == {read, 4}, found
    assert found["ld", 4] == FIR4.numel()


@EACH
def test_layer(dtype, memory_format):
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
