# SPDX-License-Identifier: Apache-2.0
"""Networks of other StyleGAN2 projects, read and written.

- `unpickler`: reads a pickle without executing anything in it
- `tensors`: the tensors that pickles describe, in streams and zips of `torch.save`
- `persistence`: the pickles of stylegan2-ada-pytorch, stylegan3 and HSR, as trees of layers
- `layers`: the settings of networks, from the attributes of their layers
- `networks`: architectures, and tensors under published names
- `nvlabs`, `rosinality`: the names of these projects, both ways
- `opening`: any file or run folder, as a checkpoint
- `convert`: the command `hsr convert`
"""

from pathlib import Path

from ..models import Generator
from .opening import build_average, open_checkpoint


def load_generator(path: str | Path) -> Generator:
    """Returns the generator of averaged weights, in evaluation mode and on the CPU.

    Args:
        path: A file of weights, a run folder, which stands for its last one, or a file that `hsr convert` reads;
            nothing in it is executed.

    Raises:
        UserError: It can't be read, or holds no network that this package has.
    """
    path = Path(path)
    return build_average(open_checkpoint(path), path)
