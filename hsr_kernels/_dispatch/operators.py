# SPDX-License-Identifier: Apache-2.0
"""The operators, their implementations, and the choice among these: once per call of a public function.

The fastest backend that can run is chosen. A backend that was asked for and can't run raises. The first fall to
`reference` on a device that has a faster backend warns, once per operator and reason.
"""

import functools
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NamedTuple

import torch

from .. import _checks
from . import measured, native, request
from .functions import needs_reference

# What is measured of a public function, as its `Problem.direction`.
CALL = "forward and backward"
_RULE_OF_THUMB = "cuda has nothing to compile"
_MAX_CHOICES = 4096

operators: dict[str, "Operator"] = {}
_warned: set[tuple[str, str]] = set()


class Choice(NamedTuple):
    """The backend that a call runs on.

    Attributes:
        backend: Its name.
        reason: Why this one.
        warning: Why a faster one can't be had, where the caller should hear of it.
    """

    backend: str
    reason: str
    warning: str = ""


@dataclass(frozen=True)
class Implementation:
    """One backend's version of an operator.

    Attributes:
        function: Takes the operator's validated arguments.
        native: What it needs, if anything: the name of an extension, or "triton".
        dtypes: Dtypes that it computes in.
        devices: Device types that it runs on, beside those on which its kernels are simulated.
        details: What `explain` adds about a call with its tensors, where this is what runs: sentences.
    """

    function: Callable[..., Any]
    native: str | None = None
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    devices: tuple[str, ...] = ("cpu",)
    details: Callable[..., Iterable[str]] | None = None

    def why_not(self, device: torch.device | None, dtype: torch.dtype | None) -> str:
        """The reason why this can't run on a device and dtype (None: any); empty where it can."""
        recorded = self.native in ("triton", None) and native.triton_recorded
        if self.native is not None and not recorded and (reason := native.missing(self.native)):
            return reason
        simulated = device is not None and device.type == "cpu" and self.native in native.simulated()
        if device is not None and device.type not in self.devices and not recorded and not simulated:
            return f"it runs on {' and '.join(self.devices)} tensors, not on {device.type}"
        if not recorded and (reason := native.unsuitable(self.native, device)):
            return reason
        if dtype is not None and dtype not in self.dtypes:
            return f"it doesn't compute in {dtype}"
        return ""


@dataclass(frozen=True)
class Operator:
    """An operator and its implementations; `choose` decides which one a call runs, `run` runs it.

    Attributes:
        name: The public function's.
        implementations: By backend.
        folder: Of the kernels that take most of its time.
        without: Why a backend has no implementation.
        of_pytorch: Whether all but the reference are PyTorch's own kernels.
        fused_on: The backend that has one kernel for a call with these tensors where others have several, or "".
    """

    name: str
    implementations: dict[str, Implementation] = field(default_factory=dict)
    folder: str = ""
    without: dict[str, str] = field(default_factory=dict)
    of_pytorch: bool = False
    fused_on: Callable[..., str] = lambda *tensors: ""
    _choices: dict[tuple[object, ...], Choice] = field(default_factory=dict, repr=False)

    def why_not(
        self, backend: str, device: torch.device | None, dtype: torch.dtype | None = None, limit: str = ""
    ) -> str:
        """The reason why `backend` can't run on a device and dtype, or ""; `limit` rules out all but reference."""
        if backend == "reference":
            return ""
        implementation = self.implementations.get(backend)
        if implementation is None:
            return f"{self.name} has no {backend} implementation{self.without.get(backend, '')}"
        return implementation.why_not(device, dtype) or limit

    def choose(self, x: torch.Tensor, limit: str = "", *, fused_on: str = "", quiet: bool = False) -> Choice:
        """The backend that a call with `x` runs on, in the context that it is made in.

        Where the context demands plain PyTorch, that runs even if another backend was requested.

        Args:
            x: The operator's first tensor, as the implementation will take it.
            limit: A reason that rules out all backends but reference.
            fused_on: The backend that has one kernel for the call where others have several, if there is one.
            quiet: Leaves out the warning.

        Raises:
            RuntimeError: A backend was requested and can't run; the message says why.
        """
        wanted, device = request.BACKEND.value(), x.device
        # Size and layout matter only where they were measured: a compiled graph shouldn't depend on them elsewhere.
        elements, layout = (x.numel(), _layout(x)) if measured.covers(self.folder, device) else (0, "")
        problem = (wanted, device, x.dtype, layout, elements, limit, fused_on)
        if demand := needs_reference():
            choice = Choice("reference", demand, demand if wanted != "reference" else "")
        elif torch.compiler.is_compiling():
            choice = Choice(*_decided(self.name, *problem))
        else:
            key = (*problem, native.triton_recorded)
            choice = self._choices.get(key) or self._remembered(key, Choice(*_decided(self.name, *problem)))
        if choice.warning and not quiet:
            warn_once(self.name, f"runs on the slow reference backend ({choice.warning})")
        return choice

    def _remembered(self, key: tuple[object, ...], choice: Choice) -> Choice:
        if len(self._choices) >= _MAX_CHOICES:
            self._choices.clear()
        self._choices[key] = choice
        return choice

    def run(self, choice: Choice, device: torch.device, *args: Any, **options: Any) -> Any:
        """Calls the chosen implementation, without autocast: the public functions have cast what it casts."""
        return without_autocast(device, self.implementations[choice.backend].function, *args, **options)

    def _decide(
        self,
        wanted: str | None,
        device: torch.device,
        dtype: torch.dtype,
        layout: str,
        elements: int,
        limit: str,
        fused_on: str,
    ) -> Choice:
        if wanted is not None:
            if reason := self.why_not(wanted, device, dtype, limit):
                raise RuntimeError(f"the {wanted} backend was requested, but can't run {self.name}: {reason}")
            return Choice(wanted, "it was requested")
        reasons = {name: self.why_not(name, device, dtype, limit) for name in preferred(device)}
        usable = [name for name, reason in reasons.items() if not reason]
        if not usable:
            why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            return Choice("reference", "no faster backend can run", why)
        if len(usable) == 1 or self.of_pytorch:
            return Choice(usable[0], "the fastest that can run")
        if fused_on in usable:
            return Choice(
                fused_on, "the default (not measured; it has one kernel for this call, and others have several)"
            )
        name = str(dtype).removeprefix("torch.")
        problem = measured.Problem(self.folder, CALL, name, layout, (elements,))
        backend, evidence = measured.fastest(problem, device, usable)
        if evidence.startswith("not measured"):
            return Choice(backend, f"the default ({evidence}; {_RULE_OF_THUMB})")
        return Choice(backend, f"the fastest that can run ({evidence})")


