# SPDX-License-Identifier: Apache-2.0
"""Notes the Triton kernels that the operators launch, with all that Triton would compile them for.

Tensors are PyTorch's fake tensors: they have a shape and strides, but no memory, so that real sizes cost nothing.
Triton believes in a GPU that isn't there and asks its own hook before it compiles: the hook notes the launch and stops
it. Autotuned kernels "measure", and so note, each of their configurations.
"""

import importlib
import json
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime import Autotuner, JITFunction

import hsr_kernels

from .._dispatch import library, native


@dataclass(frozen=True)
class Chip:
    """A generation of NVIDIA GPUs.

    Attributes:
        number: Compute capability, times 10.
        shared: Bytes of shared memory that one block may have at most.
        processors: Multiprocessors of its best known chip.
    """

    number: int
    shared: int
    processors: int

    @property
    def name(self) -> str:
        return f"sm_{self.number}"

    @property
    def target(self) -> GPUTarget:
        return GPUTarget("cuda", self.number, 32)


CHIPS = {
    chip.name: chip
    for chip in (
        Chip(80, 163 << 10, 108),
        Chip(86, 99 << 10, 84),
        Chip(89, 99 << 10, 128),
        Chip(90, 227 << 10, 132),
        Chip(100, 227 << 10, 148),
        Chip(120, 99 << 10, 170),
    )
}


@dataclass(frozen=True)
class Launch:
    """A kernel as Triton compiles it for the arguments that it was launched with.

    Attributes:
        module, kernel: Where the function is found.
        signature: Argument -> type, "constexpr" for those whose value is compiled in; of a tuple, a tuple of these.
        constants: Position -> value of those.
        attributes: Position -> what is known of the value, such as that 16 divides it; empty where nothing is.
        options: Launch options that aren't Triton's defaults, and warps and stages.
    """

    module: str
    kernel: str
    signature: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]
    options: dict[str, Any]

    @property
    def key(self) -> str:
        """Equal for equal launches."""
        return repr((self.module, self.kernel, self.signature, self.constants, self.attributes, self.options))

    @property
    def function(self) -> JITFunction:
        """The kernel itself, beneath what autotuning wraps around it."""
        return _unwrapped(_attribute(importlib.import_module(self.module), self.kernel))

    @property
    def dtypes(self) -> str:
        """The distinct types behind the kernel's pointers, in order of arguments."""
        types = (t.lstrip("*k") if t.startswith("*") else _described(t) for t in _flat(self.signature.values()))
        return " ".join(dict.fromkeys(t for t in types if t))

    @property
    def constexprs(self) -> dict[str, Any]:
        """The parameters that the kernel itself declares tl.constexpr."""
        declared = {i: p.name for i, p in enumerate(self.function.params) if p.is_constexpr}
        return {declared[at[0]]: value for at, value in self.constants.items() if at[0] in declared}

    @property
    def size(self) -> tuple[int, int, str]:
        """Orders launches by how much of a chip one block takes: the largest tile of one kernel is the worst case."""
        tile, numbers = 1, (v for v in self.constexprs.values() if isinstance(v, int) and v > 1)
        for number in numbers:
            tile *= number
        return tile, int(self.options["num_stages"]), self.key


def _flat(types: Iterable[Any]) -> Iterator[str]:
    """The types of arguments, and of what is in those that are tuples."""
    for kind in types:
        if isinstance(kind, str):
            yield kind
        else:
            yield from _flat(kind)


def _described(kind: str) -> str:
    """The element type of a tensor descriptor, such as tensordesc<bf16[64, 64]>; "" for what isn't one."""
    return kind.removeprefix("tensordesc<").split("[")[0] if kind.startswith("tensordesc<") else ""


def _unwrapped(kernel: Any) -> Any:
    while not isinstance(kernel, JITFunction) and hasattr(kernel, "fn"):
        kernel = kernel.fn
    return kernel


def _attribute(module: Any, path: str) -> Any:
    return operator.attrgetter(path)(module)


@dataclass
class Recording:
    """What was launched: distinct launches in order, and the operators of hsr_kernels:: that ran."""

    launches: dict[str, Launch] = field(default_factory=dict)
    operators: set[str] = field(default_factory=set)
    asked: bool = False  # whether anything depends on the chip

    def note(self, launch: Launch) -> None:
        self.launches.setdefault(launch.key, launch)

    def add(self, other: "Recording") -> None:
        self.launches.update(other.launches)
        self.operators |= other.operators


