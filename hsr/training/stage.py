# SPDX-License-Identifier: Apache-2.0
"""The second stage of HSR as published: training with HSR that starts from the networks of a baseline."""

import dataclasses
from pathlib import Path

from ..config import Config
from ..errors import UserError
from ..options import TrainOptions
from ..weights import find_weights, read_header

# The baseline has 500 kimg as published. The stage with HSR is given no length there, which leaves the training code's
# default.
STAGE_KIMG = 25000.0
STAGE_WEIGHT = 1.0


def baseline_weights(options: TrainOptions) -> Path | None:
    """Returns the file of weights that `--hsr-from` stands for, None without it.

    Raises:
        UserError: There is no such file, or other options contradict it.
    """
    baseline = options.semantics.hsr_from
    if baseline is None:
        return None
    rivals = {"--resume": options.run.resume, "--cfg": options.schedule.cfg}
    for name, value in rivals.items():
        if value is not None:
            raise UserError(f"--hsr-from and {name} both say where a run starts from: leave one of them out.")
    if options.semantics.hsr_weight == 0:
        raise UserError("--hsr-from trains with HSR, and --hsr-weight 0 without it: leave one of them out.")
    return find_weights(baseline)


def stage_config(weights: Path, has_data: bool) -> tuple[Config, list[str]]:
    """Returns the settings of a stage that starts from a file of weights, and sentences on what is unusual about it.

    They are the baseline's but for the weight of HSR and the length; a start that has HSR already keeps its weight.

    Args:
        weights: File of weights.
        has_data: Whether the images are named elsewhere, so that the baseline's own aren't needed.

    Raises:
        UserError: It can't be read, or names no images where it must.
    """
    header = read_header(weights)
    if header.source and not has_data:
        raise UserError(f"{weights} comes from another project and names no images: name them with --data.")
    weight = header.config.hsr_weight or STAGE_WEIGHT
    # A converted file has the settings of a new run, whatever its networks were trained with.
    had_hsr = header.config.hsr_weight > 0 and not header.source
    notes = [f"The networks of {weights} were trained with HSR already."] if had_hsr else []
    return dataclasses.replace(header.config, hsr_weight=weight, kimg=STAGE_KIMG), notes
