# SPDX-License-Identifier: Apache-2.0
"""What launches, measurements and reports need to know of a GPU: the one place where NVIDIA's and AMD's differ.

PyTorch calls both "cuda". AMD's are "gfx" and a number; PyTorch makes a compute capability of it that means nothing
beside NVIDIA's.
"""

import functools
from dataclasses import dataclass

import torch

NVIDIA, CDNA, RDNA = "NVIDIA", "CDNA", "RDNA"
# AMD's chips that the Triton kernels are compiled for without a GPU, and those with the same instructions.
AMD_CHIPS = ("gfx942", "gfx950", "gfx110")


@dataclass(frozen=True)
class Gpu:
    """A GPU, as tilings and options of launches depend on it.

    Attributes:
        family: NVIDIA, CDNA or RDNA.
        generation: Of an NVIDIA GPU, its compute capability before the point; 0 for all others, and for no GPU.
        processors: Multiprocessors, which AMD calls compute units or work-group processors.
    """

    family: str
    generation: int
    processors: int

    @property
    def lanes(self) -> int:
        """Threads that execute together: a warp, which AMD calls a wave."""
        return 64 if self.family == CDNA else 32

    @property
    def max_stages(self) -> int:
        """Stages of pipelined loads that are worth their shared memory.

        AMD's chips have 64 KiB of it, and Triton keeps the stage that comes next in registers there.
        """
        return 4 if self.family == NVIDIA else 2

    @property
    def needs_small_product_tiles(self) -> bool:
        """Whether products take more registers than NVIDIA's: RDNA's keep each operand in both halves of a wave."""
        return self.family == RDNA

    @property
    def has_asynchronous_products(self) -> bool:
        """Whether tensor cores read their operands from shared memory, which leaves registers to everything else."""
        return self.generation in (9, 10)


# What launches in Triton's interpreter and on tensors without a device are made for.
NO_GPU = Gpu(NVIDIA, 0, 1)


def of(tensor: torch.Tensor) -> Gpu:
    """Returns the GPU that a tensor is on."""
    return _of_index(tensor.device.index) if tensor.is_cuda else NO_GPU


@functools.cache
def _of_index(index: int | None) -> Gpu:
    processors = torch.cuda.get_device_properties(index).multi_processor_count
    if is_amd():
        return amd(chip(index), processors)
    return Gpu(NVIDIA, torch.cuda.get_device_capability(index)[0], processors)


def amd(name: str, processors: int) -> Gpu:
    """Returns the AMD GPU with a name such as "gfx942"."""
    return Gpu(CDNA if name.startswith("gfx9") else RDNA, 0, processors)


def is_amd() -> bool:
    """Whether PyTorch was built for AMD's GPUs, and so sees no others."""
    return getattr(torch.version, "hip", None) is not None


def chip(index: int | None) -> str:
    """Returns the kind of a GPU (None: the current one): its compute capability, "9.0", or AMD's name, "gfx942"."""
    if is_amd():
        # Features that are on or off follow the name.
        name: str = torch.cuda.get_device_properties(index).gcnArchName
        return name.partition(":")[0]
    return "{}.{}".format(*torch.cuda.get_device_capability(index))


def reset() -> None:
    """Forgets the GPUs."""
    _of_index.cache_clear()
