# SPDX-License-Identifier: Apache-2.0
"""`hsr directions`: finds directions in a generator's latent space by several methods, and writes them to one file."""

from collections.abc import Sequence

from rich.console import Console

from ..console import command_line, make_console
from ..device import resolve_device
from ..errors import UserError, writing
from ..latents import load_generator
from ..models import Generator
from ..options import DirectionsOptions
from .directions import Direction, identify, write_directions
from .effects import EFFECT, with_effects
from .ganspace import ganspace_directions
from .interfacegan import interfacegan_directions
from .labelling import build_classifier
from .samples import Samples, choose_attributes, draw_samples
from .sefa import sefa_directions
from .stylespace import stylespace_directions

# Methods by whether they need attributes.
UNSUPERVISED, SUPERVISED = ("ganspace", "sefa"), ("interfacegan", "stylespace")


def directions(options: DirectionsOptions) -> None:
    """Runs `hsr directions`.

    Raises:
        UserError: The options or the checkpoint can't be used.
    """
    methods = parse_methods(options.method)
    if options.out.suffix != ".safetensors":
        raise UserError(f"{options.out} must end in .safetensors.")
    device = resolve_device(options.device)
    console = make_console()
    G, classes = load_generator(options.checkpoint)
    G.to(device)
    classifier = build_classifier(options, G, console)
    samples = draw_samples(
        G,
        classes,
        options.samples,
        classifier=classifier,
        label=options.label,
        seed=options.seed,
        console=console,
    )
    if methods is None:
        methods = [*UNSUPERVISED, *(SUPERVISED if samples.names else ())]
    attributes, preserved = _attributes(options, methods, samples, console)
    found = find_directions(G, samples, methods, attributes, preserved, options.number, options.seed, console)
    if classifier is not None and attributes:
        found = with_effects(G, found, samples, attributes, classifier, console)
    settings = {
        "checkpoint": str(options.checkpoint),
        "samples": options.samples,
        "label": options.label,
        "seed": options.seed,
        "classifier": None if classifier is None else classifier.network,
        "attributes": attributes,
        "preserved": preserved,
    }
    with writing(options.out):
        options.out.parent.mkdir(parents=True, exist_ok=True)
    write_directions(options.out, found, identify(G), settings)
    print_directions(found, G, console)
    console.print(f"Wrote {len(found)} directions to {options.out}.")
    example = ("--checkpoint", options.checkpoint, "--directions", options.out, "--direction", found[0].name)
    console.print(f"See one: {command_line('edit', *example)}")


def find_directions(
    G: Generator,
    samples: Samples,
    methods: Sequence[str],
    attributes: Sequence[str] = (),
    preserved: Sequence[str] = (),
    number: int = 5,
    seed: int = 0,
    console: Console | None = None,
) -> list[Direction]:
    """Returns the directions that the methods find, in the order of the methods.

    Args:
        G: The generator.
        samples: Its codes, with attributes for interfacegan and stylespace.
        methods: Among `UNSUPERVISED` and `SUPERVISED`.
        attributes, preserved: As `--only` and `--preserve` name them.
        number: Of ganspace and sefa by range of layers, of stylespace by attribute.
        seed: Of the codes that are held out.
        console: Shows the progress.

    Raises:
        UserError: An attribute can't be told from those that are to be preserved.
    """
    found: list[Direction] = []
    for method in methods:
        if console is not None:
            console.print(f"Finding directions by {method}")
        if method == "ganspace":
            found += ganspace_directions(G, samples.w, number)
        elif method == "sefa":
            found += sefa_directions(G, samples.w, number)
        elif method == "interfacegan":
            found += interfacegan_directions(G, samples, attributes, preserved, seed)
        else:
            found += stylespace_directions(G, samples, attributes, number)
    return found


def parse_methods(text: str | None) -> list[str] | None:
    """Parses the value of `--method`; None stays.

    Raises:
        UserError: There is no such method.
    """
    if text is None:
        return None
    methods = _parse_list(text)
    known = (*UNSUPERVISED, *SUPERVISED)
    for method in methods or [text]:
        if method not in known:
            raise UserError(f"--method {method} is not one of {', '.join(known)}.")
    return methods


def print_directions(found: Sequence[Direction], G: Generator, console: Console) -> None:
    """Prints a line for each direction: what it moves and its scores, of the effects the strongest."""
    layers = G.synthesis.style_layers()
    width = max(len(direction.name) for direction in found)
    for direction in found:
        if direction.style_layer is None:
            moved = f"layers {direction.layers[0]} to {direction.layers[-1]}"
        else:
            channel = int(direction.vector.abs().argmax())
            moved = f"styles of {layers[direction.style_layer].name}, channel {channel}"
        shown = {name: value for name, value in direction.scores.items() if not name.startswith(EFFECT)}
        effects = {name: value for name, value in direction.scores.items() if name.startswith(EFFECT)}
        if effects:
            strongest = max(effects, key=lambda name: abs(effects[name]))
            shown[strongest] = effects[strongest]
        scores = ", ".join(f"{name} {value:.4g}" for name, value in shown.items())
        console.print(f"{direction.name:<{width}}  {moved}; {scores}")


def _attributes(
    options: DirectionsOptions, methods: Sequence[str], samples: Samples, console: Console
) -> tuple[list[str], list[str]]:
    """Returns the attributes to find and those to preserve, both empty where no method needs any.

    Raises:
        UserError: There are none, or not those that were asked for.
    """
    if not set(methods) & set(SUPERVISED):
        if options.only is not None or options.preserve is not None:
            raise UserError(f"--only and --preserve are for the methods {' and '.join(SUPERVISED)}.")
        return [], []
    if not samples.names:
        reason = "--label leaves a single class" if options.label is not None else "this network has no classes"
        asking = next(method for method in methods if method in SUPERVISED)
        raise UserError(f"--method {asking} needs attributes, but {reason}.")
    asked = None if options.only is None else _parse_list(options.only)
    preserved = _parse_list(options.preserve or "")
    return choose_attributes(samples, asked, console), choose_attributes(samples, preserved, console, "--preserve")


def _parse_list(text: str) -> list[str]:
    """Parses words between commas, each once."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
