# SPDX-License-Identifier: Apache-2.0
"""A piece of work that is measured, and what it must reach."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from . import SUITES
from .messages import fail
from .workloads import Workload, feature_loss, styled_layer

Size = dict[str, Any]
OPS, LAYERS, STEPS, INFERENCE = SUITES


@dataclass(frozen=True)
class Target:
    """What a phase must reach; None where nothing is demanded.

    Attributes:
        reference: Times faster than the reference backend.
        compiled: Times faster than `torch.compile` of the reference.
        peak: Peak extra memory, as a fraction of the reference's.
        copy: Bandwidth over the fewest bytes that can be moved, as a fraction of a device copy's.
        released: Times faster than the reference backend in float32, the only precision of the released code.
        released_peak: Peak extra memory, as a fraction of that of the reference backend in float32.
        baseline: Time, as a multiple of the baseline's: the case without the part whose cost it measures.
        float32: In bfloat16, times faster than the same backend in float32.
    """

    reference: float | None = None
    compiled: float | None = None
    peak: float | None = None
    copy: float | None = None
    released: float | None = None
    released_peak: float | None = None
    baseline: float | None = None
    float32: float | None = None


@dataclass(frozen=True)
class Case:
    """One piece of work at its real size, and at a tiny one that shows only that everything runs.

    Attributes:
        name: What `--case` matches.
        title: The row's name in the table.
        build: Called with `size` or `tiny_size`.
        targets: The phases to time, and what they must reach.
        suite: One of SUITES.
        why_not_compiled: The reason why torch.compile can't run it, empty if it can.
        dtype: Of the inputs and of what backward starts from; parameters are float32, as in training.
        reread: What a backward pass has to read again: "inputs", "parameters", "output".
        routes: Of its modulated layer, to be counted one by one without a measurement; None where there is one only.
        baseline_changes: Changes of both sizes that leave out the part whose cost the case measures.
        bfloat16_targets: What the phases must reach in bfloat16, with the reference in float32; empty where that isn't
            measured beside it.
        operators: The public functions whose backends decide on which ones it can run.
        steps_per_1000_images: Phase -> steps in training on 1000 images; empty for what isn't training.
    """

    name: str
    title: str
    build: Callable[..., Workload]
    size: Size
    tiny_size: Size
    targets: dict[str, Target]
    suite: str = OPS
    why_not_compiled: str = ""
    dtype: torch.dtype = torch.float32
    reread: tuple[str, ...] = ()
    routes: tuple[str | None, ...] = (None,)
    baseline_changes: Size = field(default_factory=dict)
    bfloat16_targets: Mapping[str, Target] = field(default_factory=dict)
    operators: tuple[str, ...] = ()
    steps_per_1000_images: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_styled_layer(self) -> bool:
        return self.build is styled_layer

    @property
    def is_feature_loss(self) -> bool:
        return self.build is feature_loss

    @property
    def is_training(self) -> bool:
        return bool(self.steps_per_1000_images)

    def demands(self, name: str) -> bool:
        """Whether any phase has a target of this name."""
        return any(getattr(target, name) is not None for target in self.targets.values())

    def baseline(self) -> "Case":
        """Returns the case without the part whose cost it measures."""
        changes = self.baseline_changes
        return replace(self, size=self.size | changes, tiny_size=self.tiny_size | changes)

    def in_bfloat16(self) -> "Case":
        """Returns the case with images in bfloat16, of a network as its own setting for mixed precision has them."""
        if self.suite not in (STEPS, INFERENCE):
            return replace(self, dtype=torch.bfloat16)
        changes = {"bfloat16": True}
        return replace(self, size=self.size | changes, tiny_size=self.tiny_size | changes)

    def workload(self, *, tiny: bool = False, device: str = "cpu") -> Workload:
        """Builds the work on a device."""
        with torch.device(device):
            work = self.build(**(self.tiny_size if tiny else self.size))

        def cast(t: torch.Tensor) -> torch.Tensor:
            return t.detach().to(self.dtype).requires_grad_(t.requires_grad)

        if self.dtype == torch.float32:
            return work
        # A loss is float32 whatever its inputs are.
        cotangent = work.cotangent if work.cotangent.ndim == 0 else cast(work.cotangent)
        return replace(work, inputs=[cast(t) for t in work.inputs], cotangent=cotangent)


def select(text: str, cases: Sequence[Case], suite: str = "") -> list[Case]:
    """Returns the cases of a suite whose name contains a text; ends the program with a sentence where there is none."""
    of_suite = [case for case in cases if suite in ("", case.suite)]
    selected = [case for case in of_suite if text in case.name]
    if not selected:
        fail(f"no case is called {text!r}; there are {', '.join(case.name for case in of_suite)}")
    return selected
