# SPDX-License-Identifier: Apache-2.0
"""Which backend runs an operator, and why.

Every operator registers one implementation per backend. The fastest backend that can run is taken; a backend
that was asked for and can't run raises; the first fall to `reference` on a device that has a faster backend
warns once per operator and reason.
"""

import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any

import torch

from . import _checks, _measured, _native
from ._functions import needs_reference

BACKENDS = ("reference", "cpu", "triton", "cuda")
_ENVIRONMENT = "HSR_KERNELS_BACKEND"
_CAPABILITY = (8, 0)  # that Triton's kernels need

# Process-global on purpose: a CUDA backward runs on autograd's own threads, which don't see a context variable.
_requested: str | None = None
_operators: dict[str, "Operator"] = {}
_choices: dict[tuple[object, ...], str] = {}  # what was chosen for tensors alike
_warned: set[tuple[str, str]] = set()


@dataclass(frozen=True)
class Implementation:
    """One backend's version of an operator.

    Attributes:
        function: Takes the operator's validated arguments.
        native: What it needs, if anything: the name of an extension, or "triton".
        dtypes: Dtypes that it computes in.
        devices: Device types that it runs on.
        details: What `explain` adds about a call with its tensors, where this is what runs: sentences.
    """

    function: Callable[..., Any]
    native: str | None = None
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    devices: tuple[str, ...] = ("cpu",)
    details: Callable[..., Iterable[str]] | None = None

    def why_not(self, device: torch.device | None, dtype: torch.dtype | None) -> str:
        """Why this can't run on a device and dtype (None: any); empty when it can."""
        recorded = self.native == "triton" and _native.triton_recorded
        if self.native is not None and not recorded:
            reason = _native.missing(self.native)
            if reason:
                return reason
        if device is not None and device.type not in self.devices and not recorded:
            return f"it runs on {' and '.join(self.devices)} tensors, not on {device.type}"
        if not recorded:
            reason = _unsuitable(self.native, device)
            if reason:
                return reason
        if dtype is not None and dtype not in self.dtypes:
            return f"it doesn't compute in {dtype}"
        return ""


@dataclass(frozen=True)
class Operator:
    """An operator and its implementations; calling `select` gives the one to run.

    Attributes:
        name: The public function's.
        implementations: By backend.
        folder: Of the kernels that take most of its time.
        without: Why a backend has no implementation.
    """

    name: str
    implementations: dict[str, Implementation] = field(default_factory=dict)
    folder: str = ""
    without: dict[str, str] = field(default_factory=dict)

    def why_not(
        self, backend: str, device: torch.device | None, dtype: torch.dtype | None = None, limit: str = ""
    ) -> str:
        """Why `backend` can't run on a device and dtype, or ""; `limit` rules out all but reference."""
        if backend == "reference":
            return ""
        implementation = self.implementations.get(backend)
        if implementation is None:
            return f"{self.name} has no {backend} implementation{self.without.get(backend, '')}"
        return implementation.why_not(device, dtype) or limit

    def select(self, tensor: torch.Tensor, limit: str = "") -> Callable[..., Any]:
        """The function to run for `tensor`, in the context that it is called in.

        Raises:
            RuntimeError: A backend was asked for and can't run; the message says why.
        """
        function = self.implementations[self.choose(tensor, limit)].function
        return _without_autocast(function, tensor) if _checks.autocast_is_on(tensor) else function

    def choose(self, tensor: torch.Tensor, limit: str = "", *, quiet: bool = False) -> str:
        """The name of the backend to run for `tensor`; `quiet` leaves out the warning.

        Where the context demands plain PyTorch, that runs even if another backend was requested.
        """
        wanted, device = requested(), tensor.device
        if torch.compiler.is_compiling():
            return self._choose(wanted, tensor, limit, quiet)
        if demand := needs_reference():
            if wanted != "reference" and not quiet:
                self._warn(demand)
            return "reference"
        # Which of a GPU's two backends is faster depends on the tensor's size and layout too.
        more = (tensor.numel().bit_length(), tensor.is_contiguous()) if device.type == "cuda" else ()
        key = (self.name, wanted, device, tensor.dtype, limit, _native.triton_recorded, *more)
        known = _choices.get(key)
        if known is None:
            known = self._choose(wanted, tensor, limit, quiet)
            if known != "reference":  # of which there is more to say
                _choices[key] = known
        return known

    def _choose(self, wanted: str | None, tensor: torch.Tensor, limit: str, quiet: bool) -> str:
        device = tensor.device
        if wanted is not None:
            reason = self.why_not(wanted, device, tensor.dtype, limit)
            if reason:
                raise RuntimeError(f"the {wanted} backend was requested, but can't run {self.name}: {reason}")
            return wanted
        reasons: list[str] = []
        for backend in self._fastest_first(tensor):
            reason = self.why_not(backend, device, tensor.dtype, limit)
            if not reason:
                if reasons and backend == "reference" and not quiet:
                    self._warn("; ".join(reasons))
                return backend
            reasons.append(f"{backend}: {reason}")
        return "reference"

    def _fastest_first(self, tensor: torch.Tensor) -> tuple[str, ...]:
        if tensor.device.type == "cpu":
            return "cpu", "reference"
        return (*_gpu_order(self.folder, tensor)[0], "reference") if tensor.device.type == "cuda" else ("reference",)

    def order_reason(self, tensor: torch.Tensor) -> str:
        """How it is known which of a GPU's backends is faster; "" where that isn't asked."""
        both = {"cuda", "triton"} <= self.implementations.keys()
        return _gpu_order(self.folder, tensor)[1] if both and tensor.device.type == "cuda" else ""

    def _warn(self, reason: str) -> None:
        if (self.name, reason) not in _warned:
            _warned.add((self.name, reason))
            warnings.warn(
                f"hsr_kernels.{self.name} runs on the slow reference backend ({reason})",
                RuntimeWarning,
                stacklevel=_levels_inside() + 1,
            )


