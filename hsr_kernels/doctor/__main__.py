# SPDX-License-Identifier: Apache-2.0
"""`python -m hsr_kernels.doctor` says on one screen what is there, what runs, what is missing and how to get it."""

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
from .advice import GPU_BACKENDS, Advice, advice, named
from .machine import Device, Machine, look, processor, system

_WIDTH = 100
_RAISES = "error"  # in the table of operators: calling it raises one
_BACKEND = request.BACKEND.variable
_ROUTE = request.ROUTE.variable
_EMULATED = native.EMULATED
_SETTINGS = ("HSR_", "TRITON_INTERPRET", "CUDA_VISIBLE_DEVICES")

# (operator, label of a device) -> what `choose` returns.
Choices = dict[tuple[str, str], Choice]


def main(arguments: list[str] | None = None) -> int:
    """Prints the screen; returns 1 where something that was asked for can't work, otherwise 0."""
    parser = argparse.ArgumentParser(
        prog="python -m hsr_kernels.doctor",
        description="Says what is here of all that hsr_kernels uses, which backend each operator runs on and why, what "
        "is missing and how to get it. Exits with 1 where something that was asked for, as an argument or in the "
        "environment, can't work.",
    )
    parser.add_argument("backend", nargs="*", help=f"a backend that has to work: {', '.join(BACKENDS)}")
    wanted = list(dict.fromkeys(parser.parse_args(arguments).backend))
    machine = look()
    choices = {(op.name, on.label): choose(op, on, machine) for op in operators() for on in machine.devices}
    missing = list(advice(machine))
    problems = [*broken_requests(wanted, machine, missing), *broken_settings(machine)]
    lines = [f"hsr-kernels {__version__} in {Path(_package).parent}", "", *components(machine)]
    lines += ["", *table(machine, choices), "", *backend_lines(machine), *order_lines(machine, choices)]
    lines += section("Missing", missing)
    lines += section("Notes", [Advice(note, "") for note in notes(machine, choices, problems)])
    lines += section("Problems", problems) or ["", verdict(wanted)]
    print("\n".join(lines))
    return 1 if problems else 0


def operators() -> list[Operator]:
    return [operator for _, operator in sorted(_operators.operators.items())]


def section(heading: str, found: list[Advice]) -> list[str]:
    """Sentences, each with its command on a line of its own, to be copied."""
    lines = ["", heading] if found else []
    for one in found:
        lines += wrapped("", one.sentence, 2)
        lines += [f"      {one.command}"] if one.command else []
    return lines


def wrapped(name: str, text: str, column: int) -> list[str]:
    """Text that begins in a column, behind a name, and goes on two columns further right."""
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=name.ljust(column),
        subsequent_indent=" " * (column + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )


def verdict(wanted: list[str]) -> str:
    """The last line where all is well."""
    asked = [*wanted, *filter(None, [os.environ.get(_BACKEND)])]
    return f"No problems: {named(asked)} can run." if asked else "No problems."


# What is there.


def components(machine: Machine) -> list[str]:
    """A line for each: name and version."""
    fine = "" if machine.has_gpu else "; fine without a GPU"
    compiler = f"{machine.compiler.path}: {machine.compiler.version}"
    if not machine.compiler.path:
        cxx = os.environ.get("CXX")
        compiler = f"none: CXX={cxx} names no program" if cxx else "none found"
    problem = native.missing("_cuda") if machine.has_gpu else ""
    architectures = getattr(native.load("_cuda")[0], "architectures", None)
    rows = [
        ("Python", system()),
        ("CPU", processor()),
        ("PyTorch", f"{torch.__version__}, built for {machine.torch_for}"),
        ("Triton", machine.triton or f"not installed{fine}"),
        ("C++ compiler", compiler),
        ("nvcc", f"{machine.nvcc.path}: {machine.nvcc.version}" if machine.nvcc.path else f"none found{fine}"),
        ("NVIDIA driver", machine.driver or f"none found{fine}"),
        *gpu_rows(machine),
        ("hsr_kernels._cpu", extension("_cpu", f"instruction set {machine.isa}", machine.isa_problem)),
        ("hsr_kernels._cuda", extension("_cuda", f"for {architectures()}" if architectures else "", problem, fine)),
    ]
    settings = [(name, value) for name, value in sorted(os.environ.items()) if name.startswith(_SETTINGS)]
    if settings:
        rows.append(("environment", " ".join(f"{name}={value}" for name, value in settings)))
    return [line for name, text in rows for line in wrapped(name, text, 18)]


