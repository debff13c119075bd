# SPDX-License-Identifier: Apache-2.0
"""Encoder for data sets with labels: a small CNN that learns to distinguish the classes."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..console import track
from ..data import ImageDataset
from ..device import cpu_threads
from ..errors import UserError
from ..files import replacing
from ..tensors import to_float
from .encoders import Encoder

# Version of the network and its training, a part of the cache's key.
VERSION = 2
IMAGE_SIZE = 32
STAGE_CHANNELS = (16, 32, 64, 128)
HELD_OUT_FRACTION = 0.1
MAX_IMAGES = 20_000
BATCH_SIZE = 64
EPOCHS = 4
# The limit is on the work and not on the time, so that the same seed trains the same encoder.
MAX_STEPS = 1000
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.05
MAX_SHIFT_PIXELS = 2
# Images that are read or classified at a time.
CHUNK_SIZE = 256


class Stage(nn.Module):
    """Two 3x3 convolutions, ending in a batch normalisation without scale and shift.

    So each feature map has zero mean and unit variance over the data, and so have the targets of every scale;
    the next stage begins with the ReLU.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm0 = nn.BatchNorm2d(out_channels)
        self.conv1 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm1(self.conv1(F.relu(self.norm0(self.conv0(x)))))


class LabelEncoder(Encoder):
    """CNN on images brought to 32x32, with stages at 32, 16, 8 and 4 pixels.

    Args:
        num_classes: Number of classes.
        seed: Seed of the initial weights. PyTorch's default generator is left as it was.
    """

    name = "labels"

    def __init__(self, num_classes: int, seed: int = 0) -> None:
        super().__init__()
        self.shapes = [(channels, IMAGE_SIZE >> i) for i, channels in enumerate(STAGE_CHANNELS)][::-1]
        strides = (1, 2, 2, 2)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.stages = nn.ModuleList(
                Stage(n_in, n_out, stride)
                for n_in, n_out, stride in zip((3, *STAGE_CHANNELS[:-1]), STAGE_CHANNELS, strides, strict=True)
            )
            self.classifier = nn.Linear(STAGE_CHANNELS[-1], num_classes)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        x = resize(images).contiguous(memory_format=torch.channels_last)
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(F.relu(maps[-1]) if maps else x)
            maps.append(x)
        return maps[::-1]

    def forward(self, images: Tensor) -> Tensor:
        """Maps images [N, 3, H, W] in [-1, 1] to class logits [N, num_classes]."""
        return self.classifier(F.relu(self.feature_maps(images)[0]).mean(dim=[2, 3]))


def resize(images: Tensor) -> Tensor:
    """Area-resizes images [N, 3, H, W] to the encoder's 32x32."""
    if images.shape[2:] == (IMAGE_SIZE, IMAGE_SIZE):
        return images
    return F.interpolate(images, size=(IMAGE_SIZE, IMAGE_SIZE), mode="area")


def label_encoder(
    dataset: ImageDataset,
    device: torch.device | str,
    cache_dir: Path,
    log: Callable[[str], None],
    seed: int = 0,
) -> LabelEncoder:
    """Returns the encoder of a data set's own classes, read from the cache or trained and cached.

    Args:
        dataset: Images with labels; a tenth of them is held out to measure the accuracy, which is logged.
        device: Where it is trained and left.
        cache_dir: Folder of the cache.
        log: Takes one line of text.
        seed: Seed of initial weights, order and shifts.
    """
    path = cache_dir / f"labels-{dataset.fingerprint()}-v{VERSION}-{seed}.safetensors"
    encoder = LabelEncoder(dataset.num_classes, seed)
    accuracy = _load(encoder, path)
    if accuracy is None:
        log(f"Training the encoder `labels` on {dataset.name} ({dataset.num_classes} classes).")
        start = time.perf_counter()
        accuracy = train(encoder, dataset, torch.device(device), seed)
        log(f"Trained it in {time.perf_counter() - start:.0f} s.")
        _save(encoder, path, accuracy, log)
    else:
        log(f"Read the encoder `labels` from {path}.")
    log(f"Accuracy of the encoder `labels` on held-out images: {accuracy:.1%}.")
    encoder.freeze()
    return encoder.to(device)


