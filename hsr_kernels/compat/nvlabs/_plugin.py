# SPDX-License-Identifier: Apache-2.0
"""What vendored modules have beside their functions."""

from contextlib import AbstractContextManager

from .. import arguments

# Nothing is built, so there is nothing to initialize and no plugin.
_inited = True
_plugin = None


def _init() -> bool:
    """Whether the fast implementation can be used."""
    return True


def on_reference(impl: str) -> AbstractContextManager[object, bool | None]:
    """The context of a call with this `impl`.

    Raises:
        ValueError: It is neither "cuda" nor "ref".
    """
    if impl not in ("cuda", "ref"):
        raise ValueError(f"impl must be 'cuda' or 'ref', got {impl!r}")
    return arguments.backend(impl == "ref")
