# SPDX-License-Identifier: Apache-2.0
"""Everything that determines a training run, and the presets.

Sources: `paper256` are the published settings of HSR's baseline (Karmali et al. 2022), which gave them a name that
StyleGAN2-ADA had given to others; those are `nvlabs-paper256` here. `paper512`, `paper1024`, `cifar` and `stylegan2`
(StyleGAN2's configuration F) are StyleGAN2-ADA's (Karras et al. 2020), without its augmentation. `auto` follows its
rules of thumb for the R1 weight and the averaging of the generator, and has its augmentation.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from .errors import UserError, reading
from .validation import Range, validate

PRESETS = ("digits", "auto", "paper256", "stylegan2", "nvlabs-paper256", "paper512", "paper1024", "cifar")
# Metrics of a run, of which `hsr.training.evaluation` knows more.
METRICS = ("frechet", "ppl_w", "precision", "recall", "density", "coverage")
# Lazy regularization multiplies a loss by its interval, and Adam forgets a step of that size slowly.
MAX_INTERVAL = 1024
MAX_SEED = 2**63 - 1
# Resolutions of the generator that HSR can regularize.
HSR_SCALES = (8, 16, 32, 64)
# The phase of path lengths takes one in so many images of the batch.
PATH_LENGTH_SHRINK = 2


@dataclass(frozen=True)
class Config:
    """Settings of a training run. One "kimg" is a thousand real images shown to the discriminator.

    Raises:
        UserError: A setting is of another type than declared here, out of its bounds, or does not fit the others.
    """

    preset: str

    # Folder or zip, or a set of a library that is prepared; None: the bundled digits.
    data: str | None = None
    # Height and width in pixels that images are brought to before training; None: they are taken as they are.
    resize: Annotated[int, Range(8, 2**14)] | None = None
    # Flip images horizontally at random; None: hsr.training.split decides.
    mirror: bool | None = None
    # Train on class labels if the data has them.
    conditional: bool = True
    # Fraction of the images that training never sees, for the metrics; None: hsr.training.split decides.
    held_out: Annotated[float, Range(0, 0.9)] | None = None
    # Largest number of images that are held out.
    held_out_max: Annotated[int, Range(2, 10**9)] = 5000
    # Number of the other images, chosen at random, that are trained on; None: all.
    subset: Annotated[int, Range(1, 10**9)] | None = None

    # Dimension of the random codes z.
    z_dim: Annotated[int, Range(1, 2**16)] = 512
    # Dimension of the latent codes w, which the mapping network makes of z.
    w_dim: Annotated[int, Range(1, 2**16)] = 512
    # Layers of the mapping network.
    mapping_layers: Annotated[int, Range(1, 64)] = 8
    # Learning rate of the mapping network relative to the rest.
    mapping_lr_multiplier: Annotated[float, Range(0, 1e3, low_is_allowed=False)] = 0.01
    # Share of the mean of w that a step leaves as it was.
    w_avg_beta: Annotated[float, Range(0, 1)] = 0.998
    # Layers of the discriminator's mapping of class labels: eight as published, whatever the generator has.
    label_mapping_layers: Annotated[int, Range(1, 64)] = 8
    # Dimension of the space in which the discriminator compares images with labels; None: feature maps at 4x4.
    label_dim: Annotated[int, Range(1, 2**16)] | None = None
    # Feature maps times resolution, up to `channel_max` maps.
    channel_base: Annotated[int, Range(1, 2**24)] = 32768
    # Largest number of feature maps of a layer.
    channel_max: Annotated[int, Range(1, 2**16)] = 512
    # Images over which the discriminator takes the minibatch standard deviation.
    minibatch_std_group: Annotated[int, Range(1, 2**16)] = 4
    # Skip connections in the discriminator's blocks.
    residual_discriminator: bool = True
    # Dtype of the activations at the highest resolutions, while weights stay float32. CPUs have no fp16: a new run's
    # becomes bf16 where hsr.training.machine finds that faster; else they use float32 instead.
    mixed_precision: Literal["fp16", "bf16", "off"] = "fp16"
    # Number of these resolutions; 4x4 is never one.
    mixed_precision_resolutions: Annotated[int, Range(0, 16)] = 4
    # Bound of a layer's outputs, which keeps float16 from overflowing; None: no bound, as bfloat16 needs none.
    conv_clamp: Annotated[float, Range(0, 1e30, low_is_allowed=False)] | None = 256.0

    gamma: Annotated[float, Range(0, 1e9)] = 1.0
    # Steps from one R1 penalty to the next; 0: never.
    r1_interval: Annotated[int, Range(0, MAX_INTERVAL)] = 16
    # Weight of the penalty on path lengths.
    path_length_weight: Annotated[float, Range(0, 1e9)] = 2.0
    # Steps from one penalty on path lengths to the next; 0: never.
    path_length_interval: Annotated[int, Range(0, MAX_INTERVAL)] = 4
    # Probability that the images of a step are made of two latent codes each.
    style_mixing: Annotated[float, Range(0, 1)] = 0.9

    # Weight of the Hierarchical Semantic Regularizer; 0 trains the StyleGAN2 baseline.
    hsr_weight: Annotated[float, Range(0, 1e9)] = 1.0
    # Those of HSR_SCALES that are regularized, as in "8,16"; a generator's own resolution ends them.
    hsr_scales: str = "8,16,32,64"
    # Heads of two 1x1 layers, or of one 3x3 convolution (iREPA, Singh et al. 2025).
    hsr_head: Literal["mlp", "conv3x3"] = "mlp"
    # Width of the heads of two layers.
    hsr_hidden: Annotated[int, Range(1, 2**20)] = 4096
    hsr_loss: Literal["mse", "cosine"] = "mse"
    # The encoder's features as they are, or normalised over positions (iREPA).
    hsr_targets: Literal["raw", "spatial-norm"] = "raw"
    # Share of the mean over positions that spatial-norm subtracts.
    hsr_spatial_gamma: Annotated[float, Range(0, 1)] = 1.0
    # Learning rate of Adam for the heads; None: learning_rate, as published.
    hsr_learning_rate: Annotated[float, Range(0, 1, low_is_allowed=False)] | None = None
    # Regularize by the encoder's class token in the place of its feature maps.
    hsr_class_token: bool = False
    # Dtype of the encoder's targets and of the loss, while weights stay float32; auto: bfloat16 on CUDA, and on CPUs
    # where hsr.training.machine decides so.
    hsr_precision: Literal["auto", "float32", "bfloat16"] = "auto"
    encoder: str = "auto"
    encoder_weights: str | None = None
    # Normalisation of images for a pretrained encoder: as in its own training, or as in HSR's released code.
    encoder_statistics: Literal["own", "official"] = "own"

    # Augmentation of what the discriminator sees: with an adapted p, with a fixed one, or none.
    augmentation: Literal["ada", "fixed", "none"] = "none"
    # A pipe of hsr.augment.PIPES, and after commas what to leave out, such as bgc,-xflip.
    augmentation_pipe: str = "bgc"
    # The fixed p.
    augmentation_p: Annotated[float, Range(0, 1)] | None = None
    # Mean sign of the discriminator's real logits that an adapted p keeps.
    augmentation_target: Annotated[float, Range(0, 1)] = 0.6
    # Steps from one adjustment of p to the next.
    ada_interval: Annotated[int, Range(1, MAX_INTERVAL)] = 4
    # Thousands of images in which p goes from 0 to 1 at the fastest.
    ada_kimg: Annotated[float, Range(0.001, 1e9)] = 500.0
    # Layers of the discriminator, from the images on, that stay as they were.
    frozen_layers: Annotated[int, Range(0, 64)] = 0

    batch: Annotated[int, Range(1, 2**16)] = 16
    # Images of a batch that are computed at a time, which bounds the memory and changes no result; None: all.
    batch_gpu: Annotated[int, Range(1, 2**16)] | None = None
    # Learning rate of Adam, for both networks.
    learning_rate: Annotated[float, Range(0, 1, low_is_allowed=False)] = 0.002
    # Decay of Adam's average of gradients.
    beta1: Annotated[float, Range(0, 1, high_is_allowed=False)] = 0.0
    # Decay of Adam's average of squared gradients.
    beta2: Annotated[float, Range(0, 1, high_is_allowed=False)] = 0.99
    # Half-life of the generator's moving average.
    ema_kimg: Annotated[float, Range(0, 1e9)] = 10.0
    # Largest half-life as a fraction of the images seen so far; None: no such bound.
    ema_rampup: Annotated[float, Range(0, 1e9)] | None = None

    kimg: Annotated[float, Range(0.001, 1e9)] = 500.0
    # Length of a tick, which ends in a line of progress and a grid of samples.
    tick_kimg: Annotated[float, Range(0.001, 1e9)] = 4.0
    # Ticks from one checkpoint to the next; 0: a checkpoint at the end only.
    checkpoint_ticks: Annotated[int, Range(0, 10**9)] = 10
    checkpoints_kept: Annotated[int, Range(1, 10**9)] = 5
    # Names of METRICS with commas between; the first one says which checkpoint is the best.
    metrics: str = "frechet"
    # Ticks from one measurement to the next; 0: at the start and the end only.
    metric_ticks: Annotated[int, Range(0, 10**9)] = 10
    # Generated images that metrics measure, and at most so many real ones.
    metric_images: Annotated[int, Range(2, 10**9)] = 5000
    # File of weights that the networks start from; None: they start untrained.
    start: str | None = None
    seed: Annotated[int, Range(0, MAX_SEED)] = 0
    # CPU threads; None: hsr.training.machine measures which number is fastest.
    threads: Annotated[int, Range(1, 1024)] | None = None
    # Multiply float32 with the 10 bits of TF32 on GPUs.
    tf32: bool = False
    # Launch each phase of a step as a CUDA graph; auto: where that is possible.
    cuda_graphs: Literal["auto", "on", "off"] = "auto"

    def __post_init__(self) -> None:
        for name, value in validate(self).items():
            object.__setattr__(self, name, value)
        if self.batch % self.minibatch_std_group:
            raise UserError(
                f"batch is {self.batch}, but must be a multiple of {self.minibatch_std_group}, "
                "the group of the minibatch standard deviation."
            )
        self.parts_per_process()
        if self.resize is not None and self.resize & (self.resize - 1):
            raise UserError(f"resize is {self.resize}, but must be a power of two.")
        if self.augmentation == "fixed" and self.augmentation_p is None:
            raise UserError("A fixed augmentation needs its probability (augmentation_p, --p), from 0 to 1.")
        for name in self.metric_names():
            if name not in METRICS:
                raise UserError(f"metrics names {name!r}, but must name some of {', '.join(METRICS)}.")
        self.scales()

    def scales(self) -> tuple[int, ...]:
        """Returns the resolutions that `hsr_scales` names, in ascending order."""
        names = [name.strip() for name in self.hsr_scales.split(",")]
        scales = tuple(scale for scale in HSR_SCALES if str(scale) in names)
        if not len(scales) == len(names):
            raise UserError(
                f"hsr_scales is {json.dumps(self.hsr_scales[:60])}, but must name some of "
                f"{', '.join(map(str, HSR_SCALES))}, separated by commas and each once."
            )
        return scales

    def parts_per_process(self, processes: int = 1) -> int:
        """Returns in how many parts each of several processes computes its share of a batch.

        Raises:
            UserError: The batch can't be divided so.
        """
        if self.batch % processes:
            raise UserError(f"batch is {self.batch}, but must be a multiple of {processes}, the number of processes.")
        share = self.batch // processes
        images = share if self.batch_gpu is None else min(self.batch_gpu, share)
        title = "batch_gpu" if self.batch_gpu is not None else f"the share of each of {processes} processes"
        if share % images or (self.batch_gpu or 0) > self.batch:
            raise UserError(f"batch_gpu is {self.batch_gpu}, but the batch of {share} images must be a multiple of it.")
        if images % self.minibatch_std_group:
            raise UserError(
                f"{title} is {images}, but must be a multiple of {self.minibatch_std_group}, "
                "the group of the minibatch standard deviation."
            )
        if images % PATH_LENGTH_SHRINK and images != self.batch:
            raise UserError(
                f"{title} is {images}, but must be even, as path lengths are measured on half of the batch."
            )
        return share // images

    def metric_names(self) -> list[str]:
        """Returns the names in `metrics`, each once."""
        return list(dict.fromkeys(name.strip() for name in self.metrics.split(",") if name.strip()))

    def require_channels(self, resolution: int) -> None:
        """Raises `UserError` if networks for images of `resolution` pixels would have no feature maps."""
        if self.channel_base < resolution:
            raise UserError(
                f"channel_base is {self.channel_base}, but must be at least {resolution} for images "
                f"{resolution} pixels wide: the highest resolution has channel_base / {resolution} feature maps."
            )

    def to_json(self) -> str:
        """Returns the settings as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_dict(cls, values: dict[str, Any], origin: str) -> "Config":
        """Makes a configuration from parsed JSON; `origin` is where messages say that it comes from."""
        names = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - names)
        if unknown or "preset" not in values:
            raise UserError(f"{origin} is not a configuration of this program ({unknown or 'no preset'}).")
        try:
            return cls(**values)
        except UserError as error:
            raise UserError(f"In {origin}, {error}") from error


