# SPDX-License-Identifier: Apache-2.0
"""First launches of Triton's kernels, on tensors with data and by Triton's own way, for a GPU that isn't there."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import triton
from triton.runtime import JITFunction

import hsr_kernels
from hsr_kernels import _gpu
from hsr_kernels._dispatch import native
from hsr_kernels.aot import record
from hsr_kernels.aot.record import Chip


@contextmanager
def recorded_on_real_tensors(chip: Chip) -> Iterator[record.Recording]:
    """Within it launches on tensors with data, which aren't on a GPU, are recorded instead of run."""
    result = record.Recording()
    with _pretended(chip) as stack:
        record._intercept_triton(stack, chip, result)
        yield result


@contextmanager
def first_launches(chip: Chip) -> Iterator[dict[str, bool]]:
    """Within it Triton does what it does for a first launch on the chip, up to the launch itself.

    Yields:
        What it looked for in its cache, by "<kernel> <hash>", and whether it was there.
    """
    found: dict[str, bool] = {}
    run = JITFunction.run

    def prepared(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        return run(kernel, *args, grid=grid, warmup=True, **options)

    def listen(*, src: Any, metadata: dict[str, Any], cache_hit: bool, **_: Any) -> None:
        found[f"{src.name} {metadata['hash']}"] = cache_hit

    with _pretended(chip) as stack:
        record._set(stack, JITFunction, "run", prepared)
        record._set(stack, triton.knobs.compilation, "listener", listen)
        driver = triton.runtime.driver
        stack.callback(lambda attributes: vars(driver).update(attributes), dict(vars(driver)))
        driver.set_active(_Driver(chip))
        yield found


@contextmanager
def _pretended(chip: Chip) -> Iterator[ExitStack]:
    """Lets the Triton implementations take the CPU's tensors for the chip's."""
    with ExitStack() as stack:
        record._set(stack, native, "triton_recorded", True)
        record._set(stack, _gpu, "of", lambda tensor: chip.gpu)
        record._set(stack, _gpu, "is_amd", lambda: chip.gpu.family != _gpu.NVIDIA)
        stack.enter_context(hsr_kernels.use_backend("triton"))
        stack.enter_context(record._TritonImplementations(record.Recording()))
        yield stack


class _Driver(record._Driver):
    """A GPU on which nothing was launched yet: Triton keeps what was by the device's number."""

    def __init__(self, chip: Chip) -> None:
        super().__init__(chip)
        self._number = -1000 - id(self)

    def get_current_device(self) -> int:
        return self._number
