# SPDX-License-Identifier: Apache-2.0
"""How PyTorch's libraries may multiply float32: what its settings allow, and how to have float32 in full for a while.

The settings nest. An operation's, such as ("cuda", "conv"), counts unless it is "none"; then its backend's counts, and
after that ("generic", "all"). What PyTorch returns for a setting is what counts. Two older ones,
`torch.backends.cudnn.allow_tf32` and `torch.set_float32_matmul_precision`, are remembered apart and overwrite the newer
ones, but not the other way round: where both contradict each other, the older ones can't be read without an error.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

_Setting = tuple[str, str]  # backend and operation
_EXACT = "ieee"
_UNSET = "none"
# The outer ones of those that nest come first. "mkldnn" is oneDNN on the CPU, "cuda" cuDNN and cuBLAS.
_SETTINGS: tuple[_Setting, ...] = (
    ("generic", "all"), ("cuda", "all"), ("cuda", "conv"), ("cuda", "rnn"), ("cuda", "matmul"),
    ("mkldnn", "all"), ("mkldnn", "conv"), ("mkldnn", "rnn"), ("mkldnn", "matmul"),
)  # fmt: skip


def convolutions_use_tf32() -> bool:
    """Whether PyTorch's convolutions of float32 on a GPU may round what they multiply to tf32, however that was set."""
    return torch._C._get_fp32_precision_getter("cuda", "conv") == "tf32"


@contextmanager
def exact_float32() -> Iterator[None]:
    """Within it float32 is multiplied as float32: neither tf32 nor bfloat16 in cuDNN, cuBLAS or oneDNN.

    On exit every setting is what it was on entry, through whichever of PyTorch's interfaces it had been set. The
    settings are global to the process. Autocast is a matter of its own.
    """
    before = _State.taken()
    try:
        _State(dict.fromkeys(_SETTINGS, _EXACT), cudnn_allows_tf32=False, matmul_precision="highest").put()
        yield
    finally:
        before.put()


@dataclass(frozen=True)
class _State:
    """All settings.

    Attributes:
        own: The value of each of _SETTINGS, be it "none".
        cudnn_allows_tf32: torch.backends.cudnn.allow_tf32.
        matmul_precision: Of torch.set_float32_matmul_precision.
    """

    own: dict[_Setting, str]
    cudnn_allows_tf32: bool
    matmul_precision: str

    @classmethod
    def taken(cls) -> "_State":
        """The settings as they were; they are unset by being read, so that no outer one answers for an inner one."""
        own = {}
        for setting in _SETTINGS:
            own[setting] = torch._C._get_fp32_precision_getter(*setting)
            torch._C._set_fp32_precision_setter(*setting, _UNSET)
        with _without_deprecations():
            try:
                allows = torch._C._get_cudnn_allow_tf32()
            # It contradicts the settings, which allow nothing now.
            except RuntimeError:
                allows = True
            return cls(own, allows, torch.get_float32_matmul_precision())

    def put(self) -> None:
        with _without_deprecations():
            torch._C._set_cudnn_allow_tf32(self.cudnn_allows_tf32)
            torch.set_float32_matmul_precision(self.matmul_precision)
        # Last, as the older settings have overwritten them.
        for setting, value in self.own.items():
            torch._C._set_fp32_precision_setter(*setting, value)


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """Keeps PyTorch 2.9 from telling users to give up older settings that they may never have used."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please use the new API settings")
        yield
