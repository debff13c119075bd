# SPDX-License-Identifier: Apache-2.0
"""The kinds of files that a traced generator can be written to, and run from."""

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .graph import OUTPUT, Graph

# PyTorch writes it without a conversion in every version that this package supports, and runtimes since 2023 read it.
OPSET = 18

# From inputs by name, in the program's order, to images.
Runner = Callable[[dict[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        title: Its name, as messages spell it.
        suffix: Of its files.
        runtime: What runs it for the comparison.
        write: Writes a program of a graph to a path.
        load: Returns what runs the file at a path.
        why_unavailable: Returns the reason why it can't be written here, empty if it can.
        why_not_run: Returns the reason why it can't be run here, empty if it can.
        remark: What to say while it is written, to follow its title.
    """

    title: str
    suffix: str
    runtime: str
    write: Callable[[torch.export.ExportedProgram, Graph, Path], None]
    load: Callable[[Path], Runner]
    why_unavailable: Callable[[], str] = lambda: ""
    why_not_run: Callable[[], str] = lambda: ""
    remark: str = ""


def _missing_packages(*names: str) -> str:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    verb = "are" if len(missing) > 1 else "is"
    return f"{' and '.join(missing)} {verb} not installed: `pip install {' '.join(missing)}`"


def _write_onnx(program: torch.export.ExportedProgram, graph: Graph, path: Path) -> None:
    shapes = graph.dynamic_shapes()
    model = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=list(shapes),
        output_names=[OUTPUT],
        dynamic_shapes=shapes,
        external_data=False,
        verbose=False,
    )
    assert model is not None
    model.model.metadata_props.update(graph.metadata(opset=OPSET))
    model.save(path, external_data=False)


def _load_onnx(path: Path) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(inputs: dict[str, Tensor]) -> Tensor:
        return torch.from_numpy(session.run(None, {name: value.numpy() for name, value in inputs.items()})[0])

    return run


def _write_program(program: torch.export.ExportedProgram, graph: Graph, path: Path) -> None:
    torch.export.save(program, path, extra_files=graph.metadata())


def _load_program(path: Path) -> Runner:
    module = torch.export.load(path).module()
    return lambda inputs: module(*inputs.values())


def _missing_compiler() -> str:
    # Inductor's choice on Linux.
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler):
        return ""
    return f"there is no C++ compiler {compiler}: install one, or name another in the environment variable CXX"


def _write_package(program: torch.export.ExportedProgram, graph: Graph, path: Path) -> None:
    configuration = {"aot_inductor.metadata": graph.metadata()}
    torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=configuration)


def _load_package(path: Path) -> Runner:
    package = torch._inductor.aoti_load_package(str(path))
    return lambda inputs: package(*inputs.values())


# By the name of the option that asks for a file.
FORMATS = {
    "onnx": Format(
        f"ONNX, opset {OPSET}",
        ".onnx",
        "onnxruntime",
        _write_onnx,
        _load_onnx,
        why_unavailable=lambda: _missing_packages("onnx", "onnxscript"),
        why_not_run=lambda: _missing_packages("onnxruntime"),
    ),
    "torch_export": Format("a program of torch.export", ".pt2", "PyTorch", _write_program, _load_program),
    "aot_inductor": Format(
        "a package of AOTInductor for this CPU",
        ".pt2",
        "AOTInductor",
        _write_package,
        _load_package,
        why_unavailable=_missing_compiler,
        remark=", which takes about a minute",
    ),
}
