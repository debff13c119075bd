# SPDX-License-Identifier: Apache-2.0
"""The weights of a timm encoder, from a local file, the hub's cache or the hub.

Whatever makes them unavailable ends in a `UserError` within seconds.
"""

import sys
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import UserError
from .downloads import PROBE_SECONDS, run_within
from .state_dicts import expected_state, fill_model, read_state

HUB_FILE = "model.safetensors"


def import_timm() -> Any:
    """Returns the timm module.

    Raises:
        UserError: It is not installed or cannot be imported.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise UserError(f"timm cannot be imported, because {error.name} is missing: install it.") from error
        raise UserError(
            "The encoder needs timm: install it with `pip install timm`, "
            "or choose `--encoder lite0` or `--encoder labels`."
        ) from error
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"timm cannot be imported ({error}): torch and torchvision must be of matching "
            "releases, both with or both without CUDA, so install both again from the same index."
        ) from error
    return timm


def cached_file(hub_id: str | None) -> Path | None:
    """Returns the model's file in the hub's local cache, or None, without using the network."""
    if not hub_id:
        return None
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(hub_id, HUB_FILE)
    return Path(path) if isinstance(path, str) else None


def fetch(name: str, hub_id: str | None) -> Path:
    """Returns the model's file from the hub's local cache or else from the hub.

    Raises:
        UserError: There is no such file, or the hub does not answer.
    """
    path = cached_file(hub_id)
    if path is not None:
        return path
    advice = "name a file with its weights behind the encoder, as <encoder>:<file>, or choose lite0 or labels"
    if not hub_id:
        raise UserError(f"The hub has no weights for {name}: {advice}.")
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    try:
        run_within(
            PROBE_SECONDS,
            lambda: get_hf_file_metadata(hf_hub_url(hub_id, HUB_FILE), timeout=PROBE_SECONDS / 2),
        )
        return Path(hf_hub_download(hub_id, HUB_FILE))
    except Exception as error:
        cause = str(error).split("\n")[0] or type(error).__name__
        raise UserError(
            f"The weights of {name} are not on this machine and cannot be downloaded ({cause}): {advice}."
        ) from error


def load_state(model: nn.Module, path: Path, name: str) -> None:
    """Fills `model` from the file at `path`; what the file has beyond the model (a classifier) is ignored.

    Raises:
        UserError: The file lacks weights of the model or has them in another shape.
    """
    state = read_state(path)
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    expected = expected_state(model)
    fits = expected.keys() <= state.keys() and all(state[key].shape == value.shape for key, value in expected.items())
    if convert is not None and not fits:
        # timm converts from the layouts in which a model's authors have published it, and from other image sizes.
        try:
            state = convert(state, model)
        except (KeyError, RuntimeError, ValueError, AssertionError) as error:
            raise UserError(f"{path} does not hold the weights of {name} ({error!r}).") from error
    fill_model(model, state, path, name)
