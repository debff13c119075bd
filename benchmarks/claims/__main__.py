# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.claims`: trains the baseline, HSR and its controls on small data, and writes what came out."""

import argparse
import sys
from pathlib import Path

import torch

from hsr.console import make_console
from hsr.device import resolve_device
from hsr.errors import UserError

from .arms import GROUPS
from .command import Experiment, run_experiment, run_seed
from .page import write_page
from .presets import NAMES, find_preset
from .values import restore_seeds

# Seeds at a time on a CPU; all of one GPU are a single seed's.
CPU_JOBS = 2


def main(arguments: list[str] | None = None) -> None:
    """Runs the experiment; ends with exit code 2 and one sentence where it can't, and 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    console = make_console()
    try:
        if find_preset(options.preset).needs_data and options.data is None:
            raise UserError(f"--preset {options.preset} needs the images: name them with --data.")
        device = resolve_device(options.device)
        experiment = Experiment(options.preset, options.group, options.data, options.squeezenet, options.out, device)
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        if options.seed is not None:
            sys.exit(0 if run_seed(experiment, options.seed, console) else 130)
        page_values = options.page / f"{experiment.page_name}.json"
        if options.extend and page_values.exists():
            restored = restore_seeds(experiment, page_values)
            console.print(f"{len(restored)} seeds of {page_values} aren't run again.")
        if not options.only_page:
            jobs = options.jobs or (CPU_JOBS if device.type == "cpu" else 1)
            run_experiment(experiment, options.seeds, jobs, console)
        for path in write_page(experiment, options.page, options.seeds):
            console.print(f"Wrote {path}.")
    except UserError as error:
        print(f"benchmarks.claims: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("benchmarks.claims: interrupted; the same command goes on from here.", file=sys.stderr)
        sys.exit(130)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__)
    add = parser.add_argument
    add("--preset", choices=NAMES, required=True, help="the data set, with its networks and lengths")
    add("--data", type=Path, help="its images, which all presets but digits need: a zip or folder of any size")
    add("--squeezenet", type=Path, required=True, help="file with SqueezeNet 1.1's weights, by torchvision's names")
    about = "claims: HSR and its controls (default); weight: other weights, with controls; search: HSR in other ways"
    add("--group", choices=tuple(GROUPS), default="claims", help=about)
    add("--out", type=Path, default=Path("claims"), help="folder for runs and results (%(default)s)")
    add("--page", type=Path, default=Path("docs/evidence"), help="folder for the page (%(default)s)")
    add("--seeds", type=int, help="number of seeds (what the power of the pilot asks for)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:<n> (%(default)s: a GPU if there is one)")
    add("--jobs", type=int, help=f"seeds at a time, each on a core of its own (CPU: {CPU_JOBS}, GPU: 1)")
    add("--only-page", action="store_true", help="write the page of what is there, and run nothing")
    add("--extend", action="store_true", help="take the seeds of the page that is there, and run what they lack")
    add("--seed", type=int, help="run this seed alone, in this process, and write no page")
    return parser


if __name__ == "__main__":
    main()
