# SPDX-License-Identifier: Apache-2.0
"""Which route each pass of a modulated layer takes on the triton backend: by request, as measured, and as explained."""

import pytest
import torch

import hsr_kernels as hk
from hsr_kernels._dispatch import measured
from hsr_kernels._dispatch.request import CONVOLUTION, FUSED
from hsr_kernels.modulated_conv2d import routes
from hsr_kernels.modulated_conv2d.routes import PASSES, Routes, choose, problem, route

WEIGHT = torch.Size((64, 64, 3, 3))
# Kernel size, input and output channels, pixels and kind of products of the layer at hand.
LAYER = (3, 64, 64, 1024, "half")


def images(c: int = 64, side: int = 32, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.empty(2, c, side, side, dtype=dtype).to(memory_format=torch.channels_last)


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Writes a table of (pass, layer, fused, convolution) and lets it decide; on the CPU the chip is called none."""

    def write(*rows: tuple[str, tuple, float, float], chip: str = "none") -> None:
        path = tmp_path / "measured.csv"
        lines = [
            measured.Measurement(chip, problem(direction, *layer), {FUSED: fused, CONVOLUTION: convolution})
            for direction, layer, fused, convolution in rows
        ]
        measured.write(path, lines)
        monkeypatch.setenv("HSR_KERNELS_MEASURED", str(path))
        hk.reset_choices()

    return write


def test_each_pass_takes_the_route_that_was_measured_faster(table):
    table(("forward", LAYER, 10, 20), ("input gradient", LAYER, 30, 20))
    assert choose("triton", images(), WEIGHT, resamples=False) == Routes(FUSED, CONVOLUTION, CONVOLUTION)
    assert route("forward", images(), WEIGHT)[1] == (
        "measured for 64 -> 64 channels, 1024 pixels: convolution 20.0 µs, fused 10.0 µs"
    )


def test_layers_that_resample_and_other_backends_have_one_route(table):
    table(*((direction, LAYER, 10, 20) for direction in PASSES))
    assert choose("triton", images(), WEIGHT, resamples=False) == Routes(FUSED, FUSED, FUSED)
    assert choose("triton", images(), WEIGHT, resamples=True) == Routes()
    assert choose("cuda", images(), WEIGHT, resamples=False) == choose("cpu", images(), WEIGHT, False) == Routes()
    assert set(Routes()) == {CONVOLUTION}


def test_the_most_similar_layer_decides_unless_none_is_similar(table):
    table(("forward", LAYER, 10, 20), ("forward", (3, 512, 512, 64, "half"), 30, 20))
    assert route("forward", images(128), torch.Size((64, 128, 3, 3)))[0] == FUSED
    assert route("forward", images(256, 8), torch.Size((512, 256, 3, 3)))[0] == CONVOLUTION
    chosen, reason = route("forward", images(64, 256), WEIGHT)
    assert chosen == CONVOLUTION and "not measured on this chip for tensors of about this size" in reason


@pytest.mark.parametrize("other", [(1, 64, 64, 1024, "half"), (3, 64, 64, 1024, "tf32")])
def test_other_kernel_sizes_and_products_are_ignored(table, other):
    table(("forward", other, 10, 20))
    assert route("forward", images(), WEIGHT)[0] == CONVOLUTION


def test_other_chips_are_ignored(table):
    table(("forward", LAYER, 10, 20), chip="9.0")
    chosen, reason = route("forward", images(), WEIGHT)
    assert chosen == CONVOLUTION and "not measured on this chip" in reason


def test_float32_products_follow_the_settings_of_convolutions(monkeypatch):
    for allowed, kind in ((True, "tf32"), (False, "ieee")):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
        assert routes.products(torch.float32) == kind
        assert routes.products(torch.bfloat16) == routes.products(torch.float16) == "half"


def test_requests_override_the_environment_which_overrides_the_table(table, monkeypatch):
    monkeypatch.setenv("HSR_KERNELS_ROUTE", CONVOLUTION)
    table(("forward", LAYER, 10, 20))
    assert route("forward", images(), WEIGHT) == (CONVOLUTION, "it was requested")
    with hk.use_route(FUSED):
        assert route("forward", images(), WEIGHT) == (FUSED, "it was requested")
        with hk.use_route(None):
            assert route("forward", images(), WEIGHT)[0] == CONVOLUTION
        assert route("forward", images(), WEIGHT)[0] == FUSED
    assert route("forward", images(), WEIGHT)[0] == CONVOLUTION


def test_layers_that_the_fused_kernels_lack_take_the_convolution():
    with hk.use_route(FUSED):
        assert route("forward", images().contiguous(), WEIGHT)[0] == CONVOLUTION
        for kernel in ((5, 5), (1, 3)):
            assert route("forward", images(), torch.Size((64, 64, *kernel)))[0] == CONVOLUTION


def test_few_outputs_take_the_fused_kernel():
    for direction in PASSES:
        for outputs in (3, 16):
            assert route(direction, images(), torch.Size((outputs, 64, 1, 1)))[0] == FUSED
    assert route("forward", images(), torch.Size((17, 64, 1, 1)))[0] == CONVOLUTION


def test_a_request_without_effect_warns_once():
    hk.reset_choices()
    with hk.use_route(FUSED):
        with pytest.warns(RuntimeWarning, match="modulated_conv2d takes the convolution route"):
            choose("cuda", images(), WEIGHT, resamples=False)
        choose("cuda", images(), WEIGHT, resamples=False)


@pytest.mark.parametrize("name", ("Fused", "cudnn", ""))
def test_unknown_routes_are_refused(name, monkeypatch):
    with pytest.raises(ValueError, match=f"route must be one of convolution, fused, got '{name}'"):
        hk.use_route(name)
    if name:
        monkeypatch.setenv("HSR_KERNELS_ROUTE", name)
        hk.reset_choices()
        with pytest.raises(ValueError, match=f"HSR_KERNELS_ROUTE must be .*, got '{name}'"):
            route("forward", images(), WEIGHT)


def test_routes_are_described(table):
    """As `explain` does where the triton backend runs."""
    table(("forward", LAYER, 10, 20))
    sentences = list(routes.describe(images(), torch.empty(WEIGHT)))
    assert sentences[0].startswith("forward of a layer that doesn't resample: fused (measured for 64 -> 64 channels")
    assert [line.partition(" of")[0] for line in sentences] == list(PASSES)
    (sentence,) = routes.describe(images())
    assert sentence.startswith("give x and weight")
    # On the CPU there is nothing to choose.
    assert hk.explain("modulated_conv2d", images(), torch.empty(WEIGHT)).details == ()
