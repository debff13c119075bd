# SPDX-License-Identifier: Apache-2.0
"""How often the HSR loss launches a kernel, and what it keeps for its backward, on tensors without data."""

import pytest
import torch

pytest.importorskip("triton")

import hsr_kernels as hk
from hsr_kernels._precision import exact_float32
from hsr_kernels.aot import record

# Channels and side of the features at each scale.
_SIZES = ((512, 8), (512, 16), (512, 32), (256, 64))
# Images, hidden channels, target channels and target side.
_N, _K, _D, _T = 16, 4096, 768, 14


def _loss(sizes, dtype, layout=torch.contiguous_format):
    def tensor(*shape):
        return torch.empty(shape, dtype=dtype).requires_grad_()

    features = [torch.empty(_N, c, s, s, dtype=dtype).to(memory_format=layout).requires_grad_() for c, s in sizes]
    targets = [torch.empty(_N, _D, _T, _T, dtype=dtype) for _ in sizes]
    heads = [(tensor(_K, c), tensor(_K), tensor(_D, _K), tensor(_D)) for c, _ in sizes]
    return features, heads, lambda: hk.feature_projection_loss(features, targets, heads)


def _launched(monkeypatch, call):
    """Names of the kernels that a call launches, in order and with repetitions."""
    from triton.runtime import JITFunction

    names, run = [], JITFunction.run
    monkeypatch.setattr(JITFunction, "run", lambda self, *a, **k: (names.append(self.__name__), run(self, *a, **k))[1])
    try:
        return names, call()
    finally:
        monkeypatch.undo()


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16), ids=("float32", "float16"))
@pytest.mark.parametrize("sizes", (_SIZES[:1], _SIZES), ids=("1-scale", "4-scales"))
def test_launches_do_not_grow_with_scales(monkeypatch, sizes, dtype):
    with record.recording(record.CHIPS["sm_90"]):
        features, heads, loss = _loss(sizes, dtype)
        forward, y = _launched(monkeypatch, loss)
        leaves = [*features, *(t for head in heads for t in head)]
        backward, _ = _launched(monkeypatch, lambda: torch.autograd.grad(y, leaves, torch.empty_like(y)))
    assert forward == ["feature_hidden_kernel", "feature_projection_kernel", "feature_sum_kernel"]
    assert backward == [
        "feature_hidden_kernel", "feature_projection_bwd_weight_kernel", "feature_projection_bwd_data_kernel",
        "feature_hidden_bwd_data_kernel", "feature_hidden_bwd_weight_kernel", "feature_sum_kernel",
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=("float32", "bfloat16"))
def test_backward_keeps_only_differences(dtype):
    """Nothing with the hidden layer's 4096 channels, against two hidden maps at full resolution in plain PyTorch."""

    def kept(backend):
        found = []
        with record.recording(record.CHIPS["sm_90"]), hk.use_backend(backend):
            features, heads, loss = _loss(_SIZES, dtype)
            inputs = {id(t) for t in (*features, *(t for head in heads for t in head))}
            with torch.autograd.graph.saved_tensors_hooks(lambda t: found.append(t) or t, lambda t: t):
                loss()
            inputs |= {id(t) for t in found if t.ndim == 4 and t.shape[1] == _D and t.shape[0] == _N and t.is_leaf}
        distinct = {id(t): t for t in found if id(t) not in inputs}
        return sum(t.numel() * t.element_size() for t in distinct.values())

    differences = len(_SIZES) * _D * _N * _T * _T * dtype.itemsize
    assert kept("triton") <= 1.01 * differences
    assert kept("reference") > 20 * kept("triton")


@pytest.mark.parametrize("convolutions, matrices", (("tf32", "ieee"), ("ieee", "tf32")))
def test_float32_is_multiplied_as_convolutions_are(convolutions, matrices):
    """The reference's two layers are convolutions: what matrices are allowed doesn't matter."""
    with exact_float32(), record.recording(record.CHIPS["sm_90"]) as found:
        torch.backends.cudnn.conv.fp32_precision = convolutions
        torch.backends.cuda.matmul.fp32_precision = matrices
        features, heads, loss = _loss(_SIZES[:1], torch.float32)
        torch.autograd.grad(loss(), [*features, *heads[0]])
    precisions = [x.constexprs["PRECISION"] for x in found.launches.values() if "PRECISION" in x.constexprs]
    assert precisions == [convolutions] * 7
