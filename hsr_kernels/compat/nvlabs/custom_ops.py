# SPDX-License-Identifier: Apache-2.0
"""torch_utils.custom_ops: whatever asks for a plugin to be compiled gets a sentence."""

from typing import Any

__all__ = ["get_plugin", "verbosity"]

# Projects set it to "none", "brief" or "full". There is nothing to report.
verbosity = "brief"


def get_plugin(
    module_name: str, sources: Any, headers: Any = None, source_dir: str | None = None, **build_kwargs: Any
) -> Any:
    """Compiles nothing.

    Raises:
        RuntimeError: Always.
    """
    raise RuntimeError(
        f"hsr_kernels.compat compiles no plugins, and {module_name!r} was asked for: the operators of torch_utils.ops "
        "are replaced, and a project's own extension isn't; call uninstall() where it is needed"
    )