class _TritonImplementations(TorchDispatchMode):
    """Runs the operators of hsr_kernels:: as their Triton implementations, where they would only tell shapes."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self.recording = recording

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        implementation = library.triton_operators.get(func.name())
        if implementation is None:
            return func(*args, **(kwargs or {}))
        self.recording.operators.add(func.name())
        with self:  # an implementation may call other operators
            return implementation(*args)


def _address(tensor: torch.Tensor) -> int:
    """Without memory a storage lies at address 0, so that alignment is what it is in a fresh allocation."""
    return int(tensor.storage_offset()) * tensor.element_size()


class _Driver:
    """The GPU that Triton is made to believe in. "Measuring" a configuration launches it, which notes it."""

    def __init__(self, chip: Chip) -> None:
        self.chip = chip

    def get_current_device(self) -> int:
        # Triton keeps what it knows of a kernel by device: no two chips may share one, nor a chip a real one's number.
        return -self.chip.number

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.chip.target

    def get_benchmarker(self) -> Callable[..., list[float]]:
        return _measure


def _measure(launch: Callable[[], Any], *args: Any, **options: Any) -> list[float]:
    launch()
    return [1.0, 1.0, 1.0]


def record(calls: Iterable[Callable[[], None]], chips: Sequence[Chip]) -> dict[Chip, Recording]:
    """What each chip would be given to run by calls of the public functions on fake tensors."""
    totals = {chip: Recording() for chip in chips}
    for call in calls:
        with recording(chips[0]) as found:
            call()
        totals[chips[0]].add(found)
        for chip in chips[1:]:
            if found.asked:
                with recording(chip) as its_own:
                    call()
                totals[chip].add(its_own)
            else:
                totals[chip].add(found)
    return totals


@contextmanager
def recording(chip: Chip, watch: Callable[[str, list[Any]], None] | None = None) -> Iterator[Recording]:
    """Within it the Triton backend runs on tensors without data, and launches are noted instead of run.

    Args:
        chip: The GPU to pretend.
        watch: Is given the kernel's name and the arguments of every launch.
    """
    found = Recording()
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # Which default for fused multiply-adds Triton takes is said once by a real launch; here it is noise.
        warnings.filterwarnings("ignore", message=".*FP_FUSION.*")
        _set(stack, native, "triton_recorded", True)
        stack.enter_context(hsr_kernels.use_backend("triton"))
        _pretend_gpu(stack, chip, found)
        _intercept_triton(stack, chip, found)
        if watch is not None:
            launch = JITFunction.run

            def watched(kernel: JITFunction, *args: Any, **kwargs: Any) -> Any:
                watch(kernel.__name__, [*args, *kwargs.values()])
                return launch(kernel, *args, **kwargs)

            _set(stack, JITFunction, "run", watched)
        # Filters are real tensors, so that what depends on their values can be decided.
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_TritonImplementations(found))
        yield found


def _set(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


def _pretend_gpu(stack: ExitStack, chip: Chip, found: Recording) -> None:
    """Lets implementations take fake tensors, which PyTorch keeps on the CPU, for tensors on the chip."""
    properties = SimpleNamespace(
        name=chip.name, major=chip.number // 10, minor=chip.number % 10, multi_processor_count=chip.processors
    )

    def ask(answer: Any) -> Callable[..., Any]:
        def get(*_: Any) -> Any:
            found.asked = True
            return answer

        return get

    _set(stack, FakeTensor, "data_ptr", _address)
    _set(stack, FakeTensor, "is_cuda", property(lambda _: True))
    _set(stack, torch.cuda, "get_device_properties", ask(properties))
    _set(stack, torch.cuda, "get_device_capability", ask((properties.major, properties.minor)))
    _set(stack, torch.cuda, "device_of", nullcontext)


def _intercept_triton(stack: ExitStack, chip: Chip, found: Recording) -> None:
    """All that depends on Triton's insides; alike in Triton 3.5 to 3.9.

    The hook is called before a kernel is compiled, and one that returns True prevents that and the launch. Its
    `specialization_data` is Triton's own JSON of the launch, which has options beyond warps and stages.
    """
    defaults = json.loads(json.dumps(vars(make_backend(chip.target).parse_options({})), default=str))

    def hook(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        given = json.loads(compile["specialization_data"])["options"]
        chosen = {k: v for k, v in given.items() if v != defaults.get(k) or k in ("num_warps", "num_stages")}
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in chosen.items()}
        attributes = dict(compile["configs"][0])
        found.note(Launch(fn.module, fn.name, compile["signature"], compile["constants"], attributes, options))
        return True

    def tune(tuner: Autotuner, *args: Any, **kwargs: Any) -> Any:
        # With nothing remembered every configuration is tried, and what is "measured" here isn't remembered.
        before = dict(vars(tuner))
        vars(tuner).update(cache={}, cache_results=False, do_bench=_measure)
        try:
            return run(tuner, *args, **kwargs)
        finally:
            vars(tuner).clear()
            vars(tuner).update(before)

    run = Autotuner.run
    _set(stack, triton.knobs.runtime, "jit_cache_hook", hook)
    _set(stack, Autotuner, "run", tune)
    driver = triton.runtime.driver
    stack.callback(lambda before: vars(driver).update(before), dict(vars(driver)))
    driver.set_active(_Driver(chip))


def library_kernels() -> set[str]:
    """The names "<module>.<kernel>" of all kernels of the library, which end in "_kernel"."""
    root, names = Path(hsr_kernels.__file__).parent, set()
    for path in root.rglob("*triton*.py"):
        module = importlib.import_module(
            ".".join((hsr_kernels.__name__, *path.relative_to(root).with_suffix("").parts))
        )
        for name, value in vars(module).items():
            kernel = _unwrapped(value)
            if isinstance(kernel, JITFunction) and name.endswith("_kernel"):
                names.add(f"{kernel.module}.{kernel.__name__}")
    return names


def forgotten(recordings: Iterable[Recording]) -> list[str]:
    """Kernels of the library, and operators with a Triton implementation, that no recording has."""
    recordings = list(recordings)
    launched = {f"{launch.module}.{launch.kernel}" for found in recordings for launch in found.launches.values()}
    ran = {name for found in recordings for name in found.operators}
    return sorted(library_kernels() - launched) + sorted(library.triton_operators.keys() - ran)
