# SPDX-License-Identifier: Apache-2.0
"""What is measured on GPUs, what each case must reach, and in which order it is measured."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import hsr_kernels as hk
from hsr_kernels.modulated_conv2d.routes import CONVOLUTION, FUSED

from ..cases import Case, Target
from ..workloads import (
    BOTH,
    FORWARD,
    MAIN,
    PATH,
    SCHEDULE,
    STEP,
    bias_act,
    feature_loss,
    fir,
    styled_layer,
    training,
)

_FIR = {"n": 8, "channels": 128, "side": 256}
_FIR_TINY = {"n": 1, "channels": 4, "side": 16}
# Layers of a generator with 32768 / resolution channels: (resolution, channels in, channels out, batch).
_LAYERS = ((256, 256, 128, 8), (128, 512, 256, 8), (512, 128, 64, 4), (1024, 64, 32, 4))
_LAYER_TINY = {"n": 2, "c_in": 4, "c_out": 8, "side": 8}
_HSR = {"sides": (8, 16, 32, 64), "channels": (512, 512, 512, 512), "hidden": 4096, "dim": 768, "target": 14}
_HSR_TINY = {"n": 1, "sides": (4, 8), "channels": (8, 4), "hidden": 32, "dim": 8, "target": 5}
_LAYOUTS = {"": torch.contiguous_format, "channels_last": torch.channels_last}
_TRAINING = {"resolution": 256, "batch": 32, "encoder": ""}
_TRAINING_TINY: dict[str, Any] = {
    "resolution": 8, "batch": 4, "encoder": "", "z_dim": 8, "w_dim": 8, "mapping_layers": 2, "channel_base": 64,
    "channel_max": 8, "hsr_hidden": 8,
}  # fmt: skip
_TRAINED = ("bias_act", "conv2d_resample", "modulated_conv2d", "upfirdn2d")
_PER_STEP = 1000 / _TRAINING["batch"]
# R1 in every 16th step, path length in every 4th.
_PER_1000 = {STEP: _PER_STEP / 16, PATH: _PER_STEP * 3 / 16, MAIN: _PER_STEP * 12 / 16}


def _short(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]


def _memory_bound() -> Iterator[Case]:
    """Operators that compute next to nothing, on images of more than 64 MB."""
    operators = {
        "bias_act": ("lrelu + clamp", bias_act),
        "upsample2d": ("[1,3,3,1]", partial(fir, hk.upsample2d)),
        "downsample2d": ("[1,3,3,1]", partial(fir, hk.downsample2d)),
        "filter2d": ("[1,3,3,1]", partial(fir, hk.filter2d)),
    }
    for dtype in (torch.bfloat16, torch.float32):
        for name, (details, build) in operators.items():
            size = _FIR | ({"side": 128} if name == "upsample2d" else {})
            for layout, memory_format in _LAYOUTS.items():
                yield Case(
                    f"{name}_{_short(dtype)}{'_last' if layout else ''}",
                    ", ".join(filter(None, (
                        name, details, f"8x128x{size['side']}x{size['side']}", _short(dtype), layout
                    ))),
                    build,
                    size | {"layout": memory_format},
                    _FIR_TINY | {"layout": memory_format},
                    {FORWARD: Target(copy=0.9), BOTH: Target(copy=0.9)},
                    dtype=dtype,
                    reread=("output",) if name == "bias_act" else (),
                    operators=("bias_act" if name == "bias_act" else "upfirdn2d",),
                )  # fmt: skip


def _layers() -> Iterator[Case]:
    """Layers of the synthesis network in channels_last, as mixed-precision training has them."""
    for side, c_in, c_out, n in _LAYERS:
        for up in (1, 2):
            for dtype in (torch.bfloat16, torch.float16):
                last = {"up": up, "layout": torch.channels_last}
                size = {"n": n, "c_in": c_in if up == 2 else c_out, "c_out": c_out, "side": side} | last
                to = f"{'up to ' if up == 2 else ''}{n}x{side}x{side}"
                yield Case(
                    f"styled{'_up' if up == 2 else ''}_{side}_{_short(dtype)}",
                    f"styled layer, {size['c_in']} -> {c_out} ch, {to}, {_short(dtype)}",
                    styled_layer,
                    size,
                    _LAYER_TINY | last,
                    {FORWARD: Target(), BOTH: Target(1.5, compiled=1.2)},
                    dtype=dtype,
                    reread=("inputs", "parameters", "output"),
                    routes=(FUSED, CONVOLUTION) if up == 1 else (None,),
                    operators=("modulated_conv2d",),
                )


def _losses() -> Iterator[Case]:
    demand = Target(3.0, peak=0.1)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        bf16 = dtype == torch.bfloat16
        yield Case(
            f"feature_loss_{_short(dtype)}",
            f"feature_projection_loss, batch 16, K=4096, D=768, T=14, {_short(dtype)}",
            feature_loss,
            _HSR | {"n": 16},
            _HSR_TINY,
            {FORWARD: Target(), BOTH: replace(demand, released=10.0, released_peak=0.1) if bf16 else demand},
            measure_peak=True,
            dtype=dtype,
            reread=("inputs", "parameters"),
            operators=("feature_projection_loss",),
        )


def _trainings() -> Iterator[Case]:
    setting = "256x256 (paper256), batch 32, fp16 in 4 resolutions"
    twice = "R1 and path length differentiate twice, which AOTAutograd does not support"
    yield Case(
        "training_256",
        f"training at {setting}",
        training,
        _TRAINING,
        _TRAINING_TINY,
        {STEP: Target(1.5), PATH: Target(), MAIN: Target(), SCHEDULE: Target(1.5)},
        no_compile=twice,
        operators=_TRAINED,
        per_1000=_PER_1000,
    )
    yield Case(
        "training_256_hsr",
        f"training at {setting}, HSR with ViT-B/16 in bf16",
        training,
        _TRAINING | {"encoder": "vit_base_patch16_224.dino"},
        # Of the tiny one nothing but the interface is like ViT-B/16.
        _TRAINING_TINY | {"encoder": "test_vit.r160_in1k"},
        {STEP: Target(), PATH: Target(), MAIN: Target(), SCHEDULE: Target(without=1.1)},
        no_compile=twice,
        without={"encoder": ""},
        operators=(*_TRAINED, "feature_projection_loss"),
        per_1000=_PER_1000,
    )


GPU_CASES = (*_losses(), *_memory_bound(), *_trainings(), *_layers())

# What is worth most where time runs out: (part of a case's name, its passes; none: all). Layers in bf16 are twins of
# those in fp16, and training with HSR needs an encoder's package.
_FIRST: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("training_256", (MAIN,)),
    ("styled_256_fp16", ()),
    ("styled_up_256_fp16", ()),
    ("feature_loss_bf16", ()),
    *((f"{name}_bf16{last}", ()) for name in ("bias_act", "filter2d", "upsample2d") for last in ("", "_last")),
    ("training_256", (PATH, STEP)),
)
_LAST = ("styled_128_bf16", "styled_up_128_bf16", "styled_512_bf16", "styled_up_512_bf16", "styled_1024_bf16",
         "styled_up_1024_bf16", "training_256_hsr")  # fmt: skip


def pieces(only: str) -> Iterator[tuple[Case, Sequence[str]]]:
    """The cases whose name contains `only` with the passes to be measured, the most important first."""
    cases = {case.name: case for case in GPU_CASES}
    left = {name: [phase for phase in case.targets if phase != SCHEDULE] for name, case in cases.items()}
    rest = [*(name for name in cases if name not in _LAST), *_LAST]
    for name, wanted in (*_FIRST, *((name, ()) for name in rest)):
        phases = [phase for phase in left[name] if phase in (wanted or left[name])]
        left[name] = [phase for phase in left[name] if phase not in phases]
        if phases and only in name:
            yield cases[name], phases
