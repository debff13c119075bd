# SPDX-License-Identifier: Apache-2.0
"""Python runs this at the start of each process of `python -m hsr_kernels.compat run`.

Any other interpreter that a script starts finds this file, too: it is written for all of them, and does nothing there.
"""

import importlib.machinery
import importlib.util
import json
import os
import sys


def _load(spec):
    module = importlib.util.module_from_spec(spec)
    if spec.name != __name__:
        sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_here = os.path.dirname(os.path.abspath(__file__))
# The script has the path that it would have without this.
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or os.curdir) != _here]
# The machine's own sitecustomize, which this one hides, runs first.
_hidden = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
if _hidden is not None and _hidden.loader is not None:
    _load(_hidden)

_given = json.loads(os.environ.get("HSR_KERNELS_COMPAT", "{}"))
if _given.get("interpreter") == [sys.version, sys.prefix]:
    _compat = os.path.dirname(_here)
    # compat/__init__.py, under a name that doesn't have hsr_kernels, and with it PyTorch, imported.
    _name = "_hsr_kernels_compat"
    _load(
        importlib.util.spec_from_file_location(
            _name, os.path.join(_compat, "__init__.py"), submodule_search_locations=[_compat]
        )
    )
    importlib.import_module(_name + ".prepare").prepare(_given)
