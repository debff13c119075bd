# SPDX-License-Identifier: Apache-2.0
"""The page of `hsr ui`: what its sliders do, in Python and in a headless Chromium, and what bad input gets."""

import importlib.util
import shutil
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hsr.console import make_console
from hsr.editing.directions import Direction, identify, read_directions, write_directions
from hsr.editing.rendering import render
from hsr.errors import UserError
from hsr.latents import map_seeds
from hsr.models.build import build_generator
from hsr.options import UiOptions
from hsr.ui import command
from hsr.ui.command import open_explorer
from hsr.ui.explorer import Explorer, enlarge
from hsr.ui.page import build_page, load_gradio, serve

from .conftest import SMALL, write_weights

CLASSES = (3, 7)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Those after the first keep Chromium from looking for hosts of its own.
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def write_network(folder: Path, name: str, seed: int = 0, classes: tuple[int, ...] = CLASSES) -> Path:
    """Writes a random network's checkpoint and NAME-directions.safetensors, of one direction in W and one in styles."""
    torch.manual_seed(seed)
    G = build_generator(SMALL, 16, len(classes)).eval().requires_grad_(False)
    vectors = torch.nn.functional.normalize(torch.randn(2, 8), dim=1)
    found = [
        Direction("sefa-1@all", "sefa", vectors[0], 1.5, tuple(range(G.num_ws))),
        Direction("stylespace-1", "stylespace", vectors[1], 2.0, style_layer=1),
        Direction(f"only-{name}", "sefa", vectors[0].clone(), 1.0, (0,)),
    ]
    write_directions(folder / f"{name}-directions.safetensors", found, identify(G), {})
    return write_weights(folder / f"{name}.safetensors", G, classes)


@pytest.fixture
def options(tmp_path: Path) -> UiOptions:
    """Options for two networks with their own directions."""
    first, second = write_network(tmp_path, "a", 0), write_network(tmp_path, "b", 1)
    files = [tmp_path / f"{name}-directions.safetensors" for name in "ab"]
    return UiOptions(first, second, files[0], files[1], device="cpu")


