# SPDX-License-Identifier: Apache-2.0
"""`hsr generate`: images of given seeds from a trained generator."""

import math

from .console import make_console
from .device import resolve_device
from .errors import writing
from .images import check_format, check_pixels, generate_images, save_grid, save_image, to_uint8
from .latents import class_inputs, draw_codes, load_generator, parse_seeds
from .options import GenerateOptions


def generate(options: GenerateOptions) -> None:
    """Runs `hsr generate`.

    Raises:
        UserError: The options or the checkpoint cannot be used.
    """
    seeds = parse_seeds(options.seeds)
    check_format(options.out)
    device = resolve_device(options.device)
    console = make_console()
    G, classes = load_generator(options.checkpoint)
    G.to(device)
    check_pixels(f"--seeds {options.seeds} names", len(seeds), G.resolution)
    z = draw_codes(seeds, G.z_dim, options.rng)
    c = class_inputs(seeds, options.label, classes)
    images = generate_images(
        G,
        z.to(device),
        None if c is None else c.to(device),
        truncation_psi=options.truncation,
        title="Generating images, in batches of 16",
        console=console,
    )
    pixels = to_uint8(images)
    with writing(options.out):
        options.out.parent.mkdir(parents=True, exist_ok=True)
    save_grid(pixels, math.ceil(math.sqrt(len(seeds))), options.out)
    console.print(f"Wrote {options.out}.")
    if options.outdir is not None:
        with writing(options.outdir):
            options.outdir.mkdir(parents=True, exist_ok=True)
        for seed, image in zip(seeds, pixels, strict=True):
            save_image(image, options.outdir / f"seed{seed:04d}.png")
        console.print(f"Wrote {len(seeds)} images to {options.outdir}.")
