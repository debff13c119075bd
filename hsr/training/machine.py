# SPDX-License-Identifier: Apache-2.0
"""The settings that the processor decides: what is computed in bfloat16, and by how many threads."""

import dataclasses
import os
import statistics
import time

import torch
from rich.console import Console
from torch import Tensor

from hsr_kernels._precision import bfloat16_unit

from ..config import Config
from ..device import cpu_threads
from ..models.build import build_discriminator

# Steps on smaller images are mostly the host's work, which no precision makes faster.
MIN_BFLOAT16_RESOLUTION = 32
# Variables by which users set the number of threads of PyTorch.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# Each number of threads is timed so often, in turns, as other processes come and go; large networks less often.
_TIMED_RUNS = 5
_MAX_SECONDS = 5.0
# Another number of threads than PyTorch's must save this share of the time.
_WORTHWHILE_SAVING = 0.1


def decide_precision(config: Config, resolution: int, device: torch.device) -> tuple[Config, list[str]]:
    """Returns a configuration in which a CPU has a precision of its own, and a sentence if that is bfloat16.

    fp16, the published precision, is for GPUs alone. Where the processor multiplies bfloat16 faster than float32 and
    images are large enough, the resolutions of low precision have bfloat16, and so has HSR where it is left to us.
    """
    unit = bfloat16_unit()
    is_undecided = device.type == "cpu" and config.mixed_precision == "fp16" and config.mixed_precision_resolutions > 0
    if not is_undecided or not unit or resolution < MIN_BFLOAT16_RESOLUTION:
        return config, []
    hsr_precision = "bfloat16" if config.hsr_precision == "auto" else config.hsr_precision
    sentence = (
        f"Convolutions are computed in bfloat16, which this processor multiplies faster than float32 ({unit}); "
        "--precision off computes everything in float32."
    )
    return dataclasses.replace(config, mixed_precision="bf16", hsr_precision=hsr_precision), [sentence]


def decide_threads(config: Config, resolution: int, console: Console) -> tuple[Config, list[str]]:
    """Returns a configuration with the number of CPU threads that is fastest now, and a sentence on it.

    What is timed is the discriminator, forward and backward, on a part of a batch; on cores that other processes use,
    threads wait for each other longer than they compute. PyTorch's number is kept where the configuration or the
    environment has one, and where it is 1.
    """
    available = torch.get_num_threads()
    if config.threads is not None or available == 1 or any(os.environ.get(name) for name in _THREAD_VARIABLES):
        return config, []
    candidates = sorted({available, *(2**i for i in range(available.bit_length()))}, reverse=True)
    with console.status("Measuring how many threads are fastest"), torch.random.fork_rng(devices=[]):
        seconds = _time_threads(config, resolution, candidates)
    threads = min(candidates, key=seconds.__getitem__)
    if seconds[threads] > (1 - _WORTHWHILE_SAVING) * seconds[available]:
        threads = available
    times = ", ".join(f"{1000 * seconds[n]:.3g} ms with {n}" for n in sorted(candidates))
    sentence = f"{threads} of {available} threads compute, as a part of a step takes {times} (--threads sets a number)."
    return dataclasses.replace(config, threads=threads), [sentence]


def _time_threads(config: Config, resolution: int, candidates: list[int]) -> dict[int, float]:
    """Returns the median seconds of a part of a step by number of threads."""
    network = build_discriminator(config, resolution, 0)
    images = torch.randn(config.minibatch_std_group, 3, resolution, resolution)
    seconds: dict[int, list[float]] = {n: [] for n in candidates}
    start = time.perf_counter()
    for run in range(1 + _TIMED_RUNS):
        for n in candidates:
            with cpu_threads(n):
                seconds[n].append(_time_once(network, images))
        if run > 0 and time.perf_counter() - start > _MAX_SECONDS:
            break
    # The first run also makes what PyTorch keeps for a number of threads.
    return {n: statistics.median(times[1:]) for n, times in seconds.items()}


def _time_once(network: torch.nn.Module, images: Tensor) -> float:
    start = time.perf_counter()
    network(images).sum().backward()
    return time.perf_counter() - start
