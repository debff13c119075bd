# SPDX-License-Identifier: Apache-2.0
"""State dicts of pretrained networks: read from files, and loaded into networks."""

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from ..errors import UserError

# Keys under which training checkpoints hold the state dict of a model.
WRAPPERS = ("state_dict", "model", "teacher", "student")


def read_state(path: Path) -> dict[str, Tensor]:
    """Reads a state dict from a .safetensors file or one of `torch.save`, without running code from the file.

    Raises:
        UserError: The file is missing or holds no state dict.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path} with encoder weights.") from error
    except Exception as error:
        # A file of another kind fails to parse in any of a dozen ways.
        cause = str(error).split("\n")[0]
        raise UserError(f"{path} cannot be read as .safetensors or PyTorch weights ({cause}).") from error
    for key in WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict: a dictionary from names to tensors is needed.")
    return {key.removeprefix("module.").removeprefix("backbone."): value for key, value in state.items()}


def expected_state(model: nn.Module) -> dict[str, Tensor]:
    """Returns the tensors that a file must have: all but counters of batches, which older files lack."""
    return {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}


def fill_model(model: nn.Module, state: dict[str, Tensor], path: Path, name: str) -> None:
    """Fills `model`, called `name` in messages, from the state dict of `path`; what that has beyond it is ignored.

    Raises:
        UserError: The state dict lacks weights of the model or has them in another shape.
    """
    expected = expected_state(model)
    missing = [key for key in expected if key not in state]
    if missing:
        raise UserError(
            f"{path} does not hold the weights of {name}: {len(missing)} of {len(expected)} tensors are missing, "
            f"among them {missing[0]}."
        )
    for key, value in expected.items():
        if state[key].shape != value.shape:
            raise UserError(
                f"{path} does not hold the weights of {name}: {key} is {list(state[key].shape)} there "
                f"and must be {list(value.shape)}."
            )
    model.load_state_dict({key: state[key] for key in expected}, strict=False)