@pytest.fixture(autouse=True)
def _networks_without_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradio, with all that it brings, is of the extra `ui`: without it everything but the page is tested."""
    if importlib.util.find_spec("gradio") is None:
        monkeypatch.setattr(command, "load_gradio", lambda: None)


@pytest.fixture
def explorer(options: UiOptions) -> Explorer:
    return open_explorer(options, make_console())


def test_images_are_those_of_the_seed_moved_along_directions(explorer: Explorer, options: UiOptions) -> None:
    assert explorer.names == ["sefa-1@all", "stylespace-1"]
    for network, file in zip(explorer.networks, (options.directions, options.against_directions), strict=True):
        G = network.G
        ws = map_seeds(G, CLASSES, [5], label=3, truncation=0.5)
        found = read_directions(file, G).directions
        place = explorer.networks.index(network)
        assert np.array_equal(explorer.images(5, 0.5, 3, {})[place], render(G, ws)[0])
        for name in explorer.names:
            expected = render(G, ws, direction=found[name], steps=torch.tensor([2.0]))[0]
            assert np.array_equal(explorer.images(5, 0.5, 3, {name: 2.0})[place], expected)
            assert not np.array_equal(expected, render(G, ws)[0])
        # Directions add up: the one in W moves the codes, the other one their styles.
        both = explorer.images(5, 0.5, 3, {"stylespace-1": -1.0, "sefa-1@all": 2.0})[place]
        moved = render(G, ws + 3 * found["sefa-1@all"].vector, direction=found["stylespace-1"], steps=-torch.ones(1))[0]
        assert abs(both.astype(int) - moved).max() <= 1 and not np.array_equal(moved, expected)
    assert not np.array_equal(*explorer.images(5, 0.5, 3, {}))
    assert enlarge(np.zeros((28, 28, 3), np.uint8)).shape == (392, 392, 3)


def test_networks_without_a_file_have_their_own_directions(
    options: UiOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "SAMPLES", 200)
    explorer = open_explorer(UiOptions(options.checkpoint, options.against, device="cpu"), make_console())
    assert {name.split("-")[0] for name in explorer.names} == {"ganspace", "sefa"}
    first, second = (network.directions["sefa-1@all"].vector for network in explorer.networks)
    assert not first.allclose(second)
    printed = capsys.readouterr().out
    assert f"Finding directions of {options.checkpoint}" in printed and "its own directions" in printed
    # A file of one network is for both, as they are of the same shape.
    shared = UiOptions(options.checkpoint, options.against, options.directions, device="cpu")
    explorer = open_explorer(shared, make_console())
    first, second = (network.directions["sefa-1@all"].vector for network in explorer.networks)
    assert first.equal(second) and "of the same shape" in capsys.readouterr().out


def test_page_is_served_to_this_computer_and_names_no_other_host(explorer: Explorer, options: UiOptions) -> None:
    gradio = pytest.importorskip("gradio", reason='no Gradio (pip install ".[ui]")')
    page = build_page(explorer, 0.5)
    (draw,) = (function for function in page.fns.values() if function.api_name == "draw")
    still, moved = draw.fn(5, 0.5, "by seed", 0, 0), draw.fn(5, 0.5, "by seed", 3, 0)
    assert all(not np.array_equal(*pair) for pair in zip(still, moved, strict=True))
    with pytest.raises(gradio.Error, match="The seed must be a whole number"):
        draw.fn(None, 0.5, "by seed", 0, 0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port} can't be used"):
            serve(page, port)
    try:
        address = serve(page, port)
        assert address == f"http://127.0.0.1:{port}/"
        # Of the addresses of 127.0.0.0/8, all of which are this computer's, it has the one.
        with socket.socket() as other, pytest.raises(ConnectionRefusedError):
            other.connect(("127.0.0.2", port))
        with urllib.request.urlopen(address) as answer:
            assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert not page.share and not page.analytics_enabled
    finally:
        page.close(verbose=False)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("nowhere", "nowhere"),
        ("a.safetensors --directions b.safetensors", "cannot be read as a file of directions"),
        ("a.safetensors --against-directions b-directions.safetensors", "--against-directions needs --against"),
        ("a.safetensors --against b.safetensors --against-directions d", "--against-directions needs --directions"),
        ("a.safetensors --against c.safetensors --directions a-directions.safetensors", "its classes are others"),
        ("a.safetensors --truncation 3", "--truncation"),
        ("a.safetensors --port 0", "--port"),
    ],
)
def test_mistakes_get_a_sentence(
    words: str,
    sentence: str,
    hsr: Callable[..., int],
    options: UiOptions,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    write_network(tmp_path, "c", classes=(3, 8))
    assert hsr("ui", *words.split(), "--device", "cpu") == 2
    error = capfd.readouterr().err
    assert sentence in error and error.startswith("hsr: ") and error.count("\n") == 1


def test_without_gradio_the_command_that_installs_it_is_named(
    hsr: Callable[..., int], options: UiOptions, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("hsr.ui.page.importlib.import_module", fail)
    monkeypatch.setattr(command, "load_gradio", load_gradio)
    with pytest.raises(UserError, match=r'hsr ui needs gradio: pip install "hsr-kernels\[ui\]"\.'):
        open_explorer(options, make_console())


@pytest.fixture
def address(explorer: Explorer) -> Iterator[str]:
    pytest.importorskip("gradio", reason='no Gradio (pip install ".[ui]")')
    page = build_page(explorer, 0.5)
    try:
        yield serve(page, None)
    finally:
        page.close(verbose=False)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH (Debian: apt-get install chromium)")
def test_a_slider_changes_both_pictures_in_chromium(address: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright (pip install playwright)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        page = browser.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        pictures = page.locator("#images img")

        def sources() -> list[str]:
            return [picture.get_attribute("src") or "" for picture in pictures.all()]

        def wait_for_others(before: list[str]) -> list[str]:
            """Waits until both pictures are others; the names of their files come from their content."""
            page.wait_for_function(
                "before => { const now = [...document.querySelectorAll('#images img')].map(image => image.src);"
                "return now.length == 2 && now.every(source => source && !before.includes(source)) }",
                arg=before,
            )
            return sources()

        still = wait_for_others([])
        page.locator("[id='direction-sefa-1@all'] input[type=range]").fill("3")
        moved = wait_for_others(still)
        page.get_by_role("button", name="Set all directions to 0").click()
        assert wait_for_others(moved) == still
        page.get_by_label("Seed").fill("7")
        wait_for_others(still)
        browser.close()
    assert all(url.startswith((address, "data:", "blob:")) for url in asked)
