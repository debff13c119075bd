# SPDX-License-Identifier: Apache-2.0
"""Inception V3 of 2015 as torch-fidelity has it: the features that published Frechet distances (FID) are measured with.

Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (2016); Heusel et al., "GANs Trained
by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium" (2017).
"""

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError, reason
from .encoders import Encoder
from .state_dicts import read_state

NAME = "inception"
# torch-fidelity's name of the published file.
FILE = "weights-inception-2015-12-05-6726825d.pth"
INSTALL_COMMAND = 'pip install "hsr-kernels[metrics]"'
FEATURES = "2048"


class InceptionEncoder(Encoder):
    """Frozen Inception V3 with the 2,048 features behind its last pooling, of images rounded to 8 bits as files are.

    It has features of whole images alone: no targets for HSR, and no perceptual distance.

    Args:
        weights: torch-fidelity's file of weights.
        device: Where the encoder lives.

    Raises:
        UserError: torch-fidelity isn't installed, or the file can't be used.
    """

    name = NAME
    shapes = ()

    def __init__(self, weights: Path, *, device: torch.device | str = "cpu") -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise UserError(f"The encoder {NAME} needs torch-fidelity: install it with {INSTALL_COMMAND}.") from error
        # torch-fidelity would execute what is in a file; read here, nothing is.
        state = read_state(weights)
        with tempfile.NamedTemporaryFile(suffix=".pth") as copy:
            torch.save(state, copy)
            copy.flush()
            try:
                self.model = FeatureExtractorInceptionV3(NAME, [FEATURES], feature_extractor_weights_path=copy.name)
            except RuntimeError as error:
                raise UserError(f"{weights} does not hold the weights of {NAME} ({reason(error)[:200]}).") from error
        self.freeze()
        self.to(device)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        raise UserError(
            f"The encoder {NAME} has features of whole images alone, for Frechet and kernel distance: choose another "
            "one for this."
        )

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return self.model(pixels)[0]


def find_weights(file: str | None) -> Path:
    """Returns the file of weights: the one that is named, or else that in the folder of PyTorch's hub.

    Raises:
        UserError: It isn't there.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / FILE if file is None else Path(file)
    if not path.is_file():
        raise UserError(
            f"The encoder {NAME} needs {FILE} of torch-fidelity, and there is no {path}: name the file as "
            f"{NAME}:<file>."
        )
    return path
