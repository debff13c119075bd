# SPDX-License-Identifier: Apache-2.0
"""Miniature projects in the shape of each family's, written from the operators' mathematics.

Each has a copy of the operators, in plain PyTorch behind the build of an extension, as the projects have theirs, and
networks, and a script that computes the losses of one training step, with second derivatives, and prints them as JSON.
"""

import textwrap
from collections.abc import Mapping
from pathlib import Path

# A file's text, or the parts that it consists of, each with an indentation of its own.
Text = str | tuple[str, ...]

# What the operators' copies are made of: zeros between pixels, padding, correlation with the mirrored filter.
_FIR = """
    def _fir(x, f, up, down, padding, gain):
        n, c, h, w = x.shape
        y = x.new_zeros(n, c, h * up, w * up)
        y[:, :, ::up, ::up] = x
        y = F.pad(y, padding)
        f = (f * gain).flip(0, 1).to(x.dtype)[None, None].repeat(c, 1, 1, 1)
        return F.conv2d(y, f, groups=c)[:, :, ::down, ::down]
"""

# A loss of both networks whose gradients need second derivatives: path length and R1.
_STEP = """
    def step(G, D, latent, real, optimizers, no_weight_gradients):
        image = G(latent)
        with no_weight_gradients():
            (dw,) = torch.autograd.grad((image * image.detach().cos()).sum(), [latent], create_graph=True)
        path_length = dw.square().sum().sqrt()
        loss_g = F.softplus(-D(image)).mean() + path_length
        optimizers[0].zero_grad()
        loss_g.backward()
        norms_g = [p.grad.norm().item() for p in G.parameters()]
        optimizers[0].step()

        logits = D(real)
        with no_weight_gradients():
            (dx,) = torch.autograd.grad(logits.sum(), [real], create_graph=True)
        r1 = dx.square().sum()
        loss_d = F.softplus(D(image.detach())).mean() + F.softplus(-logits).mean() + r1
        optimizers[1].zero_grad()
        loss_d.backward()
        norms_d = [p.grad.norm().item() for p in D.parameters()]
        optimizers[1].step()
        return [path_length.item(), r1.item(), loss_g.item(), loss_d.item(), *norms_g, *norms_d]
"""

