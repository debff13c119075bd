# SPDX-License-Identifier: Apache-2.0
"""What the library can choose between on this GPU: routes of modulated layers, and the backends cuda and triton."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from hsr_kernels import _measured
from hsr_kernels.modulated_conv2d.routes import PASSES, Layer, Measurement

from . import backends, routes
from .items import Item, Task
from .journal import DONE, Entry
from .measuring import without_cuda

SECONDS = 20.0  # for one item
ROUTE, BACKEND = "route", "backend"


def items(task: Task) -> Iterator[Item]:
    """Routes where training spends its time, then backends for what it runs on, then the rest of both."""
    layers = routes.TINY if task.tiny else routes.LAYERS
    compared = list(backends.comparisons(backends.TINY if task.tiny else backends.TENSORS))
    usual = len(compared) // 3  # float16 and float32 in channels_last
    ways = [_route(layer, direction) for layer in layers for direction in PASSES]
    first = routes.USUAL * len(PASSES)
    sides = [Item("cuda beside triton", SECONDS, _refuse)] if without_cuda() else [_backend(one) for one in compared]
    yield from (*ways[:first], *sides[:usual], *ways[first:], *sides[usual:])


def _route(layer: Layer, direction: str) -> Item:
    shape = f"{layer.kernel}x{layer.kernel}, {layer.c} -> {layer.o} channels, {layer.pixels} pixels"
    name = f"route of the {direction} of {shape}, {layer.products}"
    return Item(name, SECONDS, lambda: asdict(routes.measure(layer, direction)), {"kind": ROUTE})


def _backend(one: backends.Comparison) -> Item:
    return Item(f"backend of {one}", SECONDS, partial(_compared, one), {"kind": BACKEND})


def _refuse() -> Mapping[str, Any]:
    raise RuntimeError(without_cuda())


def _compared(one: backends.Comparison) -> Mapping[str, Any]:
    return asdict(backends.measure(one))


def found(entries: Mapping[str, Entry]) -> tuple[list[Measurement], list[_measured.Measurement], list[str]]:
    """Routes, backends, and what wasn't measured and why, from what the journal has of this stage."""
    ways: list[Measurement] = []
    sides: list[_measured.Measurement] = []
    notes = []
    for name, entry in entries.items():
        if entry.reason:
            notes.append(f"{name}: {entry.reason}")
        elif entry.state == DONE and entry.about.get("kind") == ROUTE:
            ways.append(Measurement(**{**entry.data, "layer": Layer(**entry.data["layer"])}))
        elif entry.state == DONE:
            sides.append(_measured.Measurement(**entry.data))
    return ways, sides, notes
