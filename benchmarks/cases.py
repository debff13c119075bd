# SPDX-License-Identifier: Apache-2.0
"""What is measured on CPUs, and what each case must reach; gpu_cases.py has those of GPUs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

import hsr_kernels as hk

from .workloads import BOTH, FORWARD, STEP, Workload, bias_act, feature_loss, fir, styled_layer, training_step

Size = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """What a phase must reach; None where nothing is demanded.

    Attributes:
        reference: Times faster than the reference backend.
        compiled: Times faster than `torch.compile` of the reference.
        peak: Peak extra memory, as a fraction of the reference's.
        copy: Bandwidth over the fewest bytes that can be moved, as a fraction of a device copy's.
        released: Times faster than the reference backend in float32, the only precision of the released code.
        released_peak: Peak extra memory, as a fraction of that of the reference backend in float32.
        without: Time, as a multiple of the time without what the case measures.
    """

    reference: float | None = None
    compiled: float | None = None
    peak: float | None = None
    copy: float | None = None
    released: float | None = None
    released_peak: float | None = None
    without: float | None = None


@dataclass(frozen=True)
class Case:
    """One piece of work at its real size, and at a tiny one that shows only that everything runs.

    Attributes:
        name: What `--case` matches.
        title: The line's name in the table.
        build: Called with `size` or `tiny`.
        targets: The phases to time, and what they must reach.
        measure_peak: Measure peak extra memory too.
        no_compile: Why torch.compile can't run it; empty where it can.
        dtype: Of the inputs and of what backward starts from; parameters are float32, as training has them.
        reread: What a backward pass has to read again: "inputs", "parameters", "output".
        routes: Of its modulated layer, to be judged one by one without a measurement; None: there is no choice.
        without: Changes of `size` and `tiny` that leave out what the case measures the cost of.
        operators: The public functions whose backends decide on which ones it can run.
        per_1000: How often each phase runs while 1000 images are trained on; empty for what isn't training.
    """

    name: str
    title: str
    build: Callable[..., Workload]
    size: Size
    tiny: Size
    targets: dict[str, Target]
    measure_peak: bool = False
    no_compile: str = ""
    dtype: torch.dtype = torch.float32
    reread: tuple[str, ...] = ()
    routes: tuple[str | None, ...] = (None,)
    without: Size = field(default_factory=dict)
    operators: tuple[str, ...] = ()
    per_1000: Mapping[str, float] = field(default_factory=dict)

    def workload(self, *, tiny: bool = False, device: str = "cpu") -> Workload:
        """Builds the work on a device."""
        with torch.device(device):
            work = self.build(**(self.tiny if tiny else self.size))

        def cast(t: torch.Tensor) -> torch.Tensor:
            return t.detach().to(self.dtype).requires_grad_(t.requires_grad)

        if self.dtype == torch.float32:
            return work
        # A loss is float32 whatever its inputs are.
        cotangent = work.cotangent if work.cotangent.ndim == 0 else cast(work.cotangent)
        return replace(work, inputs=[cast(t) for t in work.inputs], cotangent=cotangent)


_FIR, _FIR_TINY = {"n": 4, "channels": 128, "side": 128}, {"n": 1, "channels": 4, "side": 16}
_STYLED = {"n": 8, "c_in": 128, "c_out": 128, "side": 64, "up": 1}
_STYLED_TINY = {"n": 2, "c_in": 4, "c_out": 8, "side": 8, "up": 1}
_STYLED_UP = _STYLED | {"c_in": 256, "up": 2}
_STYLED_UP_TINY = _STYLED_TINY | {"up": 2}
_LAST = {"layout": torch.channels_last}

CASES = (
    Case(
        "upsample2d",
        "upsample2d, [1,3,3,1], 4x128x128x128",
        partial(fir, hk.upsample2d),
        _FIR,
        _FIR_TINY,
        {FORWARD: Target(8.0), BOTH: Target(6.0)},
    ),
    Case(
        "downsample2d",
        "downsample2d, [1,3,3,1], 4x128x128x128",
        partial(fir, hk.downsample2d),
        _FIR,
        _FIR_TINY,
        {FORWARD: Target(), BOTH: Target(4.0)},
    ),
    Case(
        "filter2d",
        "filter2d, [1,3,3,1], 4x128x128x128",
        partial(fir, hk.filter2d),
        _FIR,
        _FIR_TINY,
        {FORWARD: Target(), BOTH: Target(3.0)},
    ),
    Case(
        "bias_act",
        "bias_act, lrelu + clamp, 4x128x128x128",
        bias_act,
        _FIR,
        _FIR_TINY,
        {FORWARD: Target(), BOTH: Target(2.5, compiled=1.0)},
    ),
    Case(
        "styled",
        "styled layer, 128 ch, 8x64x64",
        styled_layer,
        _STYLED,
        _STYLED_TINY,
        {FORWARD: Target(), BOTH: Target(1.3)},
    ),
    Case(
        "styled_up",
        "styled layer, 256 -> 128 ch, up to 8x64x64",
        styled_layer,
        _STYLED_UP,
        _STYLED_UP_TINY,
        {FORWARD: Target(), BOTH: Target(1.5)},
    ),
    Case(
        "styled_channels_last",
        "styled layer, 128 ch, 8x64x64, channels_last",
        styled_layer,
        _STYLED | _LAST,
        _STYLED_TINY | _LAST,
        {FORWARD: Target(), BOTH: Target()},
    ),
    Case(
        "styled_up_channels_last",
        "styled layer, 256 -> 128 ch, up to 8x64x64, channels_last",
        styled_layer,
        _STYLED_UP | _LAST,
        _STYLED_UP_TINY | _LAST,
        {FORWARD: Target(), BOTH: Target()},
    ),
    Case(
        "feature_loss",
        "feature_projection_loss, batch 2, K=4096, D=768, T=14",
        feature_loss,
        {
            "n": 2,
            "sides": (8, 16, 32, 64),
            "channels": (512, 512, 512, 256),
            "hidden": 4096,
            "dim": 768,
            "target": 14,
        },
        {"n": 1, "sides": (4, 8), "channels": (8, 4), "hidden": 32, "dim": 8, "target": 5},
        {FORWARD: Target(), BOTH: Target(2.5, peak=1 / 3)},
        measure_peak=True,
    ),
    Case(
        "training_step",
        "training step at 64x64: G main, path length, D main, R1; batch 8",
        training_step,
        {"resolution": 64, "channel_base": 8192, "channel_max": 256, "batch": 8, "latent": 512},
        {"resolution": 8, "channel_base": 64, "channel_max": 8, "batch": 4, "latent": 8},
        {STEP: Target(1.5)},
        no_compile="R1 and path length differentiate twice, which AOTAutograd does not support",
    ),
)