NVLABS: dict[str, Text] = {
    "torch_utils/__init__.py": "",
    "torch_utils/custom_ops.py": """
        import torch.utils.cpp_extension

        verbosity = "brief"

        def get_plugin(module_name, sources, headers=None, source_dir=None, **build_kwargs):
            return torch.utils.cpp_extension.load(name=module_name, sources=sources, **build_kwargs)
    """,
    "torch_utils/misc.py": """
        import numpy as np
        import torch

        class InfiniteSampler(torch.utils.data.Sampler):
            def __init__(self, dataset, rank=0, seed=0):
                super().__init__(dataset)
                self.dataset, self.rank, self.seed = dataset, rank, seed

            def __iter__(self):
                order = np.arange(len(self.dataset))
                np.random.RandomState(self.seed).shuffle(order)
                while True:
                    yield from order.astype(np.int).tolist()
    """,
    "torch_utils/persistence.py": """
        import inspect
        import sys
        import types

        def persistent_class(cls):
            # Pickles of its objects hold the text of the module.
            module = sys.modules[cls.__module__]
            source = getattr(module, "_source", None) or inspect.getsource(module)

            class Persistent(cls):
                def __reduce__(self):
                    return restore, (source, cls.__name__, dict(self.__dict__))

            Persistent.__name__, Persistent.__module__ = cls.__name__, cls.__module__
            return Persistent

        def restore(source, name, state):
            module = types.ModuleType(f"_imported_{abs(hash(source))}")
            module._source = source
            sys.modules[module.__name__] = module
            exec(source, vars(module))
            restored = vars(module)[name].__new__(vars(module)[name])
            restored.__dict__.update(state)
            return restored
    """,
    "torch_utils/ops/__init__.py": "",
    "torch_utils/ops/upfirdn2d.py": (
        """
        import torch
        import torch.nn.functional as F
        from .. import custom_ops

        _plugin = custom_ops.get_plugin("upfirdn2d_plugin", sources=["upfirdn2d.cpp"])
    """,
        _FIR,
        """
        def setup_filter(f, device=torch.device("cpu"), normalize=True, flip_filter=False, gain=1, separable=None):
            f = torch.as_tensor(f, dtype=torch.float32, device=device)
            f = f.ger(f) if f.ndim == 1 else f
            return f / f.sum() * gain if normalize else f * gain

        def upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl="cuda"):
            return _fir(x, f, up, down, list(padding), gain)
    """,
    ),
    "torch_utils/ops/bias_act.py": """
        import torch
        from .. import custom_ops

        _plugin = custom_ops.get_plugin("bias_act_plugin", sources=["bias_act.cpp"])

        def bias_act(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None, impl="cuda"):
            y = x if b is None else x + b.reshape([-1 if i == dim else 1 for i in range(x.ndim)])
            y = torch.where(y < 0, y * 0.2, y) if act == "lrelu" else y
            y = y * ((2 ** 0.5 if act == "lrelu" else 1) if gain is None else gain)
            return y if clamp is None else y.clamp(-clamp, clamp)
    """,
    "torch_utils/ops/conv2d_gradfix.py": """
        import contextlib
        import torch.nn.functional as F

        enabled = False

        @contextlib.contextmanager
        def no_weight_gradients(disable=True):
            yield

        def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
            return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    """,
    "torch_utils/ops/conv2d_resample.py": """
        from . import conv2d_gradfix, upfirdn2d

        def conv2d_resample(x, w, f=None, up=1, down=1, padding=0, groups=1, flip_weight=True, flip_filter=False):
            p0 = p1 = padding
            if up > 1:
                p0, p1 = p0 + (f.shape[-1] + up - 1) // 2, p1 + (f.shape[-1] - up) // 2
            if down > 1:
                p0, p1 = p0 + (f.shape[-1] - down + 1) // 2, p1 + (f.shape[-1] - down) // 2
            identity = f.new_ones(1, 1)
            x = upfirdn2d.upfirdn2d(x, f if up > 1 else identity, up=up, padding=[p0, p1, p0, p1], gain=up ** 2)
            x = conv2d_gradfix.conv2d(x, w if flip_weight else w.flip(2, 3), groups=groups)
            return upfirdn2d.upfirdn2d(x, f, down=down, padding=[0] * 4) if down > 1 else x
    """,
    "training/__init__.py": "",
    "training/networks.py": """
        import numpy as np
        import torch
        from torch_utils import persistence
        from torch_utils.ops import bias_act, conv2d_resample, upfirdn2d

        @persistence.persistent_class
        class SynthesisLayer(torch.nn.Module):
            def __init__(self, channels, w_dim, up=1):
                super().__init__()
                self.up, self.act_gain = up, np.float64(np.sqrt(2))
                self.affine = torch.nn.Linear(w_dim, channels)
                self.weight = torch.nn.Parameter(torch.randn(channels, channels, 3, 3))
                self.bias = torch.nn.Parameter(torch.zeros(channels))
                self.noise_strength = torch.nn.Parameter(torch.ones([]))
                self.register_buffer("resample_filter", upfirdn2d.setup_filter([1, 3, 3, 1]))
                self.register_buffer("noise_const", torch.randn(8 * up, 8 * up))

            def forward(self, x, w, gain=1):
                # The weights of the convolution mustn't depend on w where their gradients are left out.
                styles = self.affine(w)
                scales = (styles[:, None, :, None, None] * self.weight).square().sum(dim=[2, 3, 4]).add(1e-8).rsqrt()
                x = conv2d_resample.conv2d_resample(
                    x * styles[:, :, None, None], self.weight, f=self.resample_filter, up=self.up, padding=1,
                    flip_weight=self.up == 1,
                )
                x = x * scales[:, :, None, None] + self.noise_const * self.noise_strength
                return bias_act.bias_act(x, self.bias, act="lrelu", gain=self.act_gain * gain, clamp=256)

        @persistence.persistent_class
        class Generator(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.const = torch.nn.Parameter(torch.randn(4, 8, 8))
                self.conv0, self.conv1 = SynthesisLayer(4, 6), SynthesisLayer(4, 6, up=2)

            def forward(self, w):
                x = self.const[None].repeat(w.shape[0], 1, 1, 1)
                return self.conv1(self.conv0(x, w), w)

        class Discriminator(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.randn(3, 4, 3, 3))
                self.bias = torch.nn.Parameter(torch.zeros(3))
                self.register_buffer("resample_filter", upfirdn2d.setup_filter([1, 3, 3, 1]))

            def forward(self, x):
                x = conv2d_resample.conv2d_resample(x, self.weight, f=self.resample_filter, down=2, padding=1)
                return bias_act.bias_act(x, self.bias, act="lrelu").mean([1, 2, 3])
    """,
    "train.py": (
        """
        import io
        import json
        import pickle
        import torch
        import torch.nn.functional as F
        from torch_utils import misc
        from torch_utils.ops import conv2d_gradfix
        from training import networks

        G_opt_kwargs = dict(lr=0.002, betas=[0, 0.99], eps=1e-8)
    """,
        _STEP,
        """
        def main():
            torch.manual_seed(0)
            G, D = networks.Generator(), networks.Discriminator()
            G = pickle.load(io.BytesIO(pickle.dumps(G)))
            optimizers = [torch.optim.Adam(net.parameters(), **G_opt_kwargs) for net in (G, D)]
            order = iter(misc.InfiniteSampler([0] * 7))
            latent = torch.randn(2, 6, requires_grad=True)
            real = torch.randn(2, 4, 16, 16, requires_grad=True)
            losses = step(G, D, latent, real, optimizers, conv2d_gradfix.no_weight_gradients)
            print(json.dumps(losses + [next(order) for _ in range(8)]))

        main()
    """,
    ),
}

