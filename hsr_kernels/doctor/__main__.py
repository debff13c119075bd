# SPDX-License-Identifier: Apache-2.0
"""`python -m hsr_kernels.doctor` shows on one screen what is there, what runs, what is missing and how to get it."""

import argparse
import csv
import io
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import torch

from .. import __file__ as _package
from .. import __version__
from .._dispatch import measured, native, request
from .._dispatch import operators as _operators
from .._dispatch.operators import Choice, Operator
from .._dispatch.request import BACKENDS
from .advice import GPU_BACKENDS, Advice, advice, enumerate_names
from .machine import Device, Machine, inspect_machine, processor, system

_LINE_WIDTH = 100
# In the table of operators, it says that a call raises an error.
_ERROR = "error"
_BACKEND = request.BACKEND.variable
_ROUTE = request.ROUTE.variable
_EMULATED = native.EMULATED
_SETTING_PREFIXES = ("HSR_", "TRITON_INTERPRET", "CUDA_VISIBLE_DEVICES")

# (operator, label of a device) -> the choice for it.
Choices = dict[tuple[str, str], Choice]


def main(arguments: list[str] | None = None) -> int:
    """Prints the screen; returns 1 if something that was requested can't work, otherwise 0."""
    parser = argparse.ArgumentParser(
        prog="python -m hsr_kernels.doctor",
        description="Shows what hsr_kernels can use on this machine, which backend each operator runs on and why, what "
        "is missing and how to get it. Exits with 1 if something that was requested, as an argument or in the "
        "environment, can't work.",
    )
    parser.add_argument("backend", nargs="*", help=f"a backend that has to work: {', '.join(BACKENDS)}")
    requested = list(dict.fromkeys(parser.parse_args(arguments).backend))
    machine = inspect_machine()
    choices = {(op.name, device.label): choose(op, device, machine) for op in operators() for device in machine.devices}
    missing = list(advice(machine))
    problems = [*broken_requests(requested, machine, missing), *broken_settings(machine)]
    lines = [
        *components(machine),
        "",
        *table(machine, choices),
        "",
        *backend_lines(machine),
        *order_lines(machine, choices),
    ]
    lines += section("Missing", missing)
    lines += section("Notes", [Advice(note, "") for note in notes(machine, choices, problems)])
    lines += section("Problems", problems) or ["", verdict(requested)]
    print("\n".join(lines))
    return 1 if problems else 0


def operators() -> list[Operator]:
    """Returns all operators, in alphabetical order."""
    return [operator for _, operator in sorted(_operators.operators.items())]


def section(heading: str, entries: list[Advice]) -> list[str]:
    """Returns a heading and sentences, each with its command on a line of its own, to be copied."""
    lines = ["", heading] if entries else []
    for entry in entries:
        lines += wrap("", entry.sentence, 2)
        lines += [f"      {entry.command}"] if entry.command else []
    return lines


