# SPDX-License-Identifier: Apache-2.0
"""Records the Triton kernels that the operators launch, with everything that Triton would compile them for.

Tensors are PyTorch's fake tensors: they have a shape and strides, but no memory, so that real sizes cost nothing.
Triton sees a GPU that isn't there and calls its own hook before it compiles: the hook records the launch and stops it.
Autotuned kernels "measure", and so record, each of their configurations.
"""

import importlib
import json
import math
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime import Autotuner, JITFunction

import hsr_kernels

from .. import _gpu
from .._dispatch import library, native


@dataclass(frozen=True)
class Chip:
    """A kind of GPU, NVIDIA's or AMD's.

    Attributes:
        target: What Triton compiles for.
        shared: Maximum bytes of shared memory of a block: on AMD's chips the LDS of a work-group.
        processors: Multiprocessors of its best-known chip, as PyTorch counts them.
    """

    target: GPUTarget
    shared: int
    processors: int

    @property
    def name(self) -> str:
        return f"sm_{self.target.arch}" if self.target.backend == "cuda" else str(self.target.arch)

    @property
    def gpu(self) -> _gpu.Gpu:
        """What launches know of it."""
        if self.target.backend == "cuda":
            return _gpu.Gpu(_gpu.NVIDIA, int(self.target.arch) // 10, self.processors)
        return _gpu.amd(str(self.target.arch), self.processors)

    @property
    def order(self) -> tuple[str, str]:
        """Sorts chips by maker and number."""
        return self.target.backend, self.name.rjust(8)


def _nvidia(capability: int, shared_kib: int, processors: int) -> Chip:
    return Chip(GPUTarget("cuda", capability, 32), shared_kib << 10, processors)


def _amd(name: str, shared_kib: int, processors: int) -> Chip:
    return Chip(GPUTarget("hip", name, _gpu.amd(name, processors).lanes), shared_kib << 10, processors)


CHIPS = {
    chip.name: chip
    for chip in (
        _nvidia(80, 163, 108),
        _nvidia(86, 99, 84),
        _nvidia(89, 99, 128),
        _nvidia(90, 227, 132),
        _nvidia(100, 227, 148),
        _nvidia(120, 99, 170),
        _amd("gfx942", 64, 304),
        _amd("gfx950", 160, 256),
        _amd("gfx1100", 64, 48),
    )
}


def chip_at_hand() -> Chip:
    """Returns this machine's current GPU, which must be there, with shared memory without a limit."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    target = triton.runtime.driver.active.get_current_target()
    return Chip(target, 1 << 30, properties.multi_processor_count)


@dataclass(frozen=True)
class Launch:
    """A kernel as Triton compiles it for the arguments that it was launched with.

    Attributes:
        module, kernel: Names of the function and of its module.
        signature: Argument -> type, "constexpr" for those whose value is compiled in; of a tuple, a tuple of these.
        constants: Position -> value of the arguments that are compiled in.
        attributes: Position -> properties of the value, such as that 16 divides it; empty without any.
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
        """The kernel itself, without autotuning around it."""
        return _unwrap(_attribute(importlib.import_module(self.module), self.kernel))

    @property
    def dtypes(self) -> str:
        """The distinct types behind the kernel's pointers, in order of arguments."""
        types = (t.lstrip("*k") if t.startswith("*") else _descriptor_dtype(t) for t in _flat(self.signature.values()))
        return " ".join(dict.fromkeys(t for t in types if t))

    @property
    def constexprs(self) -> dict[str, Any]:
        """The parameters that the kernel itself declares tl.constexpr."""
        declared = {i: p.name for i, p in enumerate(self.function.params) if p.is_constexpr}
        constants = ((position[0], value) for position, value in self.constants.items())
        return {declared[i]: value for i, value in constants if i in declared}

    @property
    def size(self) -> tuple[int, int, str]:
        """Orders launches by what one block needs of a chip: the largest tile of a kernel is the worst case."""
        tile = math.prod(v for v in self.constexprs.values() if isinstance(v, int) and v > 1)
        return tile, int(self.options["num_stages"]), self.key


def _flat(types: Iterable[Any]) -> Iterator[str]:
    """Yields the types of arguments, and those of the elements of tuples."""
    for kind in types:
        if isinstance(kind, str):
            yield kind
        else:
            yield from _flat(kind)


def _descriptor_dtype(kind: str) -> str:
    """Returns the element type of a tensor descriptor, such as tensordesc<bf16[64, 64]>; "" for any other type."""
    return kind.removeprefix("tensordesc<").split("[")[0] if kind.startswith("tensordesc<") else ""


def _unwrap(kernel: Any) -> Any:
    while not isinstance(kernel, JITFunction) and hasattr(kernel, "fn"):
        kernel = kernel.fn
    return kernel


def _attribute(module: Any, path: str) -> Any:
    return operator.attrgetter(path)(module)


@dataclass
class Recording:
    """What calls launched.

    Attributes:
        launches: Key -> launch, in order.
        operators: Names of the operators of hsr_kernels:: that ran.
        depends_on_chip: Whether a property of the chip was read.
    """

    launches: dict[str, Launch] = field(default_factory=dict)
    operators: set[str] = field(default_factory=set)
    depends_on_chip: bool = False

    def note(self, launch: Launch) -> None:
        self.launches.setdefault(launch.key, launch)

    def add(self, other: "Recording") -> None:
        self.launches.update(other.launches)
        self.operators |= other.operators


class _TritonImplementations(TorchDispatchMode):
    """Runs the Triton implementations of the operators of hsr_kernels::, instead of the fake ones."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self.recording = recording

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        implementation = library.triton_operators.get(func.name())
        if implementation is None:
            return func(*args, **(kwargs or {}))
        self.recording.operators.add(func.name())
        # An implementation may call other operators.
        with self:
            return implementation(*args)


def _address(tensor: torch.Tensor) -> int:
    """Returns an address as if the storage lay at 0, so that the alignment is that in a new allocation."""
    return int(tensor.storage_offset()) * tensor.element_size()


_device_numbers: dict[GPUTarget, int] = {}


class _Driver:
    """The GPU that Triton sees. "Measuring" a configuration launches it, which records it."""

    def __init__(self, chip: Chip) -> None:
        self.chip = chip

    def get_current_device(self) -> int:
        # Triton caches kernels by device, so each chip needs a number that neither a chip nor a real device has.
        return _device_numbers.setdefault(self.chip.target, -1 - len(_device_numbers))

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
    """Records what calls of the public functions on fake tensors would launch on each chip."""
    totals = {chip: Recording() for chip in chips}
    # A launch has other options for each of these; all else of a chip is rarely asked for.
    families = [[c for c in chips if c.gpu.family == family] for family in dict.fromkeys(c.gpu.family for c in chips)]
    for call in calls:
        for first, *others in families:
            with recording(first) as result:
                call()
            totals[first].add(result)
            for chip in others:
                if result.depends_on_chip:
                    with recording(chip) as chip_recording:
                        call()
                    totals[chip].add(chip_recording)
                else:
                    totals[chip].add(result)
    return totals


# What a GPU has in common with all of its family.
_OF_A_FAMILY = ("family", "lanes", "max_stages", "needs_small_product_tiles")


class _WatchedGpu:
    """A GPU that notes whether more of it was asked for than its family."""

    def __init__(self, gpu: _gpu.Gpu, result: Recording) -> None:
        self.gpu, self.result = gpu, result

    def __getattr__(self, name: str) -> Any:
        self.result.depends_on_chip |= name not in _OF_A_FAMILY
        return getattr(self.gpu, name)


@contextmanager
def recording(chip: Chip, watch: Callable[[str, list[Any]], None] | None = None) -> Iterator[Recording]:
    """Within it the Triton backend runs on tensors without data, and launches are recorded instead of run.

    Args:
        chip: The GPU to pretend.
        watch: A function of the kernel's name and the arguments, called for every launch.
    """
    result = Recording()
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # A real launch warns once of Triton's default for fused multiply-adds; here the warning is noise.
        warnings.filterwarnings("ignore", message=".*FP_FUSION.*")
        _set(stack, native, "triton_recorded", True)
        stack.enter_context(hsr_kernels.use_backend("triton"))
        _pretend_gpu(stack, chip, result)
        _intercept_triton(stack, chip, result)
        if watch is not None:
            launch = JITFunction.run

            def watched(kernel: JITFunction, *args: Any, **kwargs: Any) -> Any:
                watch(kernel.__name__, [*args, *kwargs.values()])
                return launch(kernel, *args, **kwargs)

            _set(stack, JITFunction, "run", watched)
        # Filters are real tensors, as decisions depend on their values.
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_TritonImplementations(result))
        yield result


def _set(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


def _pretend_gpu(stack: ExitStack, chip: Chip, result: Recording) -> None:
    """Makes fake tensors, which PyTorch keeps on the CPU, look like tensors on the chip to implementations."""
    gpu = _WatchedGpu(chip.gpu, result)
    _set(stack, FakeTensor, "data_ptr", _address)
    _set(stack, FakeTensor, "is_cuda", property(lambda _: True))
    _set(stack, _gpu, "of", lambda tensor: gpu)
    _set(stack, _gpu, "is_amd", lambda: chip.gpu.family != _gpu.NVIDIA)
    _set(stack, torch.cuda, "device_of", nullcontext)


def _intercept_triton(stack: ExitStack, chip: Chip, result: Recording) -> None:
    """Does everything that depends on Triton's internals, which are the same in Triton 3.5 to 3.9.

    The hook is called before a kernel is compiled; by returning True it prevents that and the launch. Its
    `specialization_data` is Triton's own JSON of the launch, which has options beyond warps and stages.
    """
    defaults = json.loads(json.dumps(vars(make_backend(chip.target).parse_options({})), default=str))

    def hook(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        options = json.loads(compile["specialization_data"])["options"]
        options = {k: v for k, v in options.items() if v != defaults.get(k) or k in ("num_warps", "num_stages")}
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        attributes = dict(compile["configs"][0])
        result.note(Launch(fn.module, fn.name, compile["signature"], compile["constants"], attributes, options))
        return True

    def tune(tuner: Autotuner, *args: Any, **kwargs: Any) -> Any:
        # Without a cache every configuration is tried, and what is "measured" here must not stay in the cache.
        attributes = dict(vars(tuner))
        vars(tuner).update(cache={}, cache_results=False, do_bench=_measure)
        try:
            return run(tuner, *args, **kwargs)
        finally:
            vars(tuner).clear()
            vars(tuner).update(attributes)

    run = Autotuner.run
    _set(stack, triton.knobs.runtime, "jit_cache_hook", hook)
    _set(stack, Autotuner, "run", tune)
    driver = triton.runtime.driver
    stack.callback(lambda attributes: vars(driver).update(attributes), dict(vars(driver)))
    driver.set_active(_Driver(chip))


def library_kernels() -> set[str]:
    """Returns the names "<module>.<kernel>" of all kernels of the library, which end in "_kernel"."""
    root, names = Path(hsr_kernels.__file__).parent, set()
    for path in root.rglob("*triton*.py"):
        module = importlib.import_module(
            ".".join((hsr_kernels.__name__, *path.relative_to(root).with_suffix("").parts))
        )
        for name, value in vars(module).items():
            kernel = _unwrap(value)
            if isinstance(kernel, JITFunction) and name.endswith("_kernel"):
                names.add(f"{kernel.module}.{kernel.__name__}")
    return names


def forgotten(recordings: Iterable[Recording]) -> list[str]:
    """Returns the kernels of the library and the operators with a Triton implementation that no recording contains."""
    recordings = list(recordings)
    kernels = {f"{launch.module}.{launch.kernel}" for each in recordings for launch in each.launches.values()}
    operators = {name for each in recordings for name in each.operators}
    return sorted(library_kernels() - kernels) + sorted(library.triton_operators.keys() - operators)