_ROSINALITY_FUSED = """
    import torch
    from torch import nn
    from torch.utils.cpp_extension import load

    fused = load("fused", sources=["fused_bias_act.cpp"])

    class FusedLeakyReLU(nn.Module):
        def __init__(self, channel, negative_slope=0.2, scale=2 ** 0.5):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(channel))
            self.negative_slope, self.scale = negative_slope, scale

        def forward(self, input):
            return fused_leaky_relu(input, self.bias, self.negative_slope, self.scale)

    def fused_leaky_relu(input, bias, negative_slope=0.2, scale=2 ** 0.5):
        y = input + bias.reshape([1, -1] + [1] * (input.ndim - 2))
        return torch.where(y < 0, y * negative_slope, y) * scale
"""

_ROSINALITY_UPFIRDN2D = (
    """
    import torch.nn.functional as F
    from torch.utils.cpp_extension import load

    upfirdn2d_op = load("upfirdn2d", sources=["upfirdn2d.cpp"])
""",
    _FIR,
    """
    def upfirdn2d(input, kernel, up=1, down=1, pad=(0, 0)):
        return _fir(input, kernel, up, down, [*pad, *pad], 1)
""",
)

# Networks of the other families: a blur of its own padding, an upsampling, fused activations.
_MODEL = """
    class Generator(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.activate = nn.Conv2d(3, 4, 3, padding=1, bias=False), {activation}(4)
            self.register_buffer("kernel", torch.tensor([[1.0, 2.0, 0.5], [2.0, 4.0, 1.0], [1.0, 3.0, 0.5]]) / 15)

        def forward(self, latent):
            x = upfirdn2d(latent.reshape(2, 3, 4, 4), self.kernel * 4, up=2, pad=(2, 1))
            return upfirdn2d(self.activate(self.conv(x)), self.kernel, pad=(1, 2))

    class Discriminator(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.activate = nn.Conv2d(4, 4, 3, bias=False), {activation}(4)
            self.register_buffer("kernel", torch.ones(3, 3) / 9)

        def forward(self, x):
            x = self.activate(self.conv(upfirdn2d(x, self.kernel, down=2, pad=(1, 1))))
            return x.square().mean([1, 2, 3])
"""

