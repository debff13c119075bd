# SPDX-License-Identifier: Apache-2.0
"""The StyleGAN2 networks against the formulas of the papers."""

import copy
import io
import math
import pickle

import pytest
import torch
import torch.nn.functional as F

import hsr.models.discriminator
import hsr.models.generator
from hsr.models import Discriminator, Generator
from hsr.models.discriminator import minibatch_std
from hsr.models.equalized import prepared, scale
from hsr.models.layers import (
    Conv2dLayer,
    FullyConnected,
    PlusProjection,
    StyledLayer,
    ToRGB,
    apply_each,
    noise_maps,
)

FIR = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
FIR2D = torch.outer(FIR, FIR) / 64


def generator(resolution: int = 16, c_dim: int = 0, **options) -> Generator:
    return Generator(8, c_dim, 8, resolution, channel_base=128, channel_max=16, mapping_layers=2, **options)


def discriminator(resolution: int = 16, c_dim: int = 0, **options) -> Discriminator:
    return Discriminator(c_dim, resolution, channel_base=128, channel_max=16, mapping_layers=2, **options)


def blur(x: torch.Tensor, pad: tuple[int, int], gain: float) -> torch.Tensor:
    """Convolve every channel of x with the FIR filter after padding both axes."""
    kernel = (FIR2D * gain).to(x.dtype).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, [*pad, *pad]), kernel, groups=x.shape[1])


def zero_insert(x: torch.Tensor) -> torch.Tensor:
    """[N, C, H, W] to [N, C, 2H, 2W] with zeros after every sample."""
    out = x.new_zeros(x.shape[0], x.shape[1], 2 * x.shape[2], 2 * x.shape[3])
    out[:, :, ::2, ::2] = x
    return out


def styled(layer: StyledLayer, x: torch.Tensor, w: torch.Tensor, noise_mode: str) -> torch.Tensor:
    """A layer's output from a latent code."""
    (noise,) = noise_maps([layer], len(x), noise_mode)
    return layer(x, (layer.weight, layer.affine(w), True), noise)


