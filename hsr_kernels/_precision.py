# SPDX-License-Identifier: Apache-2.0
"""How PyTorch's libraries may multiply float32: what its settings allow, and how to have full precision for a while.

The settings nest. An operation's, such as ("cuda", "conv"), counts unless it is "none"; then its backend's counts, and
after that ("generic", "all"). What PyTorch returns for a setting is what counts. Two older ones,
`torch.backends.cudnn.allow_tf32` and `torch.set_float32_matmul_precision`, are remembered apart and overwrite the newer
ones, but not the other way round: where both contradict each other, the older ones can't be read without an error.
"""

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from . import _gpu

# (backend, operation).
_Setting = tuple[str, str]
_EXACT = "ieee"
_TF32 = "tf32"
_UNSET = "none"
# Outer settings come before those that they contain. "mkldnn" is oneDNN on the CPU, "cuda" cuDNN and cuBLAS.
_SETTINGS: tuple[_Setting, ...] = (
    ("generic", "all"), ("cuda", "all"), ("cuda", "conv"), ("cuda", "rnn"), ("cuda", "matmul"),
    ("mkldnn", "all"), ("mkldnn", "conv"), ("mkldnn", "rnn"), ("mkldnn", "matmul"),
)  # fmt: skip


def convolutions_use_tf32() -> bool:
    """Whether PyTorch's convolutions of float32 on a GPU may round what they multiply to tf32, however that was set.

    On AMD's GPUs they never do, and few of these could: their matrix units multiply float32 itself.
    """
    return not _gpu.is_amd() and torch._C._get_fp32_precision_getter("cuda", "conv") == _TF32


@functools.cache
def bfloat16_unit() -> str:
    """What this processor multiplies bfloat16 with, faster than float32: "AMX", "AVX512-BF16", or "" for nothing."""
    if hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
    else:
        amx, avx512 = torch.cpu._is_amx_tile_supported(), torch.cpu._is_avx512_bf16_supported()
        found = {"amx_bf16": amx, "avx512_bf16": avx512}
    return "AMX" if found.get("amx_bf16") else "AVX512-BF16" if found.get("avx512_bf16") else ""


@contextmanager
def exact_float32() -> Iterator[None]:
    """Within it float32 is multiplied as float32: neither tf32 nor bfloat16 in cuDNN, cuBLAS or oneDNN.

    On exit every setting is what it was on entry, through whichever of PyTorch's interfaces it had been set. The
    settings are global to the process. Autocast is a matter of its own.
    """
    with _settings(_State(dict.fromkeys(_SETTINGS, _EXACT), cudnn_allows_tf32=False, matmul_precision="highest")):
        yield


@contextmanager
def tf32_on_gpus() -> Iterator[None]:
    """Within it cuDNN and cuBLAS round what they multiply of float32 to tf32; on CPUs float32 stays as it is.

    On exit every setting is what it was on entry. `exact_float32` within it, or around it, holds in its own body.
    """
    values = {(backend, operation): _TF32 if backend == "cuda" else _EXACT for backend, operation in _SETTINGS}
    with _settings(_State(values, cudnn_allows_tf32=True, matmul_precision="high")):
        yield


@dataclass(frozen=True)
class _State:
    """All settings.

    Attributes:
        values: The value of each of _SETTINGS, "none" included.
        cudnn_allows_tf32: torch.backends.cudnn.allow_tf32.
        matmul_precision: The argument of torch.set_float32_matmul_precision.
    """

    values: dict[_Setting, str]
    cudnn_allows_tf32: bool
    matmul_precision: str

    @classmethod
    def take(cls) -> "_State":
        """Reads and unsets all settings. Being unset, no outer one answers for an inner one that is read after it."""
        values = {}
        for setting in _SETTINGS:
            values[setting] = torch._C._get_fp32_precision_getter(*setting)
            torch._C._set_fp32_precision_setter(*setting, _UNSET)
        with _without_deprecations():
            try:
                allows_tf32 = torch._C._get_cudnn_allow_tf32()
            # It contradicts the settings, which allow nothing now.
            except RuntimeError:
                allows_tf32 = True
            return cls(values, allows_tf32, torch.get_float32_matmul_precision())

    def apply(self) -> None:
        with _without_deprecations():
            torch._C._set_cudnn_allow_tf32(self.cudnn_allows_tf32)
            torch.set_float32_matmul_precision(self.matmul_precision)
        # These come last, as the older settings overwrite them.
        for setting, value in self.values.items():
            torch._C._set_fp32_precision_setter(*setting, value)


@contextmanager
def _settings(state: _State) -> Iterator[None]:
    """Applies all settings for its body; on exit they are what they were, through whichever interface they were set."""
    previous = _State.take()
    try:
        state.apply()
        yield
    finally:
        previous.apply()


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """Silences PyTorch 2.9, which tells users to give up older settings that they may never have used."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please use the new API settings")
        yield
