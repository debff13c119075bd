# SPDX-License-Identifier: Apache-2.0
"""What the formats share: the architecture that a file describes, and tensors under published names.

Published names follow from the names in `hsr`'s own networks by one function per format, so reading and writing go by
the same table. The tensors themselves mean the same.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hsr_kernels import setup_filter

from ..config import Config, preset
from ..errors import UserError
from ..models.build import build_discriminator, build_generator
from ..models.layers import RESAMPLE_TAPS
from ..weights import Header
from .tensors import StoredTensor
from .unpickler import Refusal, shown

# Name of the settings of converted networks, in the place of a preset's.
PRESET = "converted"


class Unsupported(Refusal):
    """A network that `hsr`'s networks cannot represent; the message continues a sentence that begins with its name."""


@dataclass(frozen=True)
class Architecture:
    """What determines the networks of a file; `widths` are the numbers of feature maps by resolution."""

    resolution: int
    c_dim: int
    z_dim: int
    w_dim: int
    widths: dict[int, int]
    mapping_layers: int
    mapping_lr_multiplier: float = 0.01
    w_avg_beta: float = 0.998
    conv_clamp: float | None = None
    mixed_precision_resolutions: int = 0

    def config(self, **settings: Any) -> Config:
        """Returns the settings of a run with such networks: the preset "auto" in all that isn't said here.

        Raises:
            Refusal: `hsr`'s networks don't take such values.
        """
        auto = preset("auto", self.resolution, "cuda")
        channel_base, channel_max = channel_limits(self.widths)
        group = settings.setdefault("minibatch_std_group", auto.minibatch_std_group)
        try:
            return dataclasses.replace(
                auto,
                preset=PRESET,
                conditional=self.c_dim > 0,
                z_dim=self.z_dim,
                w_dim=self.w_dim,
                mapping_layers=self.mapping_layers,
                mapping_lr_multiplier=self.mapping_lr_multiplier,
                w_avg_beta=self.w_avg_beta,
                channel_base=channel_base,
                channel_max=channel_max,
                conv_clamp=self.conv_clamp,
                mixed_precision_resolutions=self.mixed_precision_resolutions,
                batch=math.ceil(auto.batch / group) * group,
                **settings,
            )
        except UserError as error:
            raise Refusal(f"holds networks that hsr cannot represent: {str(error).removesuffix('.')}") from error


@dataclass(frozen=True)
class Checkpoint:
    """Networks as `hsr` names their tensors.

    Attributes:
        header: The header of a file that holds them.
        groups: Tensors by network ("G", "D", "G_ema", heads "hsr" and their average "hsr_ema") and name; no network
            but G_ema is always there.
        notes: Sentences on what isn't as in the file.
    """

    header: Header
    groups: dict[str, dict[str, Tensor]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """The published name and shape of a tensor."""

    name: str
    shape: tuple[int, ...]


# From a name and a shape in `hsr`'s networks to the published ones.
EntryOf = Callable[[str, tuple[int, ...]], Entry]


def channel_limits(widths: dict[int, int]) -> tuple[int, int]:
    """Returns (base, maximum) such that every resolution r has min(base // r, maximum) feature maps.

    Raises:
        Unsupported: There are none.
    """
    maximum = max(widths.values())
    base = max(r * n for r, n in widths.items())
    if any(min(base // r, maximum) != n for r, n in widths.items()):
        listed = ", ".join(f"{n} at {r}" for r, n in sorted(widths.items()))
        raise Unsupported(f"has feature maps ({listed}) that are not inversely proportional to the resolution")
    return base, maximum


def empty_networks(config: Config, resolution: int, c_dim: int) -> tuple[nn.Module, nn.Module]:
    """Returns a generator and a discriminator without memory, for their names and shapes."""
    with torch.device("meta"):
        return build_generator(config, resolution, c_dim), build_discriminator(config, resolution, c_dim)


def read_network(
    module: nn.Module, tensors: Mapping[str, StoredTensor], entry_of: EntryOf, without: str = ""
) -> dict[str, Tensor]:
    """Returns the tensors of a network by `hsr`'s names.

    Args:
        module: The network, for its names and shapes.
        tensors: Tensors by published names.
        entry_of: The table of names.
        without: Name in the module of a tensor that stands elsewhere.

    Raises:
        Refusal: A value isn't finite.
        ValueError: A tensor is missing or of another shape.
    """
    state = {}
    for key, empty in module.state_dict().items():
        if key == without:
            continue
        entry = entry_of(key, tuple(empty.shape))
        state[key] = read_tensor(tensors, entry).reshape(empty.shape).contiguous()
    return state


def read_tensor(tensors: Mapping[str, StoredTensor], entry: Entry) -> Tensor:
    """Returns a tensor, float32, after checking its shape and that it is finite.

    Raises:
        Refusal: A value isn't finite.
        ValueError: The tensor is missing or of another shape.
    """
    stored = tensors.get(entry.name)
    if not isinstance(stored, StoredTensor):
        raise ValueError(f"{entry.name} is missing")
    if stored.size != entry.shape:
        raise ValueError(f"{entry.name} is {list(stored.size)} and should be {list(entry.shape)}")
    if not stored.storage.dtype.is_floating_point:
        raise ValueError(f"{entry.name} is of {stored.storage.dtype} and should be of floats")
    value = stored.load().to(torch.float32)
    # Both are NaN if any value is.
    if not all(extreme.isfinite() for extreme in value.aminmax()):
        raise Refusal(f"holds values that are not finite, in {entry.name}")
    return value


def write_network(state: Mapping[str, Tensor], entry_of: EntryOf) -> dict[str, Tensor]:
    """Returns the tensors of a network by published names: undoes `read_network`."""
    entries = {key: entry_of(key, tuple(value.shape)) for key, value in state.items()}
    return {
        entry.name: state[key].reshape(entry.shape).clone(memory_format=torch.contiguous_format)
        for key, entry in entries.items()
    }


def published_filter() -> Tensor:
    """Returns the filter [4, 4] of up- and downsampling, of sum 1."""
    return setup_filter(list(RESAMPLE_TAPS))


def require_filters(tensors: Mapping[str, StoredTensor], suffix: str, gain: float) -> None:
    """Checks that all filters whose names end in `suffix` are those of `hsr`'s networks, times `gain`.

    Raises:
        Unsupported: One is another filter.
    """
    expected = published_filter() * gain
    for name, stored in tensors.items():
        if name.endswith(suffix):
            matches = stored.size == tuple(expected.shape) and torch.allclose(stored.load().float(), expected)
            if not matches:
                raise Unsupported(f"resamples with another filter than {list(RESAMPLE_TAPS)}, in {shown(name)}")


def require_known(tensors: Mapping[str, Any], entries: set[str], ignored: tuple[str, ...]) -> None:
    """Checks that a network has no tensors but those of `entries` and those whose names end in one of `ignored`.

    Raises:
        Unsupported: There are more, which would change its images.
    """
    unknown = sorted(name for name in tensors if name not in entries and not name.endswith(ignored))
    if unknown:
        raise Unsupported(f"has {len(unknown)} tensors that StyleGAN2 lacks, among them {shown(unknown[0])}")
