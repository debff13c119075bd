# SPDX-License-Identifier: Apache-2.0
"""Any timm backbone with intermediate features as an encoder.

The choice of layers and of normalisation follows Karmali et al., "Hierarchical Semantic Regularization of
Latent Spaces in StyleGANs" (2022), for ViT, ResNet and VGG, and carries over to other architectures.
"""

import difflib
import inspect
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError, reason
from .encoders import PretrainedEncoder
from .timm_weights import cached_file, fetch, import_timm, load_state

DEFAULT_MODEL = "vit_base_patch16_224.dino"
NUM_DEPTHS = 4


class TimmEncoder(PretrainedEncoder):
    """Frozen timm backbone; its features at four depths are the targets.

    - Columns of equal blocks (ViT): the last block of each quarter (11, 8, 5, 2 of 12), patch tokens only,
      through the final normalisation except for DeiT.
    - VGG: after the last four poolings. Other CNNs: the last four stages.

    Args:
        model_name: timm name, with its pretrained tag where there are several.
        weights: .safetensors or PyTorch file; None: the hub's cache or else the hub.
        image_size: Width and height that images are brought to; None: those of the model's training.
        statistics: "own": normalise images as the model's training did; "official": as HSR's released code
            does.
        device: Where the encoder lives.

    Raises:
        UserError: timm, the model or its weights are not available, or it offers no intermediate features.
    """

    def __init__(
        self,
        model_name: str = DEFAULT_MODEL,
        *,
        weights: str | Path | None = None,
        image_size: int | None = None,
        statistics: str = "own",
        device: torch.device | str = "cpu",
    ) -> None:
        config = model_config(model_name)
        super().__init__(
            f"timm:{model_name}",
            image_size=config.input_size[-1] if image_size is None else image_size,
            usual_size=config.input_size[-1],
            mean=config.mean,
            std=config.std,
            statistics=statistics,
        )
        path = Path(weights) if weights is not None else fetch(model_name, config.hf_hub_id)
        self.model = _build(model_name, image_size)
        self.indices, self.norm = _layers(self.model, model_name)
        # Layers behind the last of these are dropped, and the file need not have them.
        self.model.prune_intermediate_layers(self.indices, prune_norm=not self.norm)  # type: ignore[operator]
        load_state(self.model, path, model_name)
        self.pooled = model_name.startswith("vgg")
        self.has_class_token = _has_class_token(self.model)
        self.freeze()
        self.to(device)
        try:
            self.measure_shapes()
        except (AssertionError, RuntimeError) as error:
            raise UserError(f"{model_name} takes no images of {self.image_size} pixels ({reason(error)}).") from error

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        maps = self._intermediates(images)
        # timm takes VGG's features before each pooling.
        if self.pooled:
            maps = [F.max_pool2d(x, 2) for x in maps]
        return maps[::-1]

    @torch.no_grad()
    def class_tokens(self, images: Tensor, num_scales: int) -> list[Tensor]:
        outputs = self._intermediates(images, return_prefix_tokens=True)
        # The class token is the first of the tokens in front of the patches.
        return [prefix[:, 0, :, None, None] for _, prefix in outputs[::-1][:num_scales]]

    def _intermediates(self, images: Tensor, **options: bool) -> list[Any]:
        """Returns what timm gives for the chosen layers, shallow first."""
        return self.model.forward_intermediates(  # type: ignore[operator]
            self.prepare(images),
            indices=self.indices,
            norm=self.norm,
            output_fmt="NCHW",
            intermediates_only=True,
            **options,
        )


def model_config(model_name: str) -> Any:
    """Returns timm's description (PretrainedCfg) of the pretrained model.

    Raises:
        UserError: timm is not available or has no such model.
    """
    timm = import_timm()
    try:
        config = timm.get_pretrained_cfg(model_name, allow_unregistered=False)
    except RuntimeError:
        similar_names = difflib.get_close_matches(model_name, timm.list_models() + timm.list_pretrained(), n=3)
        hint = f"; similar names are {', '.join(similar_names)}" if similar_names else ""
        raise UserError(f"timm {timm.__version__} has no model {model_name}{hint}.") from None
    return config


def weights_at_hand(model_name: str) -> bool:
    """Returns whether the model's weights are in the hub's local cache, without using the network."""
    return cached_file(model_config(model_name).hf_hub_id) is not None


def _build(model_name: str, image_size: int | None) -> nn.Module:
    """Returns the model without weights, for images of a size where it has to know one."""
    create = partial(import_timm().create_model, model_name, pretrained=False, num_classes=0)
    try:
        model = create() if image_size is None else create(img_size=image_size)
    except TypeError:
        # Convolutional networks take images of any size.
        model = create()
    if not hasattr(model, "forward_intermediates"):
        raise UserError(f"{model_name} offers no intermediate features in timm: choose another encoder.")
    return model


def _has_class_token(model: nn.Module) -> bool:
    """Returns whether the model's blocks work on a class token that timm gives away."""
    parameters = inspect.signature(model.forward_intermediates).parameters  # type: ignore[arg-type]
    return getattr(model, "cls_token", None) is not None and "return_prefix_tokens" in parameters


def _layers(model: nn.Module, model_name: str) -> tuple[list[int], bool]:
    """Returns the indices of the intermediate features, shallow first, and whether the final norm is applied."""
    if model_name.startswith("vgg"):
        return [1, 2, 3, 4], False
    stages = list(model.feature_info)  # type: ignore[arg-type]
    n = len(stages)
    if n >= NUM_DEPTHS and len({stage["reduction"] for stage in stages}) == 1:
        return [n * i // NUM_DEPTHS - 1 for i in range(1, NUM_DEPTHS + 1)], "deit" not in model_name
    return list(range(max(0, n - NUM_DEPTHS), n)), False