def load_config(path: Path) -> Config:
    """Reads a configuration from a JSON file such as a run folder's config.json."""
    with reading(path, "a configuration"):
        values = json.loads(path.read_text())
    if not isinstance(values, dict):
        raise UserError(f"{path} cannot be read as a configuration (it is not a JSON object).")
    return Config.from_dict(values, str(path))


# Published settings, where they differ from the defaults.
_PUBLISHED: dict[str, dict[str, Any]] = {
    "paper256": {"mirror": True, "channel_base": 16384},
    "stylegan2": {"gamma": 10.0, "batch": 32, "kimg": 25000.0},
    "nvlabs-paper256": {
        "channel_base": 16384,
        "batch": 64,
        "minibatch_std_group": 8,
        "learning_rate": 0.0025,
        "ema_kimg": 20.0,
        "kimg": 25000.0,
    },
    "paper512": {
        "batch": 64,
        "minibatch_std_group": 8,
        "learning_rate": 0.0025,
        "gamma": 0.5,
        "ema_kimg": 20.0,
        "kimg": 25000.0,
    },
    "paper1024": {"batch": 32, "gamma": 2.0, "kimg": 25000.0},
    "cifar": {
        "batch": 64,
        "minibatch_std_group": 32,
        "learning_rate": 0.0025,
        "gamma": 0.01,
        "ema_kimg": 500.0,
        "ema_rampup": 0.05,
        "mapping_layers": 2,
        "path_length_weight": 0.0,
        "style_mixing": 0.0,
        "residual_discriminator": False,
        "kimg": 100000.0,
    },
}