def without_autocast(device: torch.device, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Calls a function where autocast is off for a device."""
    if not _checks.autocast_is_on(device):
        return function(*args, **options)
    with torch.autocast(device.type, enabled=False):
        return function(*args, **options)


def preferred(device: torch.device) -> tuple[str, ...]:
    """The backends of a device, those first that are taken where nothing has been measured.

    On a GPU that is cuda: it compiles nothing at its first use, and its launches cost the host less.
    """
    if device.type == "cpu":
        return "cpu", *(name.removeprefix("_") for name in native.simulated())
    return ("cuda", "triton") if device.type == "cuda" else ()


def _layout(x: torch.Tensor) -> str:
    return "channels_last" if x.ndim == 4 and not x.is_contiguous() and x.stride(1) == 1 else "contiguous"


def _decided(name: str, *problem: Any) -> tuple[str, str, str]:
    """The choice for an operator, as a tuple that is constant to torch.compile."""
    return tuple(operators[name]._decide(*problem))  # type: ignore[return-value]


def warn_once(name: str, says: str) -> None:
    """Warns that an operator does what `says` says; torch.compile does so while it traces."""
    if (name, says) not in _warned:
        _warned.add((name, says))
        warnings.warn(f"hsr_kernels.{name} {says}", RuntimeWarning, stacklevel=_levels_inside() + 1)


# What torch.compiler.assume_constant_result does, less its import of the whole compiler, Triton included.
_decided._dynamo_marked_constant = True  # type: ignore[attr-defined]
warn_once._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _levels_inside() -> int:
    """How many callers, the nearest included, are this package's own: a warning points at the one after them."""
    package = __name__.partition(".")[0]
    levels = 0
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        levels, frame = levels + 1, frame.f_back
    return levels


def on_reference(function: Callable[..., Any]) -> Implementation:
    """The reference implementation, in plain PyTorch."""
    return Implementation(function, devices=("cpu", "cuda", "meta"))


def on_cpu(function: Callable[..., Any]) -> Implementation:
    """The cpu implementation; `function` takes the backend before the operator's arguments."""
    return Implementation(functools.partial(function, "cpu"), "_cpu")


def on_cuda(function: Callable[..., Any], details: Callable[..., Iterable[str]] | None = None) -> Implementation:
    """The cuda implementation; `function` takes the backend before the operator's arguments."""
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    return Implementation(functools.partial(function, "cuda"), "_cuda", dtypes, ("cuda",), details)


def on_triton(function: Callable[..., Any], details: Callable[..., Iterable[str]] | None = None) -> Implementation:
    """The triton implementation; `function` takes the backend before the operator's arguments."""
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    return Implementation(functools.partial(function, "triton"), "triton", dtypes, ("cuda",), details)


def register(
    name: str,
    *,
    folder: str = "",
    without: dict[str, str] | None = None,
    fused_on: Callable[..., str] = lambda *tensors: "",
    **implementations: Implementation,
) -> Operator:
    """Makes an operator known to `backends()` and `explain()`.

    Args:
        name: The public function's.
        folder: Of its kernels, where that isn't its name.
        without: Why backends have no implementation of it, to follow a sentence that says so.
        fused_on: As in `Operator`.
        **implementations: By backend.
    """
    operators[name] = Operator(name, implementations, folder or name, without or {}, fused_on=fused_on)
    return operators[name]


def register_of_pytorch(name: str, reference: Callable[..., Any], function: Callable[..., Any]) -> Operator:
    """Registers an operator whose kernels are PyTorch's own on every device, whichever backend is asked for."""
    implementations = {"reference": on_reference(reference), "cpu": Implementation(function)}
    implementations |= {backend: Implementation(function, devices=("cuda",)) for backend in ("triton", "cuda")}
    operators[name] = Operator(name, implementations, name, of_pytorch=True)
    return operators[name]


def reset() -> None:
    """Forgets what was chosen and warned of."""
    _warned.clear()
    for operator in operators.values():
        operator._choices.clear()
