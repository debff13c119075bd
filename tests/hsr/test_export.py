# SPDX-License-Identifier: Apache-2.0
"""`hsr export`: ONNX files, exported programs and compiled packages make the generator's images."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hsr.export import command, formats
from hsr.export.formats import FORMATS, OPSET
from hsr.latents import load_generator
from hsr.models import Generator
from hsr.models.build import build_generator
from hsr.weights import Header, join_groups, save_tensors

from .conftest import SMALL

Command = Callable[..., int]
BATCHES = (1, 3, 8)


@pytest.fixture
def write_weights(tmp_path: Path) -> Callable[..., Path]:
    """Writes a generator as `hsr train` does, every part of which shows in its images."""

    def write(resolution: int, classes: tuple[int, ...] = (), **changes: object) -> Path:
        config = dataclasses.replace(SMALL, **changes)
        G = build_generator(config, resolution, len(classes))
        with torch.no_grad():
            G.mapping.w_avg.normal_()
            for name, parameter in G.named_parameters():
                if name.endswith(("noise_strength", "bias")):
                    parameter.normal_()
        header = dataclasses.asdict(Header(config, resolution, classes, 0))
        save_tensors(join_groups({"G_ema": G.state_dict()}), tmp_path / "weights.safetensors", header)
        return tmp_path / "weights.safetensors"

    return write


def _onnx_runner(path: str) -> Callable[..., Tensor]:
    """Returns what runs an ONNX file in onnxruntime, on inputs by name."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(**inputs: Tensor) -> Tensor:
        (images,) = session.run(["images"], {name: value.numpy() for name, value in inputs.items()})
        return torch.from_numpy(images)

    return run


def _inputs(G: Generator, batch: int) -> tuple[Tensor, Tensor | None]:
    classes = torch.eye(G.c_dim)[torch.arange(batch) % G.c_dim] if G.c_dim else None
    return torch.randn(batch, G.z_dim), classes


def test_onnx_files_make_the_generators_images(
    hsr: Command, write_weights: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With classes and z, from blocks in float16 and with a clamp, as networks have that were trained on GPUs."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    weights = write_weights(32, (3, 5, 9), mixed_precision_resolutions=2, conv_clamp=2.0)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/z.onnx").write_text("an older file")
    assert hsr("export", "--checkpoint", weights, "--onnx", "deep/z.onnx") == 0
    printed = capsys.readouterr().out
    assert f"opset {OPSET}" in printed and "in onnxruntime differ from the network's by at most" in printed
    assert "float32" in printed
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["z.onnx"]

    model = onnx.load("deep/z.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    (metadata,) = [json.loads(entry.value) for entry in model.metadata_props if entry.key == "hsr"]
    assert metadata["classes"] == [3, 5, 9] and metadata["opset"] == OPSET and metadata["noise"] == "const"
    assert list(metadata["inputs"]) == [value.name for value in model.graph.input] == ["z", "c", "truncation_psi"]

    G, _ = load_generator(weights)
    run = _onnx_runner("deep/z.onnx")
    for batch, psi in zip(BATCHES, (1.0, 0.5, -0.3), strict=True):
        z, c = _inputs(G, batch)
        expected = G(z, c, truncation_psi=psi, noise_mode="const")
        images = run(z=z, c=c, truncation_psi=torch.tensor(psi))
        torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-4)


def test_onnx_files_take_a_code_for_each_layer(hsr: Command, write_weights: Callable[..., Path]) -> None:
    """Without classes and noise."""
    pytest.importorskip("onnxscript")
    weights = write_weights(8)
    assert hsr("export", "--checkpoint", weights, "--onnx", "w.onnx", "--input", "w", "--noise", "none") == 0
    G, _ = load_generator(weights)
    run = _onnx_runner("w.onnx")
    for batch in BATCHES:
        ws = torch.randn(batch, G.num_ws, G.w_dim)
        expected = G.synthesis(G.mapping.w_avg.lerp(ws, 0.7), noise_mode="none")
        torch.testing.assert_close(run(ws=ws, truncation_psi=torch.tensor(0.7)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.full
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here")
def test_compiled_packages_take_any_batch(hsr: Command, write_weights: Callable[..., Path]) -> None:
    weights = write_weights(32, (0, 1))
    assert hsr("export", "--checkpoint", weights, "--aot-inductor", "c.pt2") == 0
    package = torch._inductor.aoti_load_package("c.pt2")
    G, _ = load_generator(weights)
    for batch in BATCHES:
        z, c = _inputs(G, batch)
        expected = G(z, c, truncation_psi=0.7, noise_mode="const")
        torch.testing.assert_close(package(z, c, torch.tensor(0.7)), expected, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_exported_is_said_in_a_sentence(
    hsr: Command,
    write_weights: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def sentence(*options: object) -> str:
        capsys.readouterr()
        assert hsr("export", "--checkpoint", tmp_path / "weights.safetensors", *options) == 2
        error = capsys.readouterr().err
        assert error.startswith("hsr: ") and error.endswith(".\n") and error.count("\n") == 1, error
        assert not list(tmp_path.rglob("*.part")) and not (tmp_path / "g.pt2").exists()
        return error

    assert "give --onnx, --torch-export, --aot-inductor or several" in sentence()
    assert "g.pt does not end in .pt2" in sentence("--torch-export", "g.pt")
    assert "must name different files" in sentence("--torch-export", "g.pt2", "--aot-inductor", tmp_path / "g.pt2")
    assert "does not exist" in sentence("--torch-export", "g.pt2")
    with monkeypatch.context() as patch:
        patch.setattr(formats.importlib.util, "find_spec", lambda name: None)
        assert "onnx and onnxscript are not installed" in sentence("--onnx", "g.onnx")
        patch.setenv("CXX", "no-such-compiler")
        assert "no C++ compiler no-such-compiler" in sentence("--aot-inductor", "g.pt2")

    write_weights(8)
    with monkeypatch.context() as patch:
        patch.setattr(command, "MAX_DIFFERENCE", -1.0)
        assert "differ from the network's by" in sentence("--torch-export", "g.pt2")
        patch.setattr(torch.export, "export", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no\nmore")))
        assert "cannot be exported as a program (no)" in sentence("--torch-export", "g.pt2")


def test_programs_are_written_where_they_cannot_be_run(
    hsr: Command,
    write_weights: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    unrun = dataclasses.replace(FORMATS["torch_export"], why_not_run=lambda: "the runtime is missing")
    monkeypatch.setitem(FORMATS, "torch_export", unrun)
    weights = write_weights(8)
    assert hsr("export", "--checkpoint", weights, "--torch-export", "z.pt2") == 0
    assert "were not compared with the network's, as the runtime is missing." in capsys.readouterr().out
    program = torch.export.load("z.pt2")
    assert "hsr_kernels" not in str(program.graph)
    G, _ = load_generator(weights)
    for batch in BATCHES:
        z, _ = _inputs(G, batch)
        expected = G(z, truncation_psi=0.7, noise_mode="const")
        torch.testing.assert_close(program.module()(z, torch.tensor(0.7)), expected, rtol=1e-4, atol=1e-4)
