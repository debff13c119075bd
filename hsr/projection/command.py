# SPDX-License-Identifier: Apache-2.0
"""`hsr project`: the latent codes of one's own photos."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..console import make_console
from ..device import resolve_device
from ..editing.directions import identify
from ..errors import UserError, writing
from ..files import cache_folder
from ..images import save_grid, to_uint8
from ..latents import class_inputs, load_generator
from ..options import ProjectOptions
from ..semantics.build import build_encoder
from ..weights import find_weights, save_tensors
from .objective import Distances
from .optimization import Projection, ProjectionSettings, find_starts, project
from .photo import read_photo

# Steps by the type of the device; on CPUs they take seconds to minutes as it is.
DEFAULT_STEPS = {"cpu": 300, "cuda": 1000}


def project_photos(options: ProjectOptions) -> None:
    """Runs `hsr project`.

    Raises:
        UserError: The options, the checkpoint or a photo can't be used.
    """
    names = _output_names(options.photos, options.outdir)
    device = resolve_device(options.device)
    console = make_console()
    path = find_weights(options.checkpoint)
    G, classes = load_generator(path)
    G.to(device).eval().requires_grad_(False)
    # A bad photo is found before the first one takes minutes.
    photos = [read_photo(photo, G.resolution) for photo in options.photos]
    fingerprint = identify(G).fingerprint
    labels = classes if options.label is None else (options.label,)
    one_hot_rows = _class_rows(options.label, classes)
    encoder = build_encoder(options.encoder, dataset=None, device=device, cache_dir=cache_folder(), log=console.print)
    settings = ProjectionSettings(
        options.space,
        options.steps or DEFAULT_STEPS[device.type],
        options.learning_rate,
        options.pixel_weight,
        options.noise_weight,
        options.seed,
    )
    with writing(options.outdir):
        options.outdir.mkdir(parents=True, exist_ok=True)
    starts = find_starts(G, one_hot_rows, options.seed)
    for name, file, photo in zip(names, options.photos, photos, strict=True):
        found = project(
            G, encoder, photo.to(device), starts, settings, title=f"Projecting {file.name}", console=console
        )
        header = {
            "kind": "projection",
            "checkpoint": str(path),
            "fingerprint": fingerprint,
            "photo": str(file),
            "encoder": encoder.name,
            "label": labels[found.start] if labels else None,
            "distances": {"before": _values(found.before), "after": _values(found.after)},
            "settings": asdict(settings),
        }
        written = options.outdir / f"{name}.safetensors"
        _write(found, photo, header, written)
        console.print(
            f"{file}: perceptual distance {found.before.perceptual.item():.4f} before, "
            f"{found.after.perceptual.item():.4f} after ({encoder.name}); mean squared difference of pixels "
            f"{found.before.pixel.item():.4f} before, {found.after.pixel.item():.4f} after. "
            f"Wrote {written} and {written.with_suffix('.png')}."
        )


def _output_names(photos: tuple[Path, ...], folder: Path) -> list[str]:
    """Returns the names of the photos' files, without suffixes.

    Raises:
        UserError: There are no photos, two have one name, or a file would take a photo's place.
    """
    if not photos:
        raise UserError("Name at least one photo to project.")
    names: dict[str, Path] = {}
    for photo in photos:
        if photo.stem in names:
            raise UserError(f"{names[photo.stem]} and {photo} would be written to one file: project them separately.")
        if photo.resolve() == (folder / f"{photo.stem}.png").resolve():
            raise UserError(f"{photo} would be replaced: choose another folder with --outdir.")
        names[photo.stem] = photo
    return list(names)


def _class_rows(label: int | None, classes: tuple[int, ...]) -> Tensor | None:
    """Returns one-hot rows [N, num_classes]: of the label, or of every class; None without classes."""
    if label is None:
        return torch.eye(len(classes)) if classes else None
    return class_inputs([0], label, classes)


def _values(distances: Distances) -> dict[str, float]:
    return {"perceptual": distances.perceptual.item(), "pixel": distances.pixel.item()}


def _write(found: Projection, photo: Tensor, header: dict[str, Any], path: Path) -> None:
    """Writes the file of the code and the noise, and beside it the picture."""
    noise = {f"noise.{name}": value.cpu() for name, value in found.noise.items()}
    save_tensors({"w": found.w.cpu(), **noise}, path, header)
    image = found.image.cpu()
    # Half the difference lies in [-1, 1], as images do.
    save_grid(to_uint8(torch.cat([photo, image, (image - photo) / 2])), 3, path.with_suffix(".png"))