def lrelu(x: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


class TestFullyConnected:
    def test_is_linear_with_equalized_gains(self):
        layer = FullyConnected(6, 5, lr_multiplier=0.01, bias_init=1.0).double()
        x = torch.randn(3, 6, dtype=torch.float64)
        expected = x @ (layer.weight * 0.01 / math.sqrt(6)).t() + 1.0
        torch.testing.assert_close(layer(x), expected)

    def test_output_has_unit_variance_whatever_the_learning_rate(self):
        for lr_multiplier in (1.0, 0.01):
            layer = FullyConnected(512, 512, lr_multiplier=lr_multiplier)
            assert layer(torch.randn(256, 512)).std().item() == pytest.approx(1.0, abs=0.02)

    def test_lr_multiplier_slows_the_function_down(self):
        # One step of Adam moves every parameter by the learning rate, so outputs move with the multiplier.
        moves = []
        for lr_multiplier in (1.0, 0.01):
            layer = FullyConnected(64, 1, lr_multiplier=lr_multiplier)
            x = torch.ones(1, 64)
            before = layer(x)
            before.sum().backward()
            torch.optim.Adam(layer.parameters(), lr=1e-3).step()
            moves.append((layer(x) - before).abs().item())
        assert moves[0] / moves[1] == pytest.approx(100, rel=1e-2)


class TestPreparedParameters:
    GAINS, DTYPES = (0.3, 1.0, 1.7, 1.0), (torch.float16, torch.float16, torch.float32, torch.float32)

    def test_all_at_once_are_what_they_are_one_by_one(self):
        tensors = [torch.randn(3, 4).requires_grad_() for _ in self.GAINS]
        found = scale(tensors, self.GAINS, self.DTYPES)
        expected = [(t * gain).to(dtype) for t, gain, dtype in zip(tensors, self.GAINS, self.DTYPES, strict=True)]
        cotangents = [torch.randn(3, 4).to(dtype) for dtype in self.DTYPES]
        gradients = [torch.autograd.grad(outputs, tensors, cotangents) for outputs in (found, expected)]
        for one, other in zip([*found, *gradients[0]], [*expected, *gradients[1]], strict=True):
            assert one.dtype == other.dtype and torch.equal(one, other)

    def test_every_order_of_derivative(self):
        tensors = [torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
        options = ((0.3, 1.0, 1.7), (torch.float64,) * 3)
        assert torch.autograd.gradcheck(lambda *t: scale(t, *options), tensors)
        assert torch.autograd.gradgradcheck(lambda *t: scale(t, *options), tensors)

    def test_gradients_that_nobody_asks_for_are_not_there(self):
        tensors = [torch.randn(2, requires_grad=True) for _ in range(2)]
        scale(tensors, (2.0, 3.0), (torch.float32,) * 2)[1].sum().backward()
        assert tensors[0].grad is None and tensors[1].grad.eq(3).all()

    def test_layers_at_once_are_what_they_are_one_by_one(self):
        layers = [FullyConnected(3, width, bias_init=1.0).double() for width in (4, 2, 4)]
        inputs = [torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in layers]
        leaves = [*inputs, *(p for layer in layers for p in layer.parameters())]
        for one, layer, x in zip(apply_each(layers, inputs), layers, inputs, strict=True):
            torch.testing.assert_close(one, layer(x))

        def outputs(*_: torch.Tensor) -> list[torch.Tensor]:
            return apply_each(layers, inputs)

        assert torch.autograd.gradcheck(outputs, leaves) and torch.autograd.gradgradcheck(outputs, leaves)


class TestSynthesisLayers:
    @pytest.mark.parametrize("up", [1, 2])
    @pytest.mark.parametrize("clamp", [None, 0.5])
    def test_styled_layer_is_the_modulated_convolution_of_the_paper(self, up, clamp):
        """Per-sample weights w' = s w, w'' = w' / |w'| (equations 1 and 3), then noise, bias, leaky ReLU."""
        layer = StyledLayer(3, 4, 5, 8, up=up, conv_clamp=clamp).double()
        with torch.no_grad():
            layer.noise_strength.fill_(0.7)
            layer.bias.normal_()
        x = torch.randn(2, 3, 8 // up, 8 // up, dtype=torch.float64)
        w = torch.randn(2, 5, dtype=torch.float64)
        styles = w @ (layer.affine.weight / math.sqrt(5)).t() + 1
        for i in range(2):
            weight = layer.weight * styles[i].reshape(1, 3, 1, 1)
            weight = weight / (weight.square().sum(dim=[1, 2, 3], keepdim=True) + 1e-8).sqrt()
            # The convolution's padding of one sample counts on the upsampled image, ahead of the filter.
            image = F.pad(x[i : i + 1], [1] * 4) if up == 1 else blur(zero_insert(x[i : i + 1]), (3, 2), gain=4)
            # As published, layers that upsample convolve, and the others correlate.
            y = F.conv2d(image, weight if up == 1 else weight.flip(2, 3)) + layer.noise_const * 0.7
            y = lrelu(y + layer.bias.reshape(1, -1, 1, 1))
            expected = y if clamp is None else y.clamp(-clamp, clamp)
            torch.testing.assert_close(styled(layer, x, w, "const")[i : i + 1], expected)

    def test_to_rgb_does_not_demodulate(self):
        layer = ToRGB(6, 3, 5).double()
        x, w = torch.randn(2, 6, 4, 4, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
        styles = w @ (layer.affine.weight / math.sqrt(5)).t() + 1
        expected = torch.einsum("nchw,oc,nc->nohw", x, layer.weight[:, :, 0, 0], styles) / math.sqrt(6)
        torch.testing.assert_close(layer(x, layer.affine(w)), expected)

    def test_noise_modes(self):
        layer = StyledLayer(3, 4, 5, 8)
        x, w = torch.randn(2, 3, 8, 8), torch.randn(2, 5)
        # The strength starts at zero: noise is learned, not imposed.
        torch.testing.assert_close(styled(layer, x, w, "random"), styled(layer, x, w, "none"))
        with torch.no_grad():
            layer.noise_strength.fill_(1.0)
        assert torch.equal(styled(layer, x, w, "const"), styled(layer, x, w, "const"))
        assert not torch.equal(styled(layer, x, w, "random"), styled(layer, x, w, "random"))
        assert not torch.equal(styled(layer, x, w, "none"), styled(layer, x, w, "const"))


class TestGenerator:
    @pytest.mark.parametrize(("resolution", "num_ws"), [(8, 4), (16, 6), (32, 8)])
    def test_shapes(self, resolution, num_ws):
        G = generator(resolution)
        images = G(torch.randn(2, 8))
        assert images.shape == (2, 3, resolution, resolution)
        assert images.dtype == torch.float32
        assert G.num_ws == num_ws
        assert [G.channels(r) for r in (4, 8)] == [16, 16]

    def test_channels_follow_base_and_maximum(self):
        G = Generator(8, 0, 8, 32, channel_base=256, channel_max=20, mapping_layers=1)
        assert [G.channels(r) for r in (4, 8, 16, 32)] == [20, 20, 16, 8]

    def test_image_is_the_sum_of_upsampled_rgb_images(self):
        G = generator(16).double()
        ws = torch.randn(2, G.num_ws, 8, dtype=torch.float64)
        images, features = G.synthesis.with_features(ws, (4, 8, 16), noise_mode="const")
        expected = torch.zeros(2, 3, 2, 2, dtype=torch.float64)
        for i, r in enumerate((4, 8, 16)):
            assert features[r].shape == (2, G.channels(r), r, r)
            torgb = G.synthesis.blocks[str(r)].torgb
            rgb = torgb(features[r], torgb.affine(ws[:, 2 * i + 1]))
            expected = blur(zero_insert(expected), (2, 1), gain=4) + rgb
        torch.testing.assert_close(images, expected)
        assert torch.equal(images, G.synthesis(ws, noise_mode="const"))

    def test_each_code_drives_its_own_layers(self):
        G = generator(16)
        ws = torch.randn(1, G.num_ws, 8)
        changed = ws.clone()
        changed[:, 3] += 1  # ToRGB at 8x8 and the first layer at 16x16.
        _, a = G.synthesis.with_features(ws, (4, 8, 16), noise_mode="const")
        _, b = G.synthesis.with_features(changed, (4, 8, 16), noise_mode="const")
        assert torch.equal(a[4], b[4]) and torch.equal(a[8], b[8])
        assert not torch.equal(a[16], b[16])

    def test_memory_format_changes_the_layout_and_nothing_else(self):
        z = torch.randn(2, 8, dtype=torch.float64)
        G = generator(16).double()
        assert G.synthesis.with_features(G.mapping(z), (16,))[1][16].stride(1) == 1
        contiguous = generator(16, memory_format=torch.contiguous_format).double()
        contiguous.load_state_dict(G.state_dict())
        features = contiguous.synthesis.with_features(contiguous.mapping(z), (16,))[1]
        assert features[16].is_contiguous()
        torch.testing.assert_close(contiguous(z, noise_mode="const"), G(z, noise_mode="const"))

    def test_mixed_precision_is_float32_on_the_cpu(self):
        z = torch.randn(2, 8)
        G = generator(16)
        mixed = generator(16, mixed_precision_resolutions=2)
        mixed.load_state_dict(G.state_dict())
        assert torch.equal(mixed(z, noise_mode="const"), G(z, noise_mode="const"))

    def test_low_precision_blocks_agree_with_float32(self, monkeypatch):
        G, D = generator(16), discriminator(16)
        z = torch.randn(4, 8)
        images = G(z, noise_mode="const")
        logits = D(images)
        for module in (hsr.models.generator, hsr.models.discriminator):
            monkeypatch.setattr(module, "activation_dtype", lambda x, low: torch.float16 if low else torch.float32)
        low_G = generator(16, mixed_precision_resolutions=2, conv_clamp=256)
        low_D = discriminator(16, mixed_precision_resolutions=1, conv_clamp=256)
        low_G.load_state_dict(G.state_dict())
        low_D.load_state_dict(D.state_dict())
        low_images, features = low_G.synthesis.with_features(low_G.mapping(z), (4, 8, 16), "const")
        assert [x.dtype for x in features.values()] == [torch.float32, torch.float16, torch.float16]
        assert low_images.dtype == low_D(images).dtype == torch.float32
        torch.testing.assert_close(low_images, images, rtol=0, atol=0.02)
        torch.testing.assert_close(low_D(images), logits, rtol=0, atol=0.02)
        low_D(low_G(z)).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in low_G.parameters() if p.ndim > 0)

    def test_state_holds_weights_noise_and_mean_but_no_filter(self):
        state = generator(8).state_dict()
        assert "mapping.w_avg" in state and "synthesis.blocks.8.conv0.noise_const" in state
        assert not [key for key in state if "filter" in key]

    def test_errors(self):
        for resolution in (4, 24, 0):
            with pytest.raises(ValueError, match="power of two"):
                generator(resolution)
        G = generator(8)
        with pytest.raises(ValueError, match=r"ws must be \[N, 4, 8\], got \(2, 3, 8\)"):
            G.synthesis(torch.randn(2, 3, 8))
        with pytest.raises(ValueError, match="noise_mode must be one of random, const, none, got 'loud'"):
            G.synthesis(torch.randn(2, 4, 8), noise_mode="loud")
        with pytest.raises(ValueError, match=r"no features at resolution \[16\]"):
            G.synthesis.with_features(torch.randn(2, 4, 8), (8, 16))


class TestDiscriminator:
    def test_downsampling_convolution(self):
        layer = Conv2dLayer(3, 4, 3, activation="lrelu", down=2, conv_clamp=1.0, gain=0.5).double()
        x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
        blurred = blur(x, (2, 2), gain=1)
        weight = layer.weight / math.sqrt(27)
        expected = (lrelu(F.conv2d(blurred, weight, stride=2)) * 0.5).clamp(-0.5, 0.5)
        torch.testing.assert_close(layer(x), expected)

    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    def test_residual_block_adds_skip_and_main_path(self, memory_format):
        block = discriminator(16).blocks["16"].double()
        x = torch.randn(2, 8, 16, 16, dtype=torch.float64).contiguous(memory_format=memory_format)
        skip = F.conv2d(blur(x, (1, 1), gain=1)[:, :, ::2, ::2], block.skip.weight / math.sqrt(8))
        y = lrelu(F.conv2d(x, block.conv0.weight / math.sqrt(72), padding=1))
        y = lrelu(F.conv2d(blur(y, (2, 2), gain=1), block.conv1.weight / math.sqrt(72), stride=2))
        parameters = prepared((layer, x.dtype) for layer in block.equalized_layers())
        z = block(x, parameters)
        torch.testing.assert_close(z, (skip + y) / math.sqrt(2))
        assert z.is_contiguous(memory_format=memory_format)

    def test_every_order_of_derivative_of_a_sum_with_a_projection(self):
        y, x = (
            torch.randn(2, c, 3, 4, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
            for c in (5, 3)
        )
        weight = torch.randn(5, 3, 1, 1, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(PlusProjection.apply, (y, x, weight))
        assert torch.autograd.gradgradcheck(PlusProjection.apply, (y, x, weight))

    def test_minibatch_std(self):
        x = torch.randn(8, 5, 4, 4, dtype=torch.float64)
        y = minibatch_std(x, 4)
        assert torch.equal(y[:, :5], x)
        for group in (0, 1):
            members = x[group::2]
            expected = (members.var(dim=0, correction=0) + 1e-8).sqrt().mean().item()
            torch.testing.assert_close(y[group::2, 5], torch.full((4, 4, 4), expected, dtype=torch.float64))

    @pytest.mark.parametrize(("batch", "groups"), [(1, 1), (3, 1), (6, 2), (7, 7)])
    def test_minibatch_std_takes_any_batch(self, batch, groups):
        y = minibatch_std(torch.randn(batch, 5, 4, 4), 4)
        assert y.shape == (batch, 6, 4, 4)
        assert len(y[:, 5, 0, 0].unique()) <= groups

    @pytest.mark.parametrize("resolution", [8, 16, 32])
    def test_logits(self, resolution):
        assert discriminator(resolution)(torch.randn(4, 3, resolution, resolution)).shape == (4, 1)

    def test_label_matters(self):
        D = discriminator(8, c_dim=3)
        img = torch.randn(1, 3, 8, 8).expand(3, -1, -1, -1)
        logits = D(img, torch.eye(3))
        assert logits.shape == (3, 1)
        assert (logits[0] - logits[1]).abs() > 1e-4
        with pytest.raises(ValueError, match=r"c must be \[N, 3\], got None"):
            D(img)

    def test_memory_format_changes_nothing_but_the_layout(self):
        D = discriminator(16).double()
        contiguous = discriminator(16, memory_format=torch.contiguous_format).double()
        contiguous.load_state_dict(D.state_dict())
        img = torch.randn(4, 3, 16, 16, dtype=torch.float64)
        torch.testing.assert_close(contiguous(img), D(img))

    def test_wrong_image_is_named(self):
        with pytest.raises(ValueError, match=r"img must be \[N, 3, 8, 8\], got \(2, 3, 16, 16\)"):
            discriminator(8)(torch.randn(2, 3, 16, 16))


class TestModules:
    """What people do to modules besides calling them."""

    @pytest.fixture
    def G(self) -> Generator:
        return generator(16, 3)

    def image(self, G: Generator) -> torch.Tensor:
        rows = torch.arange(4)
        return G(torch.linspace(-1, 1, 32).reshape(4, 8), F.one_hot(rows % 3, 3), noise_mode="const").detach()

    @pytest.mark.parametrize("protocol", range(2, 6))
    def test_copies_are_the_same_network(self, G, protocol):
        def differentiated(G: Generator) -> None:
            G(torch.randn(2, 8), torch.eye(3)[:2]).sum().backward()

        for use in (self.image, differentiated):
            use(G)
            for copied in (copy.deepcopy(G), pickle.loads(pickle.dumps(G, protocol))):
                assert self.image(copied).equal(self.image(G))
        D = discriminator(16, memory_format=torch.contiguous_format)
        assert pickle.loads(pickle.dumps(D, protocol)).memory_format == torch.contiguous_format
        file = io.BytesIO()
        torch.save(G, file)
        file.seek(0)
        assert self.image(torch.load(file, weights_only=False)).equal(self.image(G))

    def test_is_built_without_memory_and_filled_later(self, G):
        """On the meta device, then from a state dict: the filters, which no state dict holds, are there too."""
        with torch.device("meta"):
            shapes, assigned, emptied = generator(16, 3), generator(16, 3), generator(16, 3)
            z, c = torch.empty(4, 8), torch.empty(4, 3)
        assert shapes(z, c).shape == (4, 3, 16, 16)
        assigned.load_state_dict(G.state_dict(), assign=True)
        emptied.to_empty(device="cpu").load_state_dict(G.state_dict())
        for built in (assigned, emptied):
            assert self.image(built).equal(self.image(G))

    def test_takes_empty_batches(self, G):
        D = discriminator(16, 3)
        z, c = torch.randn(0, 8), torch.zeros(0, 3)
        images = G(z, c)
        assert images.shape == (0, 3, 16, 16) and D(images, c).shape == (0, 1)
        D(images, c).sum().backward()
        assert all(p.grad.eq(0).all() for p in [*G.parameters(), *D.parameters()] if p.grad is not None)

    def test_gradients_of_each_sample(self, G):
        """As torch.func has them, with respect to parameters and images."""
        parameters, z, c = dict(G.named_parameters()), torch.randn(3, 8), torch.eye(3)

        def of_sample(parameters: dict, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            options = {"noise_mode": "const"}
            return torch.func.functional_call(G, parameters, (z[None], c[None]), options).square().mean()

        each = torch.func.vmap(torch.func.grad(of_sample), in_dims=(None, 0, 0))(parameters, z, c)
        for i in range(3):
            alone = torch.func.grad(of_sample)(parameters, z[i], c[i])
            torch.testing.assert_close({k: v[i] for k, v in each.items()}, alone, rtol=1e-3, atol=1e-5)
        D, images = discriminator(16), torch.randn(3, 3, 16, 16)
        score = lambda image: D(image[None]).sum()  # noqa: E731
        found = torch.func.vmap(torch.func.grad(score))(images)
        expected = torch.stack([torch.func.grad(score)(image) for image in images])
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_runs_in_every_dtype(self, G, dtype):
        D, z = discriminator(16), torch.randn(4, 8)
        images = G(z, torch.eye(3)[[0, 1, 2, 0]], noise_mode="const")
        logits = D(images)
        cast = G.to(dtype)(z.to(dtype), torch.eye(3)[[0, 1, 2, 0]], noise_mode="const")
        assert cast.dtype == dtype
        coarse = dtype in (torch.float16, torch.bfloat16)
        torch.testing.assert_close(cast.float(), images, rtol=0, atol=0.1 if coarse else 1e-5)
        torch.testing.assert_close(D.to(dtype)(images.to(dtype)).float(), logits, rtol=0, atol=0.1 if coarse else 1e-5)

    @pytest.mark.parametrize("resolution", [8, 16, 32, 128])
    def test_low_precision_is_for_the_highest_resolutions_and_never_4x4(self, resolution):
        sizes = [2**i for i in range(2, resolution.bit_length())]
        for number in (0, 1, 4, 9):
            highest = sizes[1:][max(len(sizes) - 1 - number, 0) :]
            G = generator(resolution, mixed_precision_resolutions=number)
            D = discriminator(resolution, mixed_precision_resolutions=number)
            assert [int(r) for r, block in G.synthesis.blocks.items() if block.low_precision] == highest
            assert sorted(int(r) for r, block in D.blocks.items() if block.low_precision) == highest

    def test_the_label_mapping_of_the_discriminator_is_eight_layers_deep(self):
        assert len(Discriminator(3, 16, channel_base=64, channel_max=8).embed.layers) == 8

    def test_no_feature_maps_are_reported(self):
        for make in (lambda: Generator(8, 0, 8, 64, channel_base=32), lambda: Discriminator(0, 64, channel_base=32)):
            with pytest.raises(ValueError, match=r"channel_base .* must leave a feature map at 64 pixels, got 32"):
                make()
