# SPDX-License-Identifier: Apache-2.0
"""Frozen encoders and the regularizer that aligns the generator's features with theirs.

Names are imported when they're asked for: training needs the regularizer alone, on machines that have PyTorch and
little else.
"""

import importlib
from typing import Any

_HOMES = {
    "Encoder": "encoders",
    "LabelEncoder": "labels",
    "SemanticRegularizer": "regularizer",
    "TimmEncoder": "timm_encoder",
    "build_encoder": "build",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