def preset(name: str, resolution: int, device: str) -> Config:
    """Returns a preset's settings for images of `resolution` pixels, on a "cpu" or "cuda" device."""
    if name == "digits":
        return _digits()
    if name == "auto":
        return _auto(resolution, device)
    if name in _PUBLISHED:
        return Config(preset=name, **_PUBLISHED[name])
    raise UserError(f"--cfg {name} is neither a preset ({', '.join(PRESETS)}) nor a JSON file.")


def _digits() -> Config:
    """Returns settings that train in minutes on two CPU cores: small networks that learn and are averaged quickly."""
    return Config(
        preset="digits",
        held_out=0.2,
        # A digit's mirror image is none.
        mirror=False,
        # The mapping network sees z beside an embedding of the class in w_dim numbers: were z no larger, all images of
        # a class would look alike.
        z_dim=256,
        w_dim=64,
        mapping_layers=2,
        # Eight layers learn too slowly for a run of minutes.
        label_mapping_layers=2,
        channel_base=512,
        channel_max=32,
        mixed_precision_resolutions=0,
        conv_clamp=None,
        gamma=1.0,
        # Features of `labels` tell classes apart and little else: a larger weight makes the images of a class alike.
        hsr_weight=0.1,
        hsr_hidden=128,
        # Any other encoder would take hours.
        encoder="labels",
        # In so short a run, more and smaller steps learn more in the same time.
        batch=8,
        learning_rate=0.01,
        ema_kimg=0.5,
        ema_rampup=0.1,
        kimg=8.0,
        tick_kimg=1.0,
        checkpoint_ticks=2,
        # Measuring takes a fifth of the time that a tick takes.
        metric_ticks=0,
        metric_images=1000,
    )


def _auto(resolution: int, device: str) -> Config:
    """Returns settings by resolution: larger images in smaller batches, and R1 in proportion to pixels per batch."""
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
        augmentation="ada",
        **size,
        batch=batch,
        gamma=0.0002 * resolution**2 / batch,
        ema_kimg=batch * 10 / 32,
        learning_rate=0.0025 if resolution < 1024 else 0.002,
    )