_MAIN = """
    def main():
        torch.manual_seed(0)
        G, D = Generator(), Discriminator()
        ratio = 1
        optimizers = [
            torch.optim.Adam(net.parameters(), lr=0.002, betas=(0 ** ratio, 0.99 ** ratio)) for net in (G, D)
        ]
        latent = torch.randn(2, 48, requires_grad=True)
        real = torch.randn(2, 4, 9, 9, requires_grad=True)
        print(json.dumps(step(G, D, latent, real, optimizers, contextlib.nullcontext)))

    main()
"""


def _train(module: str) -> Text:
    imports = f"""
        import contextlib
        import json
        import torch
        import torch.nn.functional as F
        from {module} import Discriminator, Generator
    """
    return imports, _STEP, _MAIN


ROSINALITY: dict[str, Text] = {
    "models/__init__.py": "",
    "models/stylegan2/__init__.py": "",
    "models/stylegan2/op/__init__.py": """
        from .fused_act import FusedLeakyReLU, fused_leaky_relu
        from .upfirdn2d import upfirdn2d
    """,
    "models/stylegan2/op/fused_act.py": _ROSINALITY_FUSED,
    "models/stylegan2/op/upfirdn2d.py": _ROSINALITY_UPFIRDN2D,
    "models/stylegan2/model.py": (
        """
        import torch
        from torch import nn
        from models.stylegan2.op import FusedLeakyReLU, fused_leaky_relu, upfirdn2d
    """,
        _MODEL.format(activation="FusedLeakyReLU"),
    ),
    "train.py": _train("models.stylegan2.model"),
}

BASICSR: dict[str, Text] = {
    "basicsr/__init__.py": "from .data import degradations",
    "basicsr/data/__init__.py": "",
    "basicsr/data/degradations.py": "from torchvision.transforms.functional_tensor import rgb_to_grayscale",
    "basicsr/ops/__init__.py": "",
    "basicsr/ops/fused_act/__init__.py": "from .fused_act import FusedLeakyReLU, fused_leaky_relu",
    "basicsr/ops/fused_act/fused_act.py": _ROSINALITY_FUSED,
    "basicsr/ops/upfirdn2d/__init__.py": "from .upfirdn2d import upfirdn2d",
    "basicsr/ops/upfirdn2d/upfirdn2d.py": _ROSINALITY_UPFIRDN2D,
    "basicsr/archs/__init__.py": "",
    "basicsr/archs/stylegan2_arch.py": (
        """
        import torch
        from torch import nn
        from basicsr.ops.fused_act import FusedLeakyReLU, fused_leaky_relu
        from basicsr.ops.upfirdn2d import upfirdn2d
    """,
        _MODEL.format(activation="FusedLeakyReLU"),
    ),
    "train.py": _train("basicsr.archs.stylegan2_arch"),
}

MMCV: dict[str, Text] = {
    "mmgen_like/__init__.py": "",
    "mmgen_like/networks.py": (
        """
        import torch
        from torch import nn
        from mmcv.ops import FusedBiasLeakyReLU, upfirdn2d
    """,
        _MODEL.format(activation="FusedBiasLeakyReLU"),
    ),
    "train.py": _train("mmgen_like.networks"),
}

# What the last project imports and hasn't.
MMCV_ITSELF: dict[str, Text] = {
    "mmcv/__init__.py": "",
    "mmcv/ops/__init__.py": """
        from .fused_act import FusedLeakyReLU as FusedBiasLeakyReLU
        from .upfirdn2d import upfirdn2d
    """,
    "mmcv/ops/fused_act.py": _ROSINALITY_FUSED,
    "mmcv/ops/upfirdn2d.py": _ROSINALITY_UPFIRDN2D,
}

PROJECTS = {"nvlabs": NVLABS, "rosinality": ROSINALITY, "basicsr": BASICSR, "mmcv": MMCV}


def write(folder: Path, files: Mapping[str, Text]) -> Path:
    """Writes files into a folder; returns the folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(map(textwrap.dedent, [text] if isinstance(text, str) else text)))
    return folder
