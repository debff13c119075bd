# SPDX-License-Identifier: Apache-2.0
"""All that is measured for the library's table, the most important first."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from hsr_kernels._dispatch.measured import Measurement
from hsr_kernels.modulated_conv2d.routes import PASSES

from . import backends, routes


@dataclass(frozen=True)
class Trial:
    """A line of the table that can be measured; its name is unique."""

    name: str
    run: Callable[[], Measurement]


def trials(*, tiny: bool, cuda: bool) -> Iterator[Trial]:
    """Yields routes where training spends its time, then backends for what it runs on, then the rest of both.

    Args:
        tiny: Whether sizes are tiny, to show only that everything runs.
        cuda: Whether the cuda backend is there to be compared with triton.
    """
    route_trials = _route_trials(routes.TINY_LAYERS if tiny else routes.LAYERS)
    usual_routes = routes.USUAL_LAYERS * len(PASSES)
    backend_trials = _backend_trials(backends.TINY_IMAGES if tiny else backends.IMAGES) if cuda else []
    # Each of the three groups of dtypes and layouts has as many comparisons.
    usual_backends = len(backend_trials) // len(backends.GROUPS)
    yield from (*route_trials[:usual_routes], *backend_trials[:usual_backends])
    yield from (*route_trials[usual_routes:], *backend_trials[usual_backends:])


def _route_trials(layers: tuple[routes.Layer, ...]) -> list[Trial]:
    return [
        Trial(f"route of the {direction} of {layer}", partial(routes.measure_routes, layer, direction))
        for layer in layers
        for direction in PASSES
    ]


def _backend_trials(images: tuple[backends.Images, ...]) -> list[Trial]:
    return [
        Trial(f"backend of {comparison}", partial(backends.measure_backends, comparison))
        for comparison in backends.comparisons(images)
    ]
