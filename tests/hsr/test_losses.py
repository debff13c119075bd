# SPDX-License-Identifier: Apache-2.0
"""Losses against their formulas, their gradients, second-order ones above all, against finite differences."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hsr.losses import GANLoss
from hsr.models import Discriminator, Generator
from hsr.semantics import Encoder, SemanticRegularizer

N = 4


class ToyEncoder(Encoder):
    """Fixed random linear features at two depths."""

    name = "toy"
    shapes = ((5, 2), (4, 3))

    def __init__(self) -> None:
        super().__init__()
        self.projections = nn.ParameterList(torch.randn(dim, 3) for dim, _ in self.shapes)
        self.freeze()

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        maps = [torch.einsum("nchw,dc->ndhw", images, p) for p in self.projections]
        return [F.adaptive_avg_pool2d(x, t) for x, (_, t) in zip(maps, self.shapes, strict=True)]


def networks(c_dim: int = 0, resolution: int = 16) -> tuple[Generator, Discriminator]:
    options = {"channel_base": 64, "channel_max": 8, "mapping_layers": 2}
    G = Generator(8, c_dim, 8, resolution, mapping_lr_multiplier=1.0, **options).double()
    D = Discriminator(c_dim, resolution, **options).double()
    with torch.no_grad():
        for name, parameter in G.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.3)
    return G, D


def batch(c_dim: int = 0, resolution: int = 16) -> tuple[Tensor, Tensor, Tensor | None]:
    """Real images, latent codes, labels."""
    real = torch.randn(N, 3, resolution, resolution, dtype=torch.float64)
    c = torch.eye(c_dim, dtype=torch.float64)[torch.arange(N) % c_dim] if c_dim else None
    return real, torch.randn(N, 8, dtype=torch.float64), c


def finite_difference_errors(net: nn.Module, loss) -> tuple[dict[str, float], list[str]]:
    """Relative error of each parameter's gradient along a random direction; names of those without any."""
    net.zero_grad()
    loss().backward()
    errors, zero = {}, []
    for name, p in net.named_parameters():
        if p.grad is None or not p.grad.any():
            zero.append(name)
            continue
        direction = torch.randn(p.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        step = 1e-6
        original = p.detach().clone()
        values = []
        for sign in (1, -1):
            p.data.copy_(original + sign * step * direction)
            values.append(loss().item())
        p.data.copy_(original)
        numeric = (values[0] - values[1]) / (2 * step)
        errors[name] = abs(numeric - (p.grad * direction).sum().item()) / (abs(numeric) + 1e-6)
    return errors, zero


class TestSecondDerivatives:
    @pytest.mark.parametrize("c_dim", [0, 3])
    def test_r1(self, c_dim):
        G, D = networks(c_dim)
        real, _, c = batch(c_dim)
        loss = GANLoss(G, D, hsr=None, r1_gamma=10.0)
        errors, zero = finite_difference_errors(D, lambda: loss.discriminator_r1(real, c)[0])
        assert max(errors.values()) < 1e-5, errors
        # Behind the minibatch standard deviation D is piecewise linear: these biases do not bend it.
        assert zero == ["conv.bias", "fc.bias", "out.bias"]

    @pytest.mark.parametrize("c_dim", [0, 3])
    def test_path_length(self, c_dim):
        G, D = networks(c_dim)
        _, z, c = batch(c_dim)
        # pl_decay 0: the target of the penalty is a constant of the differentiation.
        loss = GANLoss(G, D, hsr=None, r1_gamma=1.0, pl_decay=0.0).double()
        loss.pl_mean.fill_(0.5)

        def value() -> Tensor:
            torch.manual_seed(2)
            return loss.generator_path_length(z, c)[0]

        errors, zero = finite_difference_errors(G, value)
        assert max(errors.values()) < 1e-5, errors
        # The last term of an image, a constant, has no share in how the image moves with w.
        assert zero == [f"synthesis.blocks.{r}.torgb.bias" for r in (4, 8, 16)]

    def test_generator_main_with_hsr(self):
        G, D = networks()
        _, z, _ = batch()
        hsr = SemanticRegularizer(ToyEncoder().double(), G, hidden=6).double()
        targets = hsr._encoder[0].targets
        loss = GANLoss(G, D, hsr=hsr, r1_gamma=1.0)
        fixed: list[list[Tensor]] = []

        def value() -> Tensor:
            torch.manual_seed(2)
            return loss.generator_main(z, None)[0]

        def constant(images: Tensor, num_scales: int) -> list[Tensor]:
            # The loss takes the encoder's features as constants, so the difference quotient must, too.
            if not fixed:
                fixed.append(targets(images, num_scales))
            return fixed[0]

        hsr._encoder[0].targets = constant
        both = nn.ModuleDict({"G": G, "heads": hsr})
        errors, zero = finite_difference_errors(both, value)
        assert max(errors.values()) < 1e-5, errors
        assert zero == []


class TestValues:
    def test_non_saturating(self):
        G, D = networks(3)
        real, z, c = batch(3)
        loss = GANLoss(G, D, hsr=None, r1_gamma=1.0, style_mixing_prob=0.0)
        torch.manual_seed(3)
        value, stats = loss.generator_main(z, c)
        torch.manual_seed(3)
        fake_logits = D(G(z, c), c)
        torch.testing.assert_close(value, -torch.log(torch.sigmoid(fake_logits)).mean())
        assert set(stats) == {"Loss/G/gan", "Loss/scores/fake"}
        torch.manual_seed(3)
        value, stats = loss.discriminator_main(real, c, z, c)
        real_logits = D(real, c)
        expected = -torch.log(torch.sigmoid(real_logits)).mean() - torch.log(1 - torch.sigmoid(fake_logits)).mean()
        torch.testing.assert_close(value, expected)
        assert set(stats) == {"Loss/D/gan", "Loss/scores/real", "Loss/signs/real"}
        assert not any(value.requires_grad for value in stats.values())

    def test_r1_penalty_of_a_linear_discriminator(self):
        slope = torch.randn(3 * 16 * 16, dtype=torch.float64)
        G, _ = networks()
        loss = GANLoss(G, lambda img, c: img.flatten(1) @ slope[:, None], hsr=None, r1_gamma=3.0)
        value, stats = loss.discriminator_r1(batch()[0], None)
        torch.testing.assert_close(value, slope.square().sum() * 1.5)
        torch.testing.assert_close(stats["Loss/D/r1"], slope.square().sum())

    def test_path_length_of_a_generator(self):
        """Lengths are |J_w^T y| with one Jacobian row block per layer, y normal over sqrt(pixels)."""
        G, D = networks(resolution=8)
        _, z, _ = batch()
        options = {"pl_decay": 0.25, "pl_weight": 3.0, "style_mixing_prob": 0.0}
        loss = GANLoss(G, D, hsr=None, r1_gamma=1.0, **options).double()
        loss.pl_mean.fill_(1.0)
        G.synthesis.forward = lambda ws: type(G.synthesis).forward(G.synthesis, ws, "const")
        torch.manual_seed(4)
        value, stats = loss.generator_path_length(z, None)
        torch.manual_seed(4)
        ws = G.mapping(z[: N // 2]).detach()
        y = torch.randn(N // 2, 3, 8, 8, dtype=torch.float64) / 8
        lengths = []
        for i in range(N // 2):
            jacobian = torch.autograd.functional.jacobian(lambda w: G.synthesis(w)[0], ws[i : i + 1])
            product = torch.einsum("chw,chwld->ld", y[i], jacobian[:, :, :, 0])
            lengths.append(product.square().sum(dim=1).mean().sqrt())
        mean = 1.0 + 0.25 * (torch.stack(lengths).mean() - 1.0)
        torch.testing.assert_close(loss.pl_mean, mean)
        torch.testing.assert_close(value, 3.0 * (torch.stack(lengths) - mean).square().mean())
        torch.testing.assert_close(stats["Loss/G/path_length"], torch.stack(lengths).mean())

    def test_hsr_adds_the_weighted_sum_of_its_scales(self):
        G, D = networks()
        _, z, _ = batch()
        hsr = SemanticRegularizer(ToyEncoder().double(), G, hidden=6).double()
        total = {}
        for weight in (0.0, 2.5):
            loss = GANLoss(G, D, hsr=hsr, hsr_weight=weight, r1_gamma=1.0)
            torch.manual_seed(5)
            total[weight], stats = loss.generator_main(z, None)
        torch.testing.assert_close(total[2.5] - total[0.0], 2.5 * stats["Loss/G/hsr"])
        torch.testing.assert_close(stats["Loss/G/hsr"], stats["Loss/G/hsr_8"] + stats["Loss/G/hsr_16"])

    def test_path_length_phase_takes_part_of_the_batch(self, monkeypatch):
        G, D = networks(resolution=8)
        _, z, _ = batch()
        sizes = []
        forward = type(G.synthesis).forward
        monkeypatch.setattr(
            type(G.synthesis), "forward", lambda self, ws: (sizes.append(len(ws)), forward(self, ws))[1]
        )
        for shrink in (1, 2, 8):
            GANLoss(G, D, hsr=None, r1_gamma=1.0, pl_batch_shrink=shrink).double().generator_path_length(z, None)
        assert sizes == [4, 2, 1]


class TestStyleMixing:
    def codes(self, probability: float) -> tuple[Tensor, Tensor]:
        G, D = networks()
        _, z, _ = batch()
        loss = GANLoss(G, D, hsr=None, r1_gamma=1.0, style_mixing_prob=probability)
        return loss._mixed_codes(z, None), G.mapping(z)

    def test_off(self):
        mixed, plain = self.codes(0.0)
        assert torch.equal(mixed, plain)

    def test_changes_the_layers_after_a_cut(self):
        cuts = set()
        for seed in range(30):
            torch.manual_seed(seed)
            mixed, plain = self.codes(1.0)
            same = (mixed == plain).all(dim=2).all(dim=0).tolist()
            cut = same.index(False)
            assert same == [True] * cut + [False] * (len(same) - cut)
            cuts.add(cut)
        assert cuts == {1, 2, 3, 4, 5}

    def test_probability(self):
        mixed = sum(not torch.equal(*self.codes(0.5)) for _ in range(60))
        assert 15 < mixed < 45


class TestState:
    def test_holds_the_path_length_mean_alone(self):
        G, D = networks()
        hsr = SemanticRegularizer(ToyEncoder(), G, hidden=6)
        loss = GANLoss(G, D, hsr=hsr, r1_gamma=1.0)
        assert list(loss.state_dict()) == ["pl_mean"]
        assert list(loss.parameters()) == []

    def test_mean_of_w_follows_in_the_main_phase_alone(self):
        G, D = networks()
        real, z, _ = batch()
        loss = GANLoss(G, D, hsr=None, r1_gamma=1.0).double()
        loss.discriminator_main(real, None, z, None)
        loss.generator_path_length(z, None)
        assert not G.mapping.w_avg.any()
        loss.generator_main(z, None)
        assert G.mapping.w_avg.any()

    def test_same_random_state_gives_the_same_loss(self):
        G, D = networks(3)
        real, z, c = batch(3)
        loss = GANLoss(G, D, hsr=None, r1_gamma=1.0).double()
        values = []
        for _ in range(2):
            torch.manual_seed(6)
            loss.pl_mean.zero_()
            phases = (loss.generator_main(z, c), loss.generator_path_length(z, c))
            phases += (loss.discriminator_main(real, c, z, c), loss.discriminator_r1(real, c))
            values.append(torch.stack([value for value, _ in phases]))
        assert torch.equal(*values)


class TestTraining:
    def test_each_phase_reaches_the_networks_it_trains(self):
        G, D = networks()
        real, z, _ = batch()
        encoder = ToyEncoder().double()
        hsr = SemanticRegularizer(encoder, G, hidden=6).double()
        loss = GANLoss(G, D, hsr=hsr, r1_gamma=1.0).double()
        D.requires_grad_(False)
        for phase in (loss.generator_main, loss.generator_path_length):
            phase(z, None)[0].backward()
        assert all(p.grad is not None for p in [*G.parameters(), *hsr.parameters()])
        assert all(p.grad is None for p in [*D.parameters(), *encoder.parameters()])
        D.requires_grad_(True)
        G.zero_grad()
        (loss.discriminator_main(real, None, z, None)[0] + loss.discriminator_r1(real, None)[0]).backward()
        assert all(p.grad is not None for p in D.parameters())
        assert all(p.grad is None for p in G.parameters())

    def test_discriminator_learns_to_distinguish_real_from_generated(self):
        G, D = (net.float() for net in networks(resolution=8))
        loss = GANLoss(G, D, hsr=None, r1_gamma=0.1)
        optimizer = torch.optim.Adam(D.parameters(), lr=0.005, betas=(0.0, 0.99))
        values = []
        for _ in range(30):
            real = torch.randn(8, 3, 1, 1).expand(-1, -1, 8, 8)
            main, _ = loss.discriminator_main(real, None, torch.randn(8, 8), None)
            r1, _ = loss.discriminator_r1(real, None)
            optimizer.zero_grad()
            (main + r1).backward()
            optimizer.step()
            values.append(main.item())
        assert values[0] > math.log(2)
        assert sum(values[-5:]) / 5 < 0.6 * values[0]
