# SPDX-License-Identifier: Apache-2.0
"""What is measured on GPUs, what each case must reach, and in which order it is measured."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from hsr_kernels._dispatch.request import CONVOLUTION, FUSED

from ..case import LAYERS, STEPS, Case, Target
from ..networks import training
from ..workloads import (
    BOTH,
    FORWARD,
    IMAGE_OPERATORS,
    MAIN,
    PATH,
    SCHEDULE,
    STEP,
    feature_loss,
    filtered_lrelu,
    styled_layer,
)

_IMAGES = {"n": 8, "channels": 128, "side": 256}
_IMAGES_TINY = {"n": 1, "channels": 4, "side": 16}
# Layers of a generator with 32768 / resolution channels: (resolution, channels in, channels out, batch).
_LAYERS = ((256, 256, 128, 8), (128, 512, 256, 8), (512, 128, 64, 4), (1024, 64, 32, 4))
_LAYER_TINY = {"n": 2, "c_in": 4, "c_out": 8, "side": 8}
_HSR = {"sides": (8, 16, 32, 64), "channels": (512, 512, 512, 512), "hidden": 4096, "dim": 768, "target": 14}
_HSR_TINY = {"n": 1, "sides": (4, 8), "channels": (8, 4), "hidden": 32, "dim": 8, "target": 5}
_LAYOUTS = {"": torch.contiguous_format, "channels_last": torch.channels_last}
_TRAINING: dict[str, Any] = {"resolution": 256, "batch": 32, "encoder": ""}
_TRAINING_TINY: dict[str, Any] = {
    "resolution": 8, "batch": 4, "encoder": "", "z_dim": 8, "w_dim": 8, "mapping_layers": 2, "channel_base": 64,
    "channel_max": 8, "hsr_hidden": 8,
}  # fmt: skip
_TRAINING_OPERATORS = ("bias_act", "conv2d_resample", "modulated_conv2d", "upfirdn2d")
_STEPS = 1000 / _TRAINING["batch"]
# R1 in every 16th step, path length in every 4th.
_STEPS_PER_1000_IMAGES = {STEP: _STEPS / 16, PATH: _STEPS * 3 / 16, MAIN: _STEPS * 12 / 16}


def _short(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]


def _image_operators() -> Iterator[Case]:
    """Yields memory-bound operators, on images of more than 64 MB."""
    for dtype in (torch.bfloat16, torch.float32):
        for name, operator in IMAGE_OPERATORS.items():
            size = _IMAGES | ({"side": 128} if name == "upsample2d" else {})
            shape = f"8x128x{size['side']}x{size['side']}"
            for layout, memory_format in _LAYOUTS.items():
                yield Case(
                    f"{name}_{_short(dtype)}{'_last' if layout else ''}",
                    ", ".join(filter(None, (name, operator.details, shape, _short(dtype), layout))),
                    operator.build,
                    size | {"layout": memory_format},
                    _IMAGES_TINY | {"layout": memory_format},
                    {FORWARD: Target(copy=0.9), BOTH: Target(copy=0.9)},
                    dtype=dtype,
                    reread=operator.reread,
                    operators=(operator.operator,),
                )


def _activations() -> Iterator[Case]:
    """Yields the activation of a StyleGAN3 layer, which is one kernel in 16 bits."""
    yield Case(
        "filtered_lrelu_bf16",
        "filtered_lrelu, up and down 2, 12 taps, 8x128x148x148, bf16",
        filtered_lrelu,
        {"n": 8, "channels": 128, "side": 148},
        _IMAGES_TINY,
        {FORWARD: Target(), BOTH: Target()},
        dtype=torch.bfloat16,
        operators=("filtered_lrelu",),
    )


def _layers() -> Iterator[Case]:
    """Yields layers of the synthesis network in channels_last, as mixed-precision training has them."""
    for side, c_in, c_out, n in _LAYERS:
        for up in (1, 2):
            for dtype in (torch.bfloat16, torch.float16):
                options = {"up": up, "layout": torch.channels_last}
                size = {"n": n, "c_in": c_in if up == 2 else c_out, "c_out": c_out, "side": side} | options
                output = f"{'up to ' if up == 2 else ''}{n}x{side}x{side}"
                yield Case(
                    f"styled{'_up' if up == 2 else ''}_{side}_{_short(dtype)}",
                    f"styled layer, {size['c_in']} -> {c_out} ch, {output}, {_short(dtype)}",
                    styled_layer,
                    size,
                    _LAYER_TINY | options,
                    {FORWARD: Target(), BOTH: Target(1.5, compiled=1.2)},
                    dtype=dtype,
                    reread=("inputs", "parameters", "output"),
                    routes=(FUSED, CONVOLUTION) if up == 1 else (None,),
                    operators=("modulated_conv2d",),
                    suite=LAYERS,
                )


def _losses() -> Iterator[Case]:
    target = Target(3.0, peak=0.1)
    bfloat16_target = replace(target, released=10.0, released_peak=0.1)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        yield Case(
            f"feature_loss_{_short(dtype)}",
            f"feature_projection_loss, batch 16, K=4096, D=768, T=14, {_short(dtype)}",
            feature_loss,
            _HSR | {"n": 16},
            _HSR_TINY,
            {FORWARD: Target(), BOTH: bfloat16_target if dtype == torch.bfloat16 else target},
            dtype=dtype,
            reread=("inputs", "parameters"),
            operators=("feature_projection_loss",),
        )


def _trainings() -> Iterator[Case]:
    setting = "256x256 (paper256), batch 32, fp16 in 4 resolutions"
    reason = "R1 and path length differentiate twice, which AOTAutograd does not support"
    yield Case(
        "training_256",
        f"training at {setting}",
        training,
        _TRAINING,
        _TRAINING_TINY,
        {STEP: Target(1.5), PATH: Target(), MAIN: Target(), SCHEDULE: Target(1.5)},
        why_not_compiled=reason,
        suite=STEPS,
        operators=_TRAINING_OPERATORS,
        steps_per_1000_images=_STEPS_PER_1000_IMAGES,
    )
    yield Case(
        "training_256_hsr",
        f"training at {setting}, HSR with ViT-B/16 in bf16",
        training,
        _TRAINING | {"encoder": "vit_base_patch16_224.dino"},
        # It has nothing in common with ViT-B/16 but the interface.
        _TRAINING_TINY | {"encoder": "test_vit.r160_in1k"},
        {STEP: Target(), PATH: Target(), MAIN: Target(), SCHEDULE: Target(baseline=1.1)},
        why_not_compiled=reason,
        suite=STEPS,
        baseline_changes={"encoder": ""},
        operators=(*_TRAINING_OPERATORS, "feature_projection_loss"),
        steps_per_1000_images=_STEPS_PER_1000_IMAGES,
    )


GPU_CASES = (*_losses(), *_image_operators(), *_activations(), *_trainings(), *_layers())

# What is worth most where time runs out: (a case, its passes, all of them where none is named).
_FIRST_PIECES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("training_256", (MAIN,)),
    ("styled_256_fp16", ()),
    ("styled_up_256_fp16", ()),
    ("feature_loss_bf16", ()),
    *((f"{name}_bf16{layout}", ()) for name in ("bias_act", "filter2d", "upsample2d") for layout in ("", "_last")),
    ("training_256", (PATH, STEP)),
)
# Layers in bf16 are twins of those in fp16, and training with HSR needs an encoder's package.
_LAST_CASES = (
    "styled_128_bf16", "styled_up_128_bf16", "styled_512_bf16", "styled_up_512_bf16", "styled_1024_bf16",
    "styled_up_1024_bf16", "training_256_hsr",
)  # fmt: skip


def pieces(case_filter: str) -> Iterator[tuple[Case, Sequence[str]]]:
    """Yields the cases whose name contains `case_filter` with the passes to be measured, the most important first."""
    cases = {case.name: case for case in GPU_CASES}
    remaining = {name: [phase for phase in case.targets if phase != SCHEDULE] for name, case in cases.items()}
    names = [*(name for name in cases if name not in _LAST_CASES), *_LAST_CASES]
    for name, wanted in (*_FIRST_PIECES, *((name, ()) for name in names)):
        phases = [phase for phase in remaining[name] if phase in (wanted or remaining[name])]
        remaining[name] = [phase for phase in remaining[name] if phase not in phases]
        if phases and case_filter in name:
            yield cases[name], phases
