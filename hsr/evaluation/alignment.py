# SPDX-License-Identifier: Apache-2.0
"""How much of an encoder's features is in the generator's: what HSR trains for, measured by a linear map.

At each scale of HSR, and at every position, a linear map predicts the encoder's features of an image from the
generator's own features of it; R^2 on images that the map was not fitted to is the share of variance that it explains.
"""

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from ..config import HSR_SCALES
from ..console import track
from ..metrics import linear_r2
from ..metrics.exact import exact_generator
from ..models import Generator
from ..ranks import Ranks
from ..semantics.encoders import Encoder

# Positions of an image that are taken at random, as neighbours tell much the same.
POSITIONS_PER_IMAGE = 16
# Share of the images that the map is not fitted to.
HELD_OUT_FRACTION = 0.25


@torch.no_grad()
def feature_r2(
    G: Generator,
    encoder: Encoder,
    z: Tensor,
    c: Tensor | None,
    device: torch.device,
    *,
    batch: int = 50,
    seed: int = 0,
    console: Console | None = None,
    ranks: Ranks | None = None,
) -> dict[int, float]:
    """Returns R^2 at each scale of HSR that the generator has and the encoder has a depth for.

    The generator's features are brought to the encoder's size as HSR's heads do, by the mean over areas.

    Args:
        G: Generator.
        encoder: Network of the features.
        z: [N, z_dim] latent codes.
        c: [N, c_dim] one-hot classes; None for an unconditional generator.
        device: Where both networks are.
        batch: Images per call.
        seed: Seed of the positions that are taken.
        console: Where to show the progress; None: standard output.
        ranks: The processes that share the work; None: this one does it all.
    """
    ranks = Ranks(device) if ranks is None else ranks
    scales = [r for r in HSR_SCALES if r <= G.resolution][: len(encoder.shapes)]
    rng = torch.Generator().manual_seed(seed)
    # Drawn beforehand, so that no value depends on the batch.
    positions = {
        r: torch.randint(size * size, (len(z), POSITIONS_PER_IMAGE), generator=rng)
        for r, (_, size) in zip(scales, encoder.target_shapes(len(scales)), strict=True)
    }
    samples: dict[int, list[tuple[Tensor, Tensor]]] = {r: [] for r in scales}
    starts = ranks.share(range(0, len(z), batch))
    with exact_generator(G, device) as exact:
        for start in track(starts, f"Reading features, in batches of {batch}", len(starts), console):
            classes = None if c is None else c[start : start + batch].to(device)
            ws = exact.mapping(z[start : start + batch].to(device), classes)
            images, features = exact.synthesis.with_features(ws, scales, "const")
            targets = encoder.targets(images.clamp(-1, 1), len(scales))
            for r, target in zip(scales, targets, strict=True):
                x = F.adaptive_avg_pool2d(features[r].float(), target.shape[-1])
                chosen = positions[r][start : start + batch].to(device)
                samples[r].append((_rows(x, chosen), _rows(target.float(), chosen)))
    held_out = max(1, round(HELD_OUT_FRACTION * len(z))) * POSITIONS_PER_IMAGE
    rows = [[torch.cat(parts) for parts in zip(*ranks.gather(samples.pop(r)), strict=True)] for r in scales]
    values = [linear_r2(x[held_out:], y[held_out:], x[:held_out], y[:held_out]) for x, y in ranks.share(rows)]
    return dict(zip(scales, ranks.gather(values), strict=True))


def _rows(x: Tensor, positions: Tensor) -> Tensor:
    """Returns the features [N * P, C] of x [N, C, T, T] at positions [N, P], image by image, on the CPU."""
    index = positions[:, None].expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, index).transpose(1, 2).flatten(0, 1).cpu()