def _levels_inside() -> int:
    """How many callers, the nearest included, are this package's own: a warning points at the one after them."""
    levels = 0
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        levels, frame = levels + 1, frame.f_back
    return levels


def _without_autocast(function: Callable[..., Any], tensor: torch.Tensor) -> Callable[..., Any]:
    """The public functions cast what autocast is to cast; inside, every dtype is meant as it stands."""

    def call(*args: Any, **options: Any) -> Any:
        with torch.autocast(tensor.device.type, enabled=False):
            return function(*args, **options)

    return call


@functools.cache
def _capability(index: int | None) -> tuple[int, int]:
    """Of a CUDA device (None: the current one); asked only once one is known to be there."""
    return torch.cuda.get_device_capability(index)


def _too_old(index: int | None) -> str:
    """Why Triton's kernels don't run on a CUDA device, "" where they do; torch.compile takes it for granted."""
    found = _capability(index)
    if found >= _CAPABILITY:
        return ""
    needed, has = (".".join(map(str, version)) for version in (_CAPABILITY, found))
    return f"it needs a GPU of compute capability {needed} or newer, this one is {has}"


_too_old._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _unsuitable(native: str | None, device: torch.device | None) -> str:
    """Why a GPU (None: the current one) doesn't run what needs `native`, which is there; "" where it does."""
    index = None if device is None else device.index
    if native == "triton" and not _native.triton_interprets():
        return _too_old(index)
    if native == "_cuda" and not _native.cuda_is_emulated():
        return _native.cuda_lacks(torch.cuda.current_device() if index is None else index)
    return ""


def on_cuda(function: Callable[..., Any]) -> Implementation:
    """The cuda implementation whose operators `function` calls; emulated, it takes CPU tensors too."""
    devices = ("cuda", "cpu") if _native.cuda_is_emulated() else ("cuda",)
    return Implementation(function, "_cuda", (torch.float32, torch.float16, torch.bfloat16), devices)


def gpu_backend(op: str, x: torch.Tensor) -> str:
    """Which of cuda and triton the operators of a folder run as on x, which is on a GPU."""
    wanted = requested()
    if wanted in ("cuda", "triton"):
        return wanted
    return _gpu_order(op, x)[0][0]


def _gpu_order(op: str, x: torch.Tensor) -> tuple[tuple[str, ...], str]:
    """A GPU's backends, the fastest that can run first, and why they are in this order."""
    last = x.ndim == 4 and not x.is_contiguous() and x.stride(1) == 1
    return _order(op, x.device, x.dtype, last, x.numel().bit_length())


@functools.lru_cache(maxsize=4096)
def _order(op: str, device: torch.device, dtype: torch.dtype, last: bool, bits: int) -> tuple[tuple[str, ...], str]:
    if _native.missing("_cuda") or _unsuitable("_cuda", device):
        return ("triton", "cuda"), ""
    if _native.missing("triton") or _unsuitable("triton", device):
        return ("cuda", "triton"), ""
    name, reason = _measured.faster(op, device, dtype, last, bits)
    return (name, "triton" if name == "cuda" else "cuda"), reason


_order._dynamo_marked_constant = True  # type: ignore[attr-defined]


def on_gpu(function: Callable[..., Any], details: Callable[..., Iterable[str]] | None = None) -> Implementation:
    """The triton implementation whose operators `function` calls; in Triton's interpreter it takes CPU tensors too."""
    devices = ("cuda", "cpu") if _native.triton_interprets() else ("cuda",)
    return Implementation(function, "triton", (torch.float32, torch.float16, torch.bfloat16), devices, details)


