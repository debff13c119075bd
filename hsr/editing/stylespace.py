# SPDX-License-Identifier: Apache-2.0
"""StyleSpace: single style channels that go with an attribute.

A channel is ranked by how far, and how reliably, it stands off its mean over all samples in those with the attribute:
the ratio of the mean to the standard deviation of (s - mean) / deviation over the latter. That says which channels go
with an attribute; what moving them does to it is measured by `effects.py`.

Source: Wu et al., "StyleSpace Analysis: Disentangled Controls for StyleGAN Image Generation" (2021), section 5.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models import Generator
from .directions import Direction
from .samples import Samples

# Channels that vary less can't be told from rounding.
MIN_DEVIATION = 1e-6


def signal_to_noise(styles: Tensor, labels: Tensor) -> Tensor:
    """Returns the signed ratio of each channel [C] from styles [N, C] and which samples have the attribute, bool [N].

    It is positive where the channel is larger with the attribute; a constant channel has 0.
    """
    deviation = styles.std(dim=0)
    distance = (styles[labels] - styles.mean(dim=0)) / deviation.clamp_min(MIN_DEVIATION)
    ratio = distance.mean(dim=0) / distance.std(dim=0).clamp_min(MIN_DEVIATION)
    return torch.where(deviation > MIN_DEVIATION, ratio, 0)


@torch.no_grad()
def stylespace_directions(G: Generator, samples: Samples, attributes: Sequence[str], number: int) -> list[Direction]:
    """Returns the best channels for each attribute, one direction each, towards the attribute.

    Their score "signal_to_noise" is the ratio.
    """
    layers = G.synthesis.style_layers()
    ratios: dict[str, list[Tensor]] = {name: [] for name in attributes}
    deviations, places = [], []
    for index, layer in enumerate(layers):
        styles = layer.affine(samples.w.to(layer.affine.weight.device)).double().cpu()
        places += [(index, channel) for channel in range(styles.shape[1])]
        deviations.append(styles.std(dim=0))
        for name in attributes:
            ratios[name].append(signal_to_noise(styles, samples.labels(name)))
    all_deviations = torch.cat(deviations)
    found = []
    for name in attributes:
        of_channels = torch.cat(ratios[name])
        best = of_channels.abs().topk(min(number, int((of_channels != 0).sum()))).indices.tolist()
        for i, column in enumerate(best, 1):
            layer_number, channel = places[column]
            vector = torch.zeros(layers[layer_number].affine.weight.shape[0])
            vector[channel] = float(of_channels[column].sign())
            unit_step = float(all_deviations[column])
            scores = {"signal_to_noise": float(of_channels[column].abs())}
            title = f"stylespace-{i}-{name}"
            found.append(Direction(title, "stylespace", vector, unit_step, style_layer=layer_number, scores=scores))
    return found
