# SPDX-License-Identifier: Apache-2.0
"""Frozen encoders and the regularizer that aligns the generator's features with theirs.

Names are imported on first use: training needs the regularizer alone, also on machines that have little but PyTorch.
"""

import importlib
from typing import Any

_MODULES = {
    "Alignment": "alignment",
    "DinoV2Encoder": "dinov2_encoder",
    "Encoder": "encoders",
    "InceptionEncoder": "inception_encoder",
    "LabelEncoder": "labels",
    "Lite0Encoder": "lite0_encoder",
    "LpipsEncoder": "lpips_encoder",
    "SemanticRegularizer": "regularizer",
    "SqueezeNetEncoder": "squeezenet_encoder",
    "TimmEncoder": "timm_encoder",
    "build_encoder": "build",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
