# SPDX-License-Identifier: Apache-2.0
"""Which route a modulated layer takes on a GPU: by request, by the table of measurements, and as explained."""

import pytest
import torch

import hsr_kernels as hk
from hsr_kernels.modulated_conv2d import routes
from hsr_kernels.modulated_conv2d.routes import CONVOLUTION, FUSED, PASSES, Layer, Measurement, choose

LAYER = Layer(3, 64, 64, 1024, "half")
WEIGHT = (64, 64, 3, 3)


def images(c: int = 64, side: int = 32, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.empty(2, c, side, side, dtype=dtype).to(memory_format=torch.channels_last)


@pytest.fixture(autouse=True)
def _as_released(monkeypatch):
    monkeypatch.delenv("HSR_KERNELS_ROUTE", raising=False)
    monkeypatch.delenv("HSR_KERNELS_ROUTES", raising=False)


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Writes a table of (pass, layer, fused, convolution) and lets it decide; on the CPU the chip is called none."""

    def write(*rows: tuple[str, Layer, float, float], chip: str = "none") -> str:
        path = tmp_path / "routes.csv"
        routes.write(path, [Measurement(chip, *row) for row in rows])
        routes.read.cache_clear()
        routes._measured.cache_clear()
        monkeypatch.setenv("HSR_KERNELS_ROUTES", str(path))
        return str(path)

    return write


def test_a_table_is_read_as_it_was_written(table):
    rows = [("forward", LAYER, 12.5, 20.0), ("weight gradient", Layer(1, 8, 4, 16, "tf32"), 3.0, 2.0)]
    assert routes.read(table(*rows)) == tuple(Measurement("none", *row) for row in rows)
    assert [m.faster for m in routes.read(table(*rows))] == [FUSED, CONVOLUTION]


def test_the_table_in_the_package_can_be_read():
    for m in routes.read(str(routes._TABLE)):
        assert m.direction in PASSES and m.layer.products in ("half", "tf32", "ieee")
        assert min(m.fused, m.convolution) > 0


def test_each_pass_takes_the_route_that_was_measured_faster(table):
    table(("forward", LAYER, 10, 20), ("input gradient", LAYER, 30, 20))
    route, reason = choose("forward", images(), WEIGHT)
    assert route == FUSED
    assert reason == "measured for 3x3, 64 -> 64 channels, 1024 pixels: fused 10 µs, convolution 20 µs"
    assert choose("input gradient", images(), WEIGHT)[0] == CONVOLUTION
    assert choose("weight gradient", images(), WEIGHT)[0] == CONVOLUTION


def test_the_most_similar_layer_decides_unless_none_is_similar(table):
    far = Layer(3, 512, 512, 64, "half")
    table(("forward", LAYER, 10, 20), ("forward", far, 30, 20))
    assert choose("forward", images(128), (64, 128, 3, 3))[0] == FUSED
    assert choose("forward", images(256, 8), (512, 256, 3, 3))[0] == CONVOLUTION
    route, reason = choose("forward", images(64, 256), WEIGHT)
    assert route == CONVOLUTION and "no layer like this has been measured" in reason


@pytest.mark.parametrize("other", [Layer(1, 64, 64, 1024, "half"), Layer(3, 64, 64, 1024, "tf32")])
def test_kernels_and_kinds_of_products_are_not_compared(table, other):
    table(("forward", other, 10, 20))
    assert choose("forward", images(), WEIGHT)[0] == CONVOLUTION


def test_other_chips_are_not_compared(table):
    table(("forward", LAYER, 10, 20), chip="9.0")
    route, reason = choose("forward", images(), WEIGHT)
    assert route == CONVOLUTION and "nothing has been measured on this chip" in reason


def test_float32_is_multiplied_as_convolutions_may(monkeypatch):
    for allowed, kind in ((True, "tf32"), (False, "ieee")):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", allowed)
        assert routes.products(torch.float32) == kind
        assert routes.products(torch.bfloat16) == routes.products(torch.float16) == "half"


def test_requests_outrank_the_environment_and_that_the_table(table, monkeypatch):
    table(("forward", LAYER, 10, 20))
    monkeypatch.setenv("HSR_KERNELS_ROUTE", CONVOLUTION)
    assert choose("forward", images(), WEIGHT) == (CONVOLUTION, "it was requested")
    with hk.use_route(FUSED):
        assert choose("forward", images(), WEIGHT) == (FUSED, "it was requested")
        with hk.use_route(None):
            assert choose("forward", images(), WEIGHT)[0] == CONVOLUTION
        assert choose("forward", images(), WEIGHT)[0] == FUSED
    assert choose("forward", images(), WEIGHT)[0] == CONVOLUTION


def test_what_the_kernels_do_not_know_is_left_to_the_convolution():
    with hk.use_route(FUSED):
        assert choose("forward", images().contiguous(), WEIGHT)[0] == CONVOLUTION
        for kernel in ((5, 5), (1, 3)):
            assert choose("forward", images(), (64, 64, *kernel))[0] == CONVOLUTION


def test_few_outputs_are_one_kernels():
    for direction in PASSES:
        assert choose(direction, images(), (3, 64, 1, 1))[0] == FUSED
    assert choose("forward", images(), (17, 64, 1, 1))[0] == CONVOLUTION


@pytest.mark.parametrize("name", ("Fused", "cudnn", ""))
def test_unknown_routes_are_refused(name, monkeypatch):
    with pytest.raises(ValueError, match=f"route must be fused or convolution, got '{name}'"):
        hk.use_route(name)
    if name:
        monkeypatch.setenv("HSR_KERNELS_ROUTE", name)
        with pytest.raises(ValueError, match=f"HSR_KERNELS_ROUTE must be .*, got '{name}'"):
            choose("forward", images(), WEIGHT)


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("chip,pass\n", "must begin with the columns chip,pass,kernel"),
        (",".join(routes.HEADER) + "\n9.0,forward,3,64,64,many,half,1,2\n", "line 2: invalid literal"),
        (",".join(routes.HEADER) + "\n9.0,forward,3,64\n", "line 2"),
    ],
)
def test_what_is_no_table_is_told(tmp_path, monkeypatch, text, complaint):
    path = tmp_path / "table.csv"
    path.write_text(text)
    monkeypatch.setenv("HSR_KERNELS_ROUTES", str(path))
    with pytest.raises(ValueError, match=complaint):
        choose("forward", images(), WEIGHT)


def test_explained(table):
    """As `explain` says it where the triton backend runs."""
    table(("forward", LAYER, 10, 20))
    said = list(routes.describe(images(), torch.empty(WEIGHT)))
    assert said[0].startswith("forward of a layer that doesn't resample: fused (measured for 3x3, 64 -> 64")
    assert [line.partition(" of")[0] for line in said] == list(PASSES)
    (said,) = routes.describe(images())
    assert said.startswith("give x and weight")
    # On the CPU there is nothing to choose.
    assert hk.explain("modulated_conv2d", images(), torch.empty(WEIGHT)).details == ()
