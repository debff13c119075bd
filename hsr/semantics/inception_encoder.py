# SPDX-License-Identifier: Apache-2.0
"""Inception V3 of 2015 as torch-fidelity has it: the features that published Frechet distances (FID) are measured with.

Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (2016); Heusel et al., "GANs Trained
by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium" (2017).
"""

import importlib.util
import io
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError, reason
from .downloads import fetch_file, hub_file
from .encoders import Encoder
from .state_dicts import read_state

NAME = "inception"
# torch-fidelity's publication of the weights.
URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
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
        except ModuleNotFoundError as error:
            raise UserError(f"The encoder {NAME} needs torch-fidelity: install it with {INSTALL_COMMAND}.") from error
        except (ImportError, RuntimeError) as error:
            raise UserError(
                f"torch-fidelity cannot be imported ({reason(error)}): torch and torchvision must be of matching "
                "releases."
            ) from error
        # torch-fidelity would execute what is in a file; read here, nothing is.
        copy = io.BytesIO()
        torch.save(read_state(weights), copy)
        copy.seek(0)
        try:
            self.model = FeatureExtractorInceptionV3(NAME, [FEATURES], feature_extractor_weights_path=copy)
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
    """Returns the file of weights: the one that is named, or else the published one, downloaded if it has to be.

    Raises:
        UserError: The published one is neither on this machine nor to be had.
    """
    return fetch_file(URL, NAME, f"name the file as {NAME}:<file>") if file is None else Path(file)


def is_at_hand() -> bool:
    """Returns whether torch-fidelity and the published weights are on this machine, without using the network."""
    return importlib.util.find_spec("torch_fidelity") is not None and hub_file(URL).is_file()
