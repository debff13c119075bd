# SPDX-License-Identifier: Apache-2.0
"""Everything that determines a training run, and the presets.

Sources: `paper256` and `stylegan2` are the published settings of HSR's baseline (Karmali et al. 2022) and of
StyleGAN2's configuration F (Karras et al. 2020); `auto` follows the rules of thumb of StyleGAN2-ADA (Karras
et al. 2020) for the R1 weight and the averaging of the generator.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UserError

PRESETS = ("digits", "auto", "paper256", "stylegan2")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Config:
    """Settings of a training run. One "kimg" is a thousand real images shown to the discriminator."""

    preset: str

    # Data
    data: str | None = None  # Folder or zip; None: the bundled digits.
    mirror: bool = False
    conditional: bool = True  # Train on class labels where the data has them.
    held_out: float = 0.1  # Fraction of the images that is kept from training, for the metrics.
    held_out_max: int = 5000

    # Networks
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 8
    channel_base: int = 32768  # Feature maps times resolution ...
    channel_max: int = 512  # ... up to this many.
    minibatch_std_group: int = 4
    mixed_precision_resolutions: int = 4  # Highest resolutions in low precision, on CUDA.
    conv_clamp: float | None = 256.0

    # Losses
    gamma: float = 1.0
    r1_interval: int = 16
    path_length_weight: float = 2.0
    path_length_interval: int = 4
    style_mixing: float = 0.9
    hsr_weight: float = 1.0  # 0: the baseline.
    hsr_hidden: int = 4096
    hsr_precision: str = "float32"  # Or bfloat16: for the encoder's targets and the loss; weights stay float32.
    encoder: str = "auto"
    encoder_weights: str | None = None

    # Optimization
    batch: int = 16
    learning_rate: float = 0.002
    beta1: float = 0.0
    beta2: float = 0.99
    ema_kimg: float = 10.0  # Half-life of the generator's moving average.
    ema_rampup: float | None = None  # Largest half-life as a fraction of the images seen so far.

    # Schedule
    kimg: float = 500.0
    tick_kimg: float = 4.0
    checkpoint_ticks: int = 10
    checkpoints_kept: int = 5
    metric_images: int = 5000
    seed: int = 0
    threads: int | None = None  # On the CPU; None: PyTorch's choice.

    def __post_init__(self) -> None:
        positive = ("batch", "kimg", "tick_kimg", "learning_rate", "minibatch_std_group", "hsr_hidden")
        not_negative = ("gamma", "hsr_weight", "path_length_weight", "seed", "ema_kimg")
        for name in positive + not_negative:
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0 or (value == 0 and name in positive):
                bound = "above 0" if name in positive else "0 or more"
                raise UserError(f"{name} is {value}, and must be {bound}.")
        if self.threads is not None and self.threads < 1:
            raise UserError(f"threads is {self.threads}, and must be above 0.")
        if not 0 <= self.held_out <= 0.9:
            raise UserError(f"held_out is {self.held_out}, and must be between 0 and 0.9.")
        if self.hsr_precision not in PRECISIONS:
            raise UserError(f"hsr_precision is {self.hsr_precision}, and must be {' or '.join(PRECISIONS)}.")
        if self.batch % self.minibatch_std_group:
            raise UserError(
                f"batch is {self.batch}, and must be a multiple of {self.minibatch_std_group}, "
                "the group of the minibatch standard deviation."
            )

    def to_json(self) -> str:
        """Returns the settings as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> "Config":
        """Makes a configuration from parsed JSON; `where` names its origin in messages."""
        names = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - names)
        if unknown or "preset" not in values:
            raise UserError(f"{where} is not a configuration of this program ({unknown or 'no preset'}).")
        try:
            return cls(**values)
        except TypeError as error:
            raise UserError(f"{where} has a setting of the wrong type ({error}).") from error


def load_config(path: Path) -> Config:
    """Reads a configuration from a JSON file such as a run folder's config.json."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a configuration ({error}).") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} cannot be read as a configuration (it is not a JSON object).")
    return Config.from_dict(values, str(path))


def preset(name: str, resolution: int, device: str) -> Config:
    """Returns a preset's settings for images of `resolution` pixels, on a "cpu" or "cuda" device."""
    if name == "digits":
        return _digits()
    if name == "auto":
        return _auto(resolution, device)
    if name == "paper256":
        return Config(preset=name, mirror=True, channel_base=16384)
    if name == "stylegan2":
        return Config(preset=name, gamma=10.0, batch=32, kimg=25000.0)
    raise UserError(f"--cfg {name} is neither a preset ({', '.join(PRESETS)}) nor a JSON file.")


def _digits() -> Config:
    """Sized for minutes on two CPU cores: small networks, and a learning rate and averaging for a short run."""
    return Config(
        preset="digits",
        held_out=0.2,
        z_dim=64,
        w_dim=64,
        mapping_layers=2,
        channel_base=512,
        channel_max=32,
        mixed_precision_resolutions=0,
        conv_clamp=None,
        gamma=1.0,
        hsr_hidden=128,
        encoder="labels",  # Whatever else is at hand would take hours.
        batch=16,
        learning_rate=0.01,
        ema_kimg=0.5,
        ema_rampup=0.1,
        kimg=12.0,
        tick_kimg=1.0,
        checkpoint_ticks=2,
        metric_images=1000,
        threads=1,  # In layers this small, threads wait for each other longer than they compute.
    )


def _auto(resolution: int, device: str) -> Config:
    """By resolution: larger images in smaller batches, and R1 in proportion to the pixels per batch."""
    size: dict[str, Any]
    if device == "cpu":
        batch = 16
        size = {"channel_base": 2048, "channel_max": 128, "hsr_hidden": 512, "metric_images": 1000}
        size |= {"mapping_layers": 4, "z_dim": 128, "w_dim": 128, "tick_kimg": 1.0}
    else:
        batch = max(8, min(64, 4096 // resolution))
        size = {"channel_base": 16384 if resolution < 512 else 32768, "mapping_layers": 2}
    return Config(
        preset="auto",
        ema_rampup=0.05,
        **size,
        batch=batch,
        gamma=0.0002 * resolution**2 / batch,
        ema_kimg=batch * 10 / 32,
        learning_rate=0.0025 if resolution < 1024 else 0.002,
    )