def train(encoder: LabelEncoder, dataset: ImageDataset, device: torch.device, seed: int) -> float:
    """Trains on nine tenths of (at most 20,000 images of) the data set; returns the accuracy on the rest."""
    assert dataset.labels is not None
    rng = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(dataset), generator=rng)[:MAX_IMAGES]
    images = _read_images(dataset, chosen.numpy()).to(device)
    labels = torch.from_numpy(dataset.labels)[chosen].to(device)
    held_out = max(1, round(HELD_OUT_FRACTION * len(images)))
    # Several threads add up in another order, and rounding is soon another network: one that measures distances on
    # another scale. So the number of threads, which is what was fastest when a run began, must not decide it.
    with cpu_threads(1):
        _fit(encoder.to(device), images[held_out:], labels[held_out:], rng)
    encoder.eval()
    with torch.no_grad():
        guesses = [encoder(to_float(x)).argmax(dim=1) for x in images[:held_out].split(CHUNK_SIZE)]
    return (torch.cat(guesses) == labels[:held_out]).float().mean().item()


def _fit(encoder: LabelEncoder, images: Tensor, labels: Tensor, rng: torch.Generator) -> None:
    batch = min(BATCH_SIZE, len(images))
    steps = min(EPOCHS * (len(images) // batch), MAX_STEPS)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=max(steps, 2))
    encoder.train()
    order = torch.empty(0, dtype=torch.int64)
    for _ in track(range(steps), "Training the encoder", steps):
        if len(order) < batch:
            order = torch.randperm(len(images), generator=rng)
        chosen, order = order[:batch].to(images.device), order[batch:]
        logits = encoder(to_float(_shifted(images[chosen], rng)))
        loss = F.cross_entropy(logits, labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _shifted(images: Tensor, rng: torch.Generator) -> Tensor:
    """Returns images [N, 3, H, W], each moved by up to two pixels; mirroring would change what a digit is."""
    n, _, h, w = images.shape
    padded = F.pad(images, [MAX_SHIFT_PIXELS] * 4, mode="replicate")
    offsets = torch.randint(0, 2 * MAX_SHIFT_PIXELS + 1, (2, n, 1), generator=rng)
    rows = (offsets[0] + torch.arange(h)).to(images.device)
    columns = (offsets[1] + torch.arange(w)).to(images.device)
    sample = torch.arange(n, device=images.device)
    return padded.permute(0, 2, 3, 1)[sample[:, None, None], rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def _read_images(dataset: ImageDataset, positions: np.ndarray) -> Tensor:
    """Returns the images at these positions as uint8 [N, 3, 32, 32]."""
    chunks = np.array_split(positions, max(1, len(positions) // CHUNK_SIZE))
    small = [
        (resize(dataset.batch(chunk)) + 1) * 127.5
        for chunk in track(chunks, f"Reading images for the encoder, in batches of {CHUNK_SIZE}", len(chunks))
    ]
    return torch.cat([x.round().to(torch.uint8) for x in small])


def _load(encoder: LabelEncoder, path: Path) -> float | None:
    """Fills the encoder from the cache; returns its held-out accuracy, or None if the cache has no such encoder."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        accuracy = float(metadata["accuracy"])
        encoder.load_state_dict(state)
    except Exception:
        # Whatever is wrong with the cache, the encoder is trained again.
        return None
    return accuracy


def _save(encoder: LabelEncoder, path: Path, accuracy: float, log: Callable[[str], None]) -> None:
    state = {key: value.cpu().contiguous() for key, value in encoder.state_dict().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            safetensors.torch.save_file(state, part, metadata={"accuracy": repr(accuracy)})
    except (OSError, UserError) as error:
        log(f"The encoder could not be cached and will be trained again next time ({error}).")