def gpu_rows(machine: Machine) -> list[tuple[str, str]]:
    """The GPUs that PyTorch sees, or else those that it doesn't."""
    rows = []
    for gpu in machine.gpus:
        capability = ".".join(map(str, gpu.capability))
        text = f"{gpu.name}, compute capability {capability}, {gpu.gibibytes:.0f} GiB"
        rows.append((f"GPU {gpu.label}", f"{text}; {gpu.problem}" if gpu.problem else text))
    for name in dict.fromkeys(machine.unused):
        count = machine.unused.count(name)
        rows.append(("GPU", f"{name}{f' ({count} of them)' if count > 1 else ''}, not seen by PyTorch"))
    return rows or [("GPU", "none")]


def extension(name: str, about: str, problem: str, fine: str = "") -> str:
    """An extension in words; where it isn't there, what the build left behind or the import said."""
    module, reason = native.load(name)
    if module is None:
        reason = reason.removeprefix(f"the extension hsr_kernels.{name} ").removeprefix("was ")
        return ("not built" if reason.endswith(f"No module named 'hsr_kernels.{name}'") else reason) + fine
    return f"built, but can't run: {problem}" if problem else f"built, {about}" if about else "built"


# What runs.


def why_not(operator: Operator, backend: str, on: Device, machine: Machine) -> str:
    """Why a backend can't run an operator on a device, or ""; looks at more than a call of the operator does."""
    implementation = operator.implementations.get(backend)
    needs = implementation.native if implementation else None
    if on.problem:
        return on.problem
    if needs in ("_cpu", "_cuda") and native.load(needs)[0] is None:
        return f"hsr_kernels.{needs} can't be loaded"
    reason = operator.why_not(backend, on.device, torch.float32)
    if not reason and needs == "_cpu":
        return machine.isa_problem
    if not reason and needs == "triton" and not native.triton_interprets():
        return machine.triton_lacks
    return reason


def sample(device: torch.device) -> torch.Tensor:
    """A million elements in the room of one: which of a GPU's backends is faster depends on the size."""
    return torch.empty(1, device=device).expand(8, 32, 64, 64)


def choose(operator: Operator, on: Device, machine: Machine) -> Choice:
    """The backend that an operator runs on and why, or _RAISES and why."""
    if on.problem:
        return Choice(_RAISES, on.problem)
    try:
        choice = operator.choose(sample(on.device), quiet=True)
    # A setting that names no backend, or no table.
    except (ValueError, OSError, csv.Error) as error:
        return Choice(_RAISES, str(error))
    # The reason is said below in fewer words.
    except RuntimeError:
        choice = Choice(request.BACKEND.value() or "reference", "")
    reason = why_not(operator, choice.backend, on, machine)
    return Choice(_RAISES, reason) if reason else choice


def table(machine: Machine, choices: Choices) -> list[str]:
    """A line per operator, a column per kind of device."""
    devices = machine.devices
    heads = [f"{'Operators run on':26}", *(f"{on.label:14}" for on in devices), "(* in PyTorch's own kernels)"]
    lines = ["".join(heads)]
    for op in operators():
        star = " *" if op.of_pytorch else ""
        cells = (f"{choices[op.name, on.label].backend:14}" for on in devices)
        lines.append("".join([f"  {op.name + star:24}", *cells]))
    return [line.rstrip() for line in lines]


def own(backend: str) -> list[Operator]:
    """The operators for which a backend has kernels of this library."""
    return [op for op in operators() if backend in op.implementations and op.implementations[backend].native]


def outcomes(backend: str, machine: Machine) -> dict[str, list[str]]:
    """Why a backend can't run its operators ("": it can) -> the devices, of those it is made for, where that holds."""
    found: dict[str, list[str]] = {}
    for on in machine.devices:
        for op in own(backend):
            if on.device.type in op.implementations[backend].devices:
                found.setdefault(why_not(op, backend, on, machine), []).append(on.label)
    return found


