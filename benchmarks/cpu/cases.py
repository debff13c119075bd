# SPDX-License-Identifier: Apache-2.0
"""What is measured on CPUs, and what each case must reach."""

from collections.abc import Iterator, Mapping

import torch

from ..case import INFERENCE, LAYERS, STEPS, Case, Target
from ..networks import inference, training_step
from ..workloads import (
    BACKWARD,
    BOTH,
    FORWARD,
    IMAGE_OPERATORS,
    SECOND,
    STEP,
    bias_act,
    feature_loss,
    filtered_lrelu,
    styled_layer,
)

_IMAGES, _IMAGES_TINY = {"n": 4, "channels": 128, "side": 128}, {"n": 1, "channels": 4, "side": 16}
# A case's name -> what its forward pass alone and both passes must reach.
_IMAGE_TARGETS: Mapping[str, tuple[Target, Target]] = {
    "upsample2d": (Target(8.0), Target(6.0)),
    "downsample2d": (Target(), Target(4.0)),
    "filter2d": (Target(), Target(3.0)),
    "bias_act": (Target(), Target(2.5, compiled=1.0)),
}
_STYLED = {"n": 8, "c_in": 128, "c_out": 128, "side": 64, "up": 1}
_STYLED_TINY = {"n": 2, "c_in": 4, "c_out": 8, "side": 8, "up": 1}
_TRAINING = {"resolution": 64, "channel_base": 8192, "channel_max": 256, "batch": 8, "latent": 512}
_TRAINING_TINY = {"resolution": 8, "channel_base": 64, "channel_max": 8, "batch": 4, "latent": 8}
_WHY_NOT_COMPILED = "R1 and path length differentiate twice, which AOTAutograd does not support"
_UPSAMPLED, _UPSAMPLED_TINY = _STYLED | {"c_in": 256, "up": 2}, _STYLED_TINY | {"up": 2}


def _passes(forward: Target | None = None, both: Target | None = None) -> dict[str, Target]:
    """Every order of derivative by itself, and both passes as training has them."""
    return {FORWARD: forward or Target(), BACKWARD: Target(), SECOND: Target(), BOTH: both or Target()}


def _image_operators() -> Iterator[Case]:
    """Memory-bound operators; one without a target is measured too."""
    for name in (*_IMAGE_TARGETS, *(name for name in IMAGE_OPERATORS if name not in _IMAGE_TARGETS)):
        operator = IMAGE_OPERATORS[name]
        yield Case(
            name,
            f"{name}, {operator.details}, 4x128x128x128",
            operator.build,
            _IMAGES,
            _IMAGES_TINY,
            _passes(*_IMAGE_TARGETS.get(name, ())),
            reread=operator.reread,
        )
    yield Case(
        "bias_act_unclamped",
        "bias_act, lrelu, 4x128x128x128",
        bias_act,
        _IMAGES | {"clamp": None},
        _IMAGES_TINY | {"clamp": None},
        _passes(),
        reread=IMAGE_OPERATORS["bias_act"].reread,
    )


def _filtered() -> Iterator[Case]:
    """The activation of StyleGAN3's layers, of both of its configurations."""
    for name, title, radial in (("filtered_lrelu", "12 taps", False), ("filtered_lrelu_radial", "12x12 taps", True)):
        yield Case(
            name,
            f"filtered_lrelu, up and down 2, {title}, 4x128x84x84",
            filtered_lrelu,
            {"n": 4, "channels": 128, "side": 84, "radial": radial},
            {"n": 1, "channels": 4, "side": 12, "radial": radial},
            _passes(Target(3.0), Target(3.0)),
        )


def _layers() -> Iterator[Case]:
    """Layers of the synthesis network; only contiguous images have targets."""
    shapes = (
        ("styled", "128 ch, 8x64x64", _STYLED, _STYLED_TINY, 1.3, 3.0),
        ("styled_up", "256 -> 128 ch, up to 8x64x64", _UPSAMPLED, _UPSAMPLED_TINY, 1.5, None),
    )
    for name, title, size, tiny_size, speedup, bfloat16_speedup in shapes:
        yield Case(
            name,
            f"styled layer, {title}",
            styled_layer,
            size,
            tiny_size,
            _passes(both=Target(speedup)),
            suite=LAYERS,
            bfloat16_targets={BOTH: Target(bfloat16_speedup)},
        )
    channels_last = {"layout": torch.channels_last}
    for name, title, size, tiny_size, *_ in shapes:
        yield Case(
            f"{name}_channels_last",
            f"styled layer, {title}, channels_last",
            styled_layer,
            size | channels_last,
            tiny_size | channels_last,
            _passes(),
            suite=LAYERS,
        )


CASES = (
    *_image_operators(),
    *_filtered(),
    *_layers(),
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
        _passes(both=Target(3.5, peak=1 / 3)),
        bfloat16_targets={BOTH: Target(8.0)},
    ),
    Case(
        "training_step",
        "training step at 64x64: G main, path length, D main, R1; batch 8",
        training_step,
        _TRAINING,
        _TRAINING_TINY,
        {STEP: Target(1.5)},
        why_not_compiled=_WHY_NOT_COMPILED,
        suite=STEPS,
        bfloat16_targets={STEP: Target(4.5, float32=2.9)},
    ),
    Case(
        "training_step_augmented",
        "the same step, augmented by all transforms of bgc",
        training_step,
        _TRAINING | {"augpipe": "bgc"},
        _TRAINING_TINY | {"augpipe": "bgc"},
        {STEP: Target(baseline=1.15)},
        why_not_compiled=_WHY_NOT_COMPILED,
        suite=STEPS,
        baseline_changes={"augpipe": ""},
    ),
    Case(
        "inference",
        "images of 64x64, batch 8",
        inference,
        _TRAINING,
        _TRAINING_TINY,
        {FORWARD: Target()},
        suite=INFERENCE,
    ),
)
