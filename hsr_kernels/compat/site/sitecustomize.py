# SPDX-License-Identifier: Apache-2.0
"""Python runs this at the start of each process that a run of `python -m hsr_kernels.compat run` starts."""

import importlib.machinery
import importlib.util
import os
import sys

# The machine's own sitecustomize, which this one hides, runs first.
_here = os.path.dirname(os.path.abspath(__file__))
_others = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != _here]
if (_spec := importlib.machinery.PathFinder.find_spec("sitecustomize", _others)) and _spec.loader:
    _spec.loader.exec_module(importlib.util.module_from_spec(_spec))

from hsr_kernels.compat.run import prepare_from_environment  # noqa: E402

prepare_from_environment()