def refusal(backend: str, machine: Machine) -> str:
    """Why a backend runs nothing on this machine, or ""."""
    if backend == "reference":
        return ""
    found = outcomes(backend, machine)
    if found:
        return "" if "" in found else "; ".join(found)
    return "PyTorch doesn't see the GPU" if machine.unused else "this machine has no NVIDIA GPU"


def backend_lines(machine: Machine) -> list[str]:
    """A line per backend: where it runs, and why not elsewhere."""
    lines = ["Backends", *wrapped("  reference", "runs everywhere, slowly: plain PyTorch", 12)]
    for backend in BACKENDS[1:]:
        found, reason = outcomes(backend, machine), refusal(backend, machine)
        parts = [f"can't run: {reason}" if reason else f"runs on {named(found.pop(''))}"]
        parts += [] if reason else [f"not on {named(labels)}: {why}" for why, labels in found.items()]
        without = [op.name for op in operators() if backend not in op.implementations]
        parts += [f"has no kernels for {named(without)}"] if without else []
        lines += wrapped(f"  {backend}", "; ".join(parts), 12)
    return lines


def order_lines(machine: Machine, choices: Choices) -> list[str]:
    """How it is known which of a GPU's backends is faster."""
    reasons: dict[str, list[str]] = {}
    for on in machine.devices:
        for op in own("triton"):
            choice = choices[op.name, on.label]
            if choice.backend in GPU_BACKENDS and "measured" in choice.reason:
                where = f"{op.name} on {on.label}" if len(machine.gpus) > 1 else op.name
                reasons.setdefault(choice.reason, []).append(where)
    lines = [] if not reasons else ["  cuda or triton, for float32 images of a million elements:"]
    return lines + [line for why, ops in reasons.items() for line in wrapped("", f"{named(ops)}: {why}", 4)]


# What was asked for.


def broken_requests(wanted: list[str], machine: Machine, missing: list[Advice]) -> Iterator[Advice]:
    """The backends that were asked for and run nothing here."""
    requests = [(f"The {name} backend", name, "") for name in wanted]
    if os.environ.get(_BACKEND):
        requests.append((f"{_BACKEND}={os.environ[_BACKEND]}", os.environ[_BACKEND], f"unset {_BACKEND}"))
    for what, backend, undo in requests:
        if backend not in BACKENDS:
            yield Advice(f"{what} can't work: the backends are {named(BACKENDS)}.", undo)
        elif reason := refusal(backend, machine):
            helps = [a.command for a in missing if backend in a.backends]
            yield Advice(f"{what} can't work: {reason}.", helps[0] if helps else undo)


def broken_settings(machine: Machine) -> Iterator[Advice]:
    """The other settings that can't work."""
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
    """What is no fault, but good to know; of operators that raise errors, what the problems don't say already."""
    if native.triton_interprets():
        yield "TRITON_INTERPRET=1 makes Triton interpret its kernels: slow, but on request on CPU tensors too."
    if native.cuda_is_emulated():
        yield f"{_EMULATED} has the CUDA kernels emulated: slow, but on request on CPU tensors too."
    layers_run_on = {choices["modulated_conv2d", on.label].backend for on in machine.devices}
    if os.environ.get(_ROUTE) and "triton" not in layers_run_on:
        yield f"{_ROUTE} has no effect where modulated_conv2d doesn't run on triton, which alone has two routes."
    if torch.get_num_threads() == 1 and (os.cpu_count() or 1) > 1:
        yield "PyTorch uses one thread, and the CPU kernels as many: OMP_NUM_THREADS sets another number."
    reasons = dict.fromkeys(reason for chosen, reason, _ in choices.values() if chosen == _RAISES)
    told = [p.sentence for p in problems]
    if reasons and not any(p.startswith(f"{_BACKEND}=") for p in told):
        new = [reason for reason in reasons if not any(reason in p for p in told)]
        forced = f", as {_BACKEND}={os.environ[_BACKEND]} allows no other backend" if os.environ.get(_BACKEND) else ""
        if new:
            yield f"Where the table says {_RAISES}, a call raises one{forced}: {'; '.join(new)}."


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    sys.exit(main())
