# SPDX-License-Identifier: Apache-2.0
"""Small networks as other projects publish them, and the images that they make, written from the formats' facts."""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

FILTER = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64


@dataclass(frozen=True)
class Spec:
    """A network's settings; `heads` are (hidden, targets at 8, 16, ...) of HSR."""

    widths: dict[int, int] = field(default_factory=lambda: {4: 7, 8: 5, 16: 2})
    z_dim: int = 6
    w_dim: int = 8
    c_dim: int = 0
    layers: int = 2
    conv_clamp: float | None = None
    num_fp16: int = 0
    w_avg_beta: float = 0.995
    cmap_dim: int = 7
    label_layers: int = 8
    lr_multiplier: float = 0.01
    heads: tuple[int, ...] = ()

    @property
    def resolutions(self) -> list[int]:
        return sorted(self.widths)

    def is_fp16(self, resolution: int) -> bool:
        return resolution in self.resolutions[len(self.widths) - self.num_fp16 :]


def _fill(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name, value in tensors.items():
        if name.endswith("resample_filter"):
            tensors[name] = FILTER.clone()
        elif name.endswith("affine.bias"):
            value += 1
        elif ".fc" in name and name.startswith("mapping."):
            value *= 100
    return tensors


def generator_tensors(spec: Spec, seed: int = 0) -> dict[str, Tensor]:
    """The tensors of a generator by their names in stylegan2-ada-pytorch."""
    w = spec.w_dim
    shapes: dict[str, tuple[int, ...]] = {"mapping.w_avg": (w,)}
    if spec.c_dim:
        shapes |= {"mapping.embed.weight": (w, spec.c_dim), "mapping.embed.bias": (w,)}
    for i in range(spec.layers):
        n_in = w if i else spec.z_dim + (w if spec.c_dim else 0)
        shapes |= {f"mapping.fc{i}.weight": (w, n_in), f"mapping.fc{i}.bias": (w,)}
    previous = 0
    for r in spec.resolutions:
        block, width = f"synthesis.b{r}", spec.widths[r]
        shapes[f"{block}.resample_filter"] = (4, 4)
        if previous == 0:
            shapes[f"{block}.const"] = (width, 4, 4)
        for conv, n_in in (("conv0", previous), ("conv1", width)):
            if n_in:
                shapes |= {f"{block}.{conv}.weight": (width, n_in, 3, 3), f"{block}.{conv}.bias": (width,)}
                shapes |= {f"{block}.{conv}.noise_strength": (), f"{block}.{conv}.noise_const": (r, r)}
                shapes |= {f"{block}.{conv}.affine.weight": (n_in, w), f"{block}.{conv}.affine.bias": (n_in,)}
                shapes[f"{block}.{conv}.resample_filter"] = (4, 4)
        shapes |= {f"{block}.torgb.weight": (3, width, 1, 1), f"{block}.torgb.bias": (3,)}
        shapes |= {f"{block}.torgb.affine.weight": (width, w), f"{block}.torgb.affine.bias": (width,)}
        previous = width
    for i, target in enumerate(spec.heads[1:]):
        head = f"synthesis.feat_transfer_list.{i}"
        for part, n_out, n_in in (("1", spec.heads[0], spec.widths[8 * 2**i]), ("2", target, spec.heads[0])):
            shapes |= {f"{head}.conv1x1_{part}.weight": (n_out, n_in, 1, 1), f"{head}.conv1x1_{part}.bias": (n_out,)}
            shapes[f"{head}.conv1x1_{part}.resample_filter"] = (4, 4)
    return _fill(shapes, seed)


def discriminator_tensors(spec: Spec, seed: int = 9, architecture: str = "resnet") -> dict[str, Tensor]:
    """The tensors of a discriminator by their names in stylegan2-ada-pytorch."""
    largest = spec.resolutions[-1]
    n4 = spec.widths[4]
    shapes: dict[str, tuple[int, ...]] = {}
    for r in spec.resolutions[:0:-1]:
        n, narrow = spec.widths[r], spec.widths[r // 2]
        shapes[f"b{r}.resample_filter"] = (4, 4)
        layers: dict[str, tuple[int, ...]] = {
            "conv0": (n, n, 3, 3),
            "conv1": (narrow, n, 3, 3),
        }
        if architecture != "orig":
            layers["skip"] = (narrow, n, 1, 1)
        if r == largest:
            layers["fromrgb"] = (n, 3, 1, 1)
        for layer, shape in layers.items():
            shapes |= {f"b{r}.{layer}.weight": shape, f"b{r}.{layer}.resample_filter": (4, 4)}
            if layer != "skip":
                shapes[f"b{r}.{layer}.bias"] = shape[:1]
    m = spec.cmap_dim if spec.c_dim else 1
    shapes |= {"b4.conv.weight": (n4, n4 + 1, 3, 3), "b4.conv.bias": (n4,), "b4.conv.resample_filter": (4, 4)}
    shapes |= {"b4.fc.weight": (n4, 16 * n4), "b4.fc.bias": (n4,), "b4.out.weight": (m, n4), "b4.out.bias": (m,)}
    if spec.c_dim:
        shapes |= {"mapping.embed.weight": (m, spec.c_dim), "mapping.embed.bias": (m,)}
        for i in range(spec.label_layers):
            shapes |= {f"mapping.fc{i}.weight": (m, m), f"mapping.fc{i}.bias": (m,)}
    return _fill(shapes, seed)


def reference_images(
    tensors: dict[str, Tensor], spec: Spec, z: Tensor, c: Tensor | None, psi: float, noise_mode: str
) -> Tensor:
    """Images [N, 3, R, R], float64, of a published generator, one step of the formats' description after the other."""
    t = {name: value.double() for name, value in tensors.items()}
    x = z.double() / (z.double().square().mean(1, keepdim=True) + 1e-8).sqrt()
    if c is not None:
        y = c.double() @ t["mapping.embed.weight"].T / math.sqrt(spec.c_dim) + t["mapping.embed.bias"]
        x = torch.cat([x, y / (y.square().mean(1, keepdim=True) + 1e-8).sqrt()], 1)
    for i in range(spec.layers):
        weight, bias = t[f"mapping.fc{i}.weight"] * spec.lr_multiplier, t[f"mapping.fc{i}.bias"] * spec.lr_multiplier
        x = F.leaky_relu(x @ weight.T / math.sqrt(weight.shape[1]) + bias, 0.2) * math.sqrt(2)
    w = t["mapping.w_avg"] + psi * (x - t["mapping.w_avg"])
    x, image = t["synthesis.b4.const"].expand(len(z), -1, -1, -1), None
    for r in spec.resolutions:
        for conv in ("conv0", "conv1"):
            if f"synthesis.b{r}.{conv}.weight" in t:
                x = _styled(t, f"synthesis.b{r}.{conv}", x, w, spec, noise_mode)
        name = f"synthesis.b{r}.torgb"
        style = _affine(t, name, w) / math.sqrt(spec.widths[r])
        rgb = torch.einsum("nchw,oc,nc->nohw", x, t[f"{name}.weight"][:, :, 0, 0], style)
        rgb = _clamped(rgb + t[f"{name}.bias"].reshape(-1, 1, 1), spec)
        image = rgb if image is None else _upsampled(image, (2, 1)) + rgb
    assert image is not None
    return image


def _styled(t: dict[str, Tensor], name: str, x: Tensor, w: Tensor, spec: Spec, noise_mode: str) -> Tensor:
    weight, style = t[f"{name}.weight"], _affine(t, name, w)
    padding = 1
    if name.endswith("conv0"):
        # Published layers convolve where they upsample.
        x, weight, padding = _upsampled(x, (3, 2)), weight.flip(2, 3), 0
    samples = []
    for i in range(len(x)):
        scaled = weight * style[i].reshape(1, -1, 1, 1)
        scaled = scaled / (scaled.square().sum([1, 2, 3], keepdim=True) + 1e-8).sqrt()
        samples.append(F.conv2d(x[i : i + 1], scaled, padding=padding))
    y = torch.cat(samples)
    if noise_mode == "const":
        y = y + t[f"{name}.noise_const"] * t[f"{name}.noise_strength"]
    return _clamped(F.leaky_relu(y + t[f"{name}.bias"].reshape(-1, 1, 1), 0.2) * math.sqrt(2), spec)


def _affine(t: dict[str, Tensor], name: str, w: Tensor) -> Tensor:
    return w @ t[f"{name}.affine.weight"].T / math.sqrt(w.shape[1]) + t[f"{name}.affine.bias"]


def _clamped(x: Tensor, spec: Spec) -> Tensor:
    return x if spec.conv_clamp is None else x.clamp(-spec.conv_clamp, spec.conv_clamp)


def _upsampled(x: Tensor, padding: tuple[int, int]) -> Tensor:
    zeros = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    zeros[:, :, ::2, ::2] = x
    kernel = (FILTER.double() * 4).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(zeros, [*padding, *padding]), kernel, groups=x.shape[1])
