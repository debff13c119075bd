# SPDX-License-Identifier: Apache-2.0
"""What is asked for: a backend, a route of modulated layers, a table of measurements.

What a program asks for with `use_backend` or `use_route` outranks the environment variable. Each variable is read when
it is first needed and kept from then on; `reset_choices` has all of them read again.
"""

import os
from types import TracebackType
from typing import ClassVar, Self

BACKENDS = ("reference", "cpu", "triton", "cuda")
CONVOLUTION, FUSED = "convolution", "fused"
ROUTES = (CONVOLUTION, FUSED)


class Setting:
    """One thing that can be asked for.

    Attributes:
        variable: The environment variable.
        allowed: The values that it can have; empty where any text will do.
        used: What the program asked for; None where it asked for nothing.
    """

    # The settings are global to the process on purpose: a CUDA backward runs on autograd's own threads, which don't see
    # a context variable.
    def __init__(self, variable: str, allowed: tuple[str, ...] = ()) -> None:
        self.variable = variable
        self.allowed = allowed
        self.used: str | None = None
        self._is_read = False
        self._text: str | None = None

    def value(self) -> str | None:
        """What is asked for; None where nothing is.

        Raises:
            ValueError: The environment variable has a value that isn't allowed.
        """
        return self.used if self.used is not None else self.of_environment()

    def of_environment(self) -> str | None:
        """What the environment variable asks for. It is constant to torch.compile."""
        if not self._is_read:
            text = os.environ.get(self.variable) or None
            self._text = None if text is None else self.checked(text, self.variable)
            self._is_read = True
        return self._text

    def checked(self, text: str, name: str) -> str:
        """The text, where it is allowed.

        Raises:
            ValueError: It isn't; `name` says what has this value.
        """
        if self.allowed and text not in self.allowed:
            raise ValueError(f"{name} must be one of {', '.join(self.allowed)}, got {text!r}")
        return text

    def reset(self) -> None:
        """Has the environment variable read again at the next question; what the program asked for stays."""
        self._is_read = False


# What torch.compiler.assume_constant_result does, less its import of the whole compiler, Triton included.
Setting.of_environment._dynamo_marked_constant = True  # type: ignore[attr-defined]

BACKEND = Setting("HSR_KERNELS_BACKEND", BACKENDS)
ROUTE = Setting("HSR_KERNELS_ROUTE", ROUTES)
MEASURED = Setting("HSR_KERNELS_MEASURED")
SETTINGS = (BACKEND, ROUTE, MEASURED)


class _Use:
    """Asks for something at once and, as a context manager, restores the earlier request on exit."""

    _setting: ClassVar[Setting]
    _name: ClassVar[str]

    def __init__(self, name: str | None) -> None:
        self._before = self._setting.used
        self._setting.used = None if name is None else self._setting.checked(name, self._name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._setting.used = self._before


class use_backend(_Use):
    """Makes every operator run on one backend: `use_backend("reference")`, or `with use_backend("cpu"): ...`.

    The setting is global to the process and acts at once; as a context manager it restores the earlier one on
    exit. It outranks the environment variable HSR_KERNELS_BACKEND. `use_backend(None)` returns to the default.

    Args:
        name: "reference", "cpu", "triton", "cuda" or None (the fastest that can run).

    Raises:
        ValueError: The name isn't a backend's.
    """

    _setting, _name = BACKEND, "backend"


class use_route(_Use):
    """Makes modulated layers on GPUs take one route: `use_route("fused")`, or `with use_route("convolution"): ...`.

    Acts at once in the whole process, wherever a layer has both routes. The triton backend alone has both; on cuda,
    "fused" warns that it has no effect. As a context manager it restores the earlier setting on exit. It outranks the
    environment variable HSR_KERNELS_ROUTE.
    `use_route(None)`: as measured.

    Args:
        name: "fused", "convolution" or None.

    Raises:
        ValueError: The name isn't a route's.
    """

    _setting, _name = ROUTE, "route"
