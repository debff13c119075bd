# SPDX-License-Identifier: Apache-2.0
"""The mapping network: labels, truncation and the mean of w."""

import pytest
import torch

from hsr.models.mapping import MappingNetwork


class TestMapping:
    def test_normalises_z(self):
        mapping = MappingNetwork(8, 0, 8, 4, num_layers=2)
        z = torch.randn(3, 8)
        torch.testing.assert_close(mapping(5 * z), mapping(z))

    def test_repeats_w_for_every_layer(self):
        ws = MappingNetwork(8, 3, 8, 4, num_layers=2)(torch.randn(2, 8), torch.eye(3)[:2])
        assert ws.shape == (2, 4, 8)
        assert torch.equal(ws[:, 0], ws[:, 3])

    def test_label_matters(self):
        mapping = MappingNetwork(8, 3, 8, 4, num_layers=2)
        z = torch.randn(1, 8).expand(3, -1)
        w = mapping(z, torch.eye(3))[:, 0]
        assert (w[0] - w[1]).abs().max() > 1e-2

    def test_truncation_interpolates_towards_the_mean(self):
        mapping = MappingNetwork(8, 0, 8, 4, num_layers=2)
        mapping.w_avg.normal_()
        z = torch.randn(2, 8)
        full = mapping(z)
        half = mapping(z, truncation_psi=0.5, truncation_cutoff=2)
        torch.testing.assert_close(half[:, :2], (full[:, :2] + mapping.w_avg) / 2)
        assert torch.equal(half[:, 2:], full[:, 2:])
        torch.testing.assert_close(mapping(z, truncation_psi=0.0), mapping.w_avg.expand(2, 4, 8))

    def test_mean_of_w_follows_only_when_asked(self):
        mapping = MappingNetwork(8, 0, 8, 4, num_layers=2, w_avg_beta=0.9)
        mapping.w_avg.normal_()
        before = mapping.w_avg.clone()
        ws = mapping(torch.randn(5, 8))
        assert torch.equal(mapping.w_avg, before)
        torch.manual_seed(1)
        z = torch.randn(5, 8)
        ws = mapping(z, update_w_avg=True)
        torch.testing.assert_close(mapping.w_avg, 0.9 * before + 0.1 * ws[:, 0].mean(dim=0))
        assert not mapping.w_avg.requires_grad

    def test_wrong_shapes_are_named(self):
        mapping = MappingNetwork(8, 3, 8, 4, num_layers=2)
        with pytest.raises(ValueError, match=r"z must be \[N, 8\], got \(2, 7\)"):
            mapping(torch.randn(2, 7), torch.eye(3)[:2])
        with pytest.raises(ValueError, match=r"c must be \[N, 3\], got None"):
            mapping(torch.randn(2, 8))
        with pytest.raises(ValueError, match="no input"):
            MappingNetwork(0, 0, 8, 4)

    def test_a_mean_of_w_survives_an_overflow(self):
        mapping = MappingNetwork(4, 0, 4, 2)
        mapping(torch.randn(3, 4), update_w_avg=True)
        before = mapping.w_avg.clone()
        mapping(torch.full((3, 4), float("nan")), update_w_avg=True)
        assert mapping.w_avg.equal(before) and before.abs().sum() > 0