def register(
    name: str, *, folder: str = "", without: dict[str, str] | None = None, **implementations: Implementation
) -> Operator:
    """Makes an operator known to `backends()` and `explain()`.

    Args:
        name: The public function's.
        folder: Of its kernels, where that isn't its name.
        without: Why backends have no implementation of it, to follow a sentence that says so.
        **implementations: By backend.
    """
    _operators[name] = Operator(name, implementations, folder or name, without or {})
    return _operators[name]


def requested() -> str | None:
    """The backend that was asked for; None where the fastest that can run is to be taken."""
    return _from_environment() if _requested is None else _requested


@functools.cache
def _from_environment() -> str | None:
    """What HSR_KERNELS_BACKEND asks for, read at the first call."""
    name = os.environ.get(_ENVIRONMENT) or None
    return None if name is None else _known(name, _ENVIRONMENT)


_from_environment._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _known(name: str, what: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{what} must be one of {', '.join(BACKENDS)}, got {name!r}")
    return name


class use_backend:
    """Makes every operator run on one backend: `use_backend("reference")`, or `with use_backend("cpu"): ...`.

    The setting is global to the process and acts at once; as a context manager it restores the earlier one on
    exit. It outranks the environment variable HSR_KERNELS_BACKEND. `use_backend(None)` returns to the default.

    Args:
        name: "reference", "cpu", "triton", "cuda" or None (the fastest that can run).

    Raises:
        ValueError: The name isn't a backend's.
    """

    def __init__(self, name: str | None) -> None:
        global _requested
        self._before = _requested
        _requested = None if name is None else _known(name, "backend")

    def __enter__(self) -> "use_backend":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _requested
        _requested = self._before


def _operator(name: str) -> Operator:
    if name not in _operators:
        raise ValueError(f"op must be one of {', '.join(sorted(_operators))}, got {name!r}")
    return _operators[name]


def implemented(op: str) -> tuple[str, ...]:
    """The backends that have an implementation of an operator, whether it can run here or not."""
    return tuple(_operator(op).implementations)


def backends(op: str | None = None, device: str | torch.device | None = None) -> dict[str, str]:
    """The backends and what keeps each from running: an empty string means that it can run.

    Args:
        op: An operator's name; None asks about the backends in general (the answer for `bias_act`).
        device: A device to ask about; None means the device that each backend is made for.

    Returns:
        {backend: reason it can't run, or ""}.
    """
    operator = _operator(op or "bias_act")
    place = None if device is None else torch.device(device)
    return {name: operator.why_not(name, place) for name in BACKENDS}


@dataclass(frozen=True)
class Explanation:
    """What `explain` found: the backend that runs, for each other backend why it doesn't, and what else is known."""

    op: str
    backend: str
    tensor: str
    reasons: dict[str, str]
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.op} on {self.tensor} runs on the {self.backend} backend"]
        lines += [f"  {name}: {reason}" for name, reason in self.reasons.items()]
        lines += [f"  {detail}" for detail in self.details]
        return "\n".join(lines)


def explain(op: str, *tensors: torch.Tensor) -> Explanation:
    """Which backend would run `op` on tensors of that device and dtype, and why not the others; print it.

    What depends on other arguments (a filter that requires grad, say) is told by the warning when the operator runs.

    Args:
        op: An operator's name, such as "upfirdn2d".
        *tensors: The operator's tensors; the first decides device and dtype. None given: a float32 CPU tensor.
            `modulated_conv2d` tells its routes from x and weight.

    Raises:
        ValueError: No operator of that name.
        RuntimeError: A backend was requested that can't run.
    """
    operator = _operator(op)
    tensor = tensors[0] if tensors else torch.empty(0)
    chosen = operator.choose(tensor, quiet=True)
    wanted = requested()
    reasons, known = {}, operator.order_reason(tensor)
    guessed = known.startswith("not measured")
    best, rank = ("the default", "the default") if guessed else ("the fastest that can run", "faster")
    for name in BACKENDS:
        if name == chosen:
            reasons[name] = "chosen: " + ("it was requested" if wanted else best)
            reasons[name] += f" ({known})" if known and not wanted else ""
        else:
            reasons[name] = operator.why_not(name, tensor.device, tensor.dtype) or (
                f"it could run, but {wanted} was requested" if wanted else f"it could run, but {chosen} is {rank}"
            )
    details = operator.implementations[chosen].details
    told = tuple(details(*tensors)) if details else ()
    return Explanation(op, chosen, f"{tensor.device} {str(tensor.dtype).removeprefix('torch.')}", reasons, told)
