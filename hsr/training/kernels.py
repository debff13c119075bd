# SPDX-License-Identifier: Apache-2.0
"""What of Triton's kernels training launches: its phases on tensors without data, so that they are compiled at once.

The networks are made once more on the CPU, where `hsr_kernels.aot` runs them for the GPU; nothing is computed.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import hsr_kernels
from hsr_kernels._precision import exact_float32

from ..config import Config, preset
from ..semantics.encoders import Encoder
from .trainer import Trainer, hsr_dtype

# The trainer does without what images and terminals need.
if TYPE_CHECKING:
    from rich.console import Console

    from ..data import ImageDataset

CPU = torch.device("cpu")
NamedCall = tuple[str, Callable[[], None]]
# Features of a ViT-B/16 at four depths, for images of 224 pixels.
_VIT_SHAPES = ((768, 14),) * 4
_DIGITS_RESOLUTION, _PHOTOGRAPHS_RESOLUTION = 32, 256


class _Shapes(Encoder):
    """An encoder that knows nothing but the shapes (D, T) of its features."""

    name = "shapes"
    has_class_token = True

    def __init__(self, shapes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.shapes = shapes

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        return [images.new_empty(len(images), channels, size, size) for channels, size in self.shapes]

    def class_tokens(self, images: Tensor, num_scales: int) -> list[Tensor]:
        return [images.new_empty(len(images), channels, 1, 1) for channels, _ in self.shapes[:num_scales]]


@dataclasses.dataclass(frozen=True)
class _Images:
    """What a trainer asks of a data set."""

    resolution: int
    classes: tuple[int, ...] = ()
    labels: None = None


def prepare(
    config: Config,
    dataset: "ImageDataset",
    encoder: Encoder | None,
    device: torch.device,
    processes: int,
    console: "Console",
) -> None:
    """Compiles what of Triton's kernels a run launches on its GPU, on all cores, unless Triton's cache has it.

    Training does without: a kernel that isn't there is compiled at its first launch.
    """
    if device.type != "cuda" or hsr_kernels.backends(device=device)["triton"]:
        return
    # It imports Triton, which needn't be installed.
    from hsr_kernels.aot import record, warm

    cores, began = len(os.sched_getaffinity(0)), time.perf_counter()
    with torch.cuda.device(device), console.status("Finding the kernels of Triton that training launches") as status:
        chip = record.chip_at_hand()
        outcome = warm.warm(
            phases(config, dataset, None if encoder is None else encoder.shapes, processes),
            chip,
            cores,
            lambda done, total: status.update(f"Compiling kernels of Triton: {done} of {total}"),
        )
    if outcome.builds:
        console.print(f"Triton: {outcome.described(chip, cores, time.perf_counter() - began)}", highlight=False)
    for fault in outcome.faults:
        console.print(f"Triton: not prepared: {fault}", highlight=False, markup=False)


def calls() -> Iterator[NamedCall]:
    """Yields the phases of `hsr train` without arguments, and of it with photographs at 256x256, on a GPU."""
    from ..semantics.labels import LabelEncoder

    classes = tuple(range(10))
    digits: Any = _Images(_DIGITS_RESOLUTION, classes)
    photographs: Any = _Images(_PHOTOGRAPHS_RESOLUTION)
    for name, images, shapes in (
        ("digits", digits, LabelEncoder(len(classes)).shapes),
        ("auto", photographs, _VIT_SHAPES),
    ):
        for phase, call in phases(preset(name, images.resolution, "cuda"), images, shapes):
            # As `hsr train` multiplies without --tf32.
            yield f"{name}, {phase}", exact_float32()(call)


def phases(
    config: Config, dataset: "ImageDataset", shapes: Sequence[tuple[int, int]] | None, processes: int = 1
) -> Iterator[NamedCall]:
    """Yields each phase of a step of training on a GPU, and the images of its generator, with a name.

    Args:
        config: Settings of the run.
        dataset: Its images, of which only resolution and classes matter.
        shapes: (D, T) of the encoder's features, or None without an encoder.
        processes: Number of processes that train together.
    """
    precision = "float32" if hsr_dtype(config, torch.device("cuda")) is None else "bfloat16"
    batch = config.batch // processes // config.parts_per_process(processes)
    settings: dict[str, Any] = {"batch": batch, "batch_gpu": None, "hsr_precision": precision, "cuda_graphs": "off"}
    # What is drawn for its weights is none of the run's numbers.
    with torch.random.fork_rng(devices=[]):
        trainer = Trainer(
            dataclasses.replace(config, **settings), dataset, None if shapes is None else _Shapes(shapes), CPU
        )
    yield from phases_of(trainer, dataset.resolution)


def phases_of(trainer: Trainer, resolution: int) -> Iterator[NamedCall]:
    """Yields each phase of a trainer's step, and the images of its generator, with a name; its networks are on the CPU.

    They are called on tensors without data, which `hsr_kernels.aot.record` gives them.
    """
    config, loss, hsr = trainer.config, trainer.loss, trainer.hsr
    G, D = [*trainer.G.parameters(), *(hsr.parameters() if hsr is not None else ())], list(trainer.D.parameters())

    def z() -> Tensor:
        return torch.empty(config.batch, config.z_dim)

    def c() -> Tensor | None:
        return torch.empty(config.batch, trainer.c_dim) if trainer.c_dim else None

    def real() -> Tensor:
        return torch.empty(config.batch, 3, resolution, resolution)

    objectives = {
        "G main": (G, D, lambda: loss.generator_main(z(), c())),
        "G path length": (G, D, lambda: loss.generator_path_length(z(), c())),
        "D main": (D, G, lambda: loss.discriminator_main(real(), c(), z(), c())),
        "D R1": (D, G, lambda: loss.discriminator_r1(real(), c())),
    }
    for name, (trained, frozen, objective) in objectives.items():

        def phase(trained: Any = trained, frozen: Any = frozen, objective: Any = objective) -> None:
            for parameter in frozen:
                parameter.requires_grad_(False)
            for parameter in trained:
                parameter.requires_grad_(True)
            # Not backward(): a real parameter takes no gradient without data.
            torch.autograd.grad(objective()[0], trained, allow_unused=True)

        yield name, phase

    def images() -> None:
        with torch.no_grad():
            trainer.G_ema(z(), c())

    yield "images", images