def wrap(name: str, text: str, column: int) -> list[str]:
    """Returns text that begins in a column, behind a name, and continues two columns further right."""
    return textwrap.wrap(
        text,
        _LINE_WIDTH,
        initial_indent=name.ljust(column),
        subsequent_indent=" " * (column + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )


def verdict(requested: list[str]) -> str:
    """Returns the final line of a screen without problems."""
    requested = [*requested, *filter(None, [os.environ.get(_BACKEND)])]
    return f"No problems: {enumerate_names(requested)} can run." if requested else "No problems."


# What is there.


def components(machine: Machine) -> list[str]:
    """Returns lines with the name and the version of each component."""
    remark = "" if machine.has_gpu else "; fine without a GPU"
    compiler = f"{machine.compiler.path}: {machine.compiler.version}"
    if not machine.compiler.path:
        cxx = os.environ.get("CXX")
        compiler = f"none: CXX={cxx} names no program" if cxx else "none found"
    problem = native.missing("_cuda") if machine.has_gpu else ""
    architectures = getattr(native.load("_cuda")[0], "architectures", None)
    rows = [
        ("hsr-kernels", f"{__version__} in {Path(_package).parent}"),
        ("Python", system()),
        ("CPU", processor()),
        ("PyTorch", f"{torch.__version__}, built for {machine.torch_platform}"),
        ("Triton", machine.triton or f"not installed{remark}"),
        ("C++ compiler", compiler),
        ("nvcc", f"{machine.nvcc.path}: {machine.nvcc.version}" if machine.nvcc.path else f"none found{remark}"),
        ("NVIDIA driver", machine.driver or f"none found{remark}"),
        *gpu_rows(machine),
        ("hsr_kernels._cpu", extension("_cpu", f"instruction set {machine.isa}", machine.isa_problem)),
        ("hsr_kernels._cuda", extension("_cuda", f"for {architectures()}" if architectures else "", problem, remark)),
    ]
    settings = [(name, value) for name, value in sorted(os.environ.items()) if name.startswith(_SETTING_PREFIXES)]
    if settings:
        rows.append(("environment", " ".join(f"{name}={value}" for name, value in settings)))
    return [line for name, text in rows for line in wrap(name, text, 18)]


def gpu_rows(machine: Machine) -> list[tuple[str, str]]:
    """Returns (name, description) of the GPUs that PyTorch sees, or else of those that it doesn't."""
    rows = []
    for gpu in machine.gpus:
        kind = f"compute capability {gpu.kind}" if any(gpu.capability) else gpu.kind
        text = f"{gpu.name}, {kind}, {gpu.gibibytes:.0f} GiB"
        rows.append((f"GPU {gpu.label}", f"{text}; {gpu.problem}" if gpu.problem else text))
    for name in dict.fromkeys(machine.unused_gpus):
        count = machine.unused_gpus.count(name)
        rows.append(("GPU", f"{name}{f' ({count} of them)' if count > 1 else ''}, not seen by PyTorch"))
    return rows or [("GPU", "none")]


def extension(name: str, details: str, problem: str, remark: str = "") -> str:
    """Describes an extension; if it isn't there, by what the build recorded or the import raised."""
    module, reason = native.load(name)
    if module is None:
        reason = reason.removeprefix(f"the extension hsr_kernels.{name} ").removeprefix("was ")
        return ("not built" if reason.endswith(f"No module named 'hsr_kernels.{name}'") else reason) + remark
    return f"built, but can't run: {problem}" if problem else f"built, {details}" if details else "built"


# What runs.


def why_not(operator: Operator, backend: str, device: Device, machine: Machine) -> str:
    """Returns the reason why a backend can't run an operator on a device, or "".

    It looks at more than a call of the operator does.
    """
    implementation = operator.implementations.get(backend)
    dependency = implementation.native if implementation else None
    if device.problem:
        return device.problem
    if dependency in ("_cpu", "_cuda") and native.load(dependency)[0] is None:
        return f"hsr_kernels.{dependency} can't be loaded"
    reason = operator.why_not(backend, device.torch_device, torch.float32)
    if not reason and dependency == "_cpu":
        return machine.isa_problem
    if not reason and dependency == "triton" and not native.triton_interprets():
        return machine.triton_problem
    return reason


def sample(device: torch.device) -> torch.Tensor:
    """Returns a million elements in the memory of one: which of a GPU's backends is faster depends on the size."""
    return torch.empty(1, device=device).expand(8, 32, 64, 64)


def choose(operator: Operator, device: Device, machine: Machine) -> Choice:
    """Returns the backend that an operator runs on and why, or _ERROR and why."""
    if device.problem:
        return Choice(_ERROR, device.problem)
    try:
        choice = operator.choose(sample(device.torch_device), quiet=True)
    # A setting that names no backend, or no table.
    except (ValueError, OSError, csv.Error) as error:
        return Choice(_ERROR, str(error))
    # The reason is given below in fewer words.
    except RuntimeError:
        choice = Choice(request.BACKEND.value() or "reference", "")
    reason = why_not(operator, choice.backend, device, machine)
    return Choice(_ERROR, reason) if reason else choice


def table(machine: Machine, choices: Choices) -> list[str]:
    """Returns a line per operator, with a column per kind of device."""
    labels = [device.label for device in machine.devices]
    header = [f"{'Operators run on':26}", *(f"{label:14}" for label in labels), "(* in PyTorch's own kernels)"]
    lines = ["".join(header)]
    for op in operators():
        star = " *" if op.of_pytorch else ""
        cells = (f"{choices[op.name, label].backend:14}" for label in labels)
        lines.append("".join([f"  {op.name + star:24}", *cells]))
    return [line.rstrip() for line in lines]


def native_operators(backend: str) -> list[Operator]:
    """Returns the operators for which a backend has kernels of this library."""
    return [op for op in operators() if backend in op.implementations and op.implementations[backend].native]


def labels_by_reason(backend: str, machine: Machine) -> dict[str, list[str]]:
    """Returns the reasons why a backend can't run its operators ("" if it can) -> labels of the devices.

    They are devices that the backend is made for.
    """
    labels: dict[str, list[str]] = {}
    for device in machine.devices:
        for op in native_operators(backend):
            if device.torch_device.type in op.implementations[backend].devices:
                labels.setdefault(why_not(op, backend, device, machine), []).append(device.label)
    return labels


def why_unusable(backend: str, machine: Machine) -> str:
    """Returns the reason why a backend runs nothing on this machine, or ""."""
    if backend == "reference":
        return ""
    reasons = labels_by_reason(backend, machine)
    if reasons:
        return "" if "" in reasons else "; ".join(reasons)
    return "PyTorch doesn't see the GPU" if machine.unused_gpus else "this machine has no NVIDIA GPU"


def backend_lines(machine: Machine) -> list[str]:
    """Returns lines per backend: where it runs, and why not elsewhere."""
    lines = ["Backends", *wrap("  reference", "runs everywhere, slowly: plain PyTorch", 12)]
    for backend in BACKENDS[1:]:
        labels, problem = labels_by_reason(backend, machine), why_unusable(backend, machine)
        parts = [f"can't run: {problem}" if problem else f"runs on {enumerate_names(labels.pop(''))}"]
        parts += (
            [] if problem else [f"not on {enumerate_names(devices)}: {reason}" for reason, devices in labels.items()]
        )
        missing = [op.name for op in operators() if backend not in op.implementations]
        parts += [f"has no kernels for {enumerate_names(missing)}"] if missing else []
        lines += wrap(f"  {backend}", "; ".join(parts), 12)
    return lines


def order_lines(machine: Machine, choices: Choices) -> list[str]:
    """Returns lines that say why cuda or triton is chosen on a GPU that can run both."""
    names_by_reason: dict[str, list[str]] = {}
    for device in machine.devices:
        for op in native_operators("triton"):
            choice = choices[op.name, device.label]
            if choice.backend in GPU_BACKENDS and "measured" in choice.reason:
                name = f"{op.name} on {device.label}" if len(machine.gpus) > 1 else op.name
                names_by_reason.setdefault(choice.reason, []).append(name)
    lines = [] if not names_by_reason else ["  cuda or triton, for float32 images of a million elements:"]
    sentences = [f"{enumerate_names(names)}: {reason}" for reason, names in names_by_reason.items()]
    return lines + [line for sentence in sentences for line in wrap("", sentence, 4)]


# What was requested.


def broken_requests(requested: list[str], machine: Machine, missing: list[Advice]) -> Iterator[Advice]:
    """Yields the backends that were requested and run nothing on this machine."""
    # (subject of the sentence, backend, command that withdraws the request).
    requests = [(f"The {name} backend", name, "") for name in requested]
    if os.environ.get(_BACKEND):
        requests.append((f"{_BACKEND}={os.environ[_BACKEND]}", os.environ[_BACKEND], f"unset {_BACKEND}"))
    for subject, backend, undo in requests:
        if backend not in BACKENDS:
            yield Advice(f"{subject} can't work: the backends are {enumerate_names(BACKENDS)}.", undo)
        elif reason := why_unusable(backend, machine):
            commands = [a.command for a in missing if backend in a.backends]
            yield Advice(f"{subject} can't work: {reason}.", commands[0] if commands else undo)


def broken_settings(machine: Machine) -> Iterator[Advice]:
    """Yields the other settings that can't work."""
    isa = os.environ.get("HSR_CPU_ISA")
    if machine.isa_problem:
        yield Advice(f"{machine.isa_problem}; it is {isa}.", "unset HSR_CPU_ISA")
    elif isa and not machine.isa:
        yield Advice(f"HSR_CPU_ISA={isa} can't work: hsr_kernels._cpu can't be loaded.", "unset HSR_CPU_ISA")
    try:
        request.ROUTE.of_environment()
    except ValueError as error:
        yield Advice(f"{error}.", f"unset {_ROUTE}")
    try:
        if table := request.MEASURED.of_environment():
            measured.read(table)
    except (OSError, ValueError, csv.Error) as error:
        variable = request.MEASURED.variable
        yield Advice(f"{variable} names no table of measurements: {error}.", f"unset {variable}")
    if native.cuda_is_emulated() and native.load("_cuda")[0] is None:
        yield Advice(f"{_EMULATED} can't work: {native.load('_cuda')[1]}.", f"unset {_EMULATED}")


def notes(machine: Machine, choices: Choices, problems: list[Advice]) -> Iterator[str]:
    """Yields what is no problem, but good to know, and why operators raise errors if no problem says so."""
    if native.triton_interprets():
        yield "TRITON_INTERPRET=1 makes Triton interpret its kernels: slow, but on request on CPU tensors too."
    if native.cuda_is_emulated():
        yield f"{_EMULATED} has the CUDA kernels emulated: slow, but on request on CPU tensors too."
    layer_backends = {choices["modulated_conv2d", device.label].backend for device in machine.devices}
    if os.environ.get(_ROUTE) and "triton" not in layer_backends:
        yield f"{_ROUTE} has no effect where modulated_conv2d doesn't run on triton, which alone has two routes."
    if torch.get_num_threads() == 1 and (os.cpu_count() or 1) > 1:
        yield "PyTorch uses one thread, and the CPU kernels as many: OMP_NUM_THREADS sets another number."
    reasons = list(dict.fromkeys(choice.reason for choice in choices.values() if choice.backend == _ERROR))
    sentences = [p.sentence for p in problems]
    if reasons and not any(sentence.startswith(f"{_BACKEND}=") for sentence in sentences):
        reasons = [reason for reason in reasons if not any(reason in sentence for sentence in sentences)]
        cause = f", as {_BACKEND}={os.environ[_BACKEND]} allows no other backend" if os.environ.get(_BACKEND) else ""
        if reasons:
            yield f"Where the table says {_ERROR}, a call raises one{cause}: {'; '.join(reasons)}."


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    sys.exit(main())
