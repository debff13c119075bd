# SPDX-License-Identifier: Apache-2.0
"""What a training step launches and calls, at its real size and without data."""

import pytest

from benchmarks import steps
from benchmarks.gpu.cases import GPU_CASES

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def counts() -> dict[str, steps.PhaseCount]:
    (case,) = (case for case in GPU_CASES if case.is_training and not case.size["encoder"])
    return {count.name: count for count in steps.count_step(**case.size)}


def test_a_main_step_stays_small(counts: dict[str, steps.PhaseCount]) -> None:
    """Whoever adds a pass over memory, a launch or an operation raises these figures knowingly."""
    total = counts[steps.MAIN_STEP]
    assert total.launch_count <= 241
    assert total.launched_bytes <= 35.2e9
    assert total.operation_count <= 661


def test_phases_add_up_and_all_of_them_are_seen(counts: dict[str, steps.PhaseCount]) -> None:
    total = counts[steps.MAIN_STEP]
    assert total.launch_count == sum(counts[name].launch_count for name in steps.MAIN_PHASES)
    assert total.operations["aten::_fused_adam_"][0] == 2 and total.operations["aten::_foreach_lerp_"][0] == 1
    for name in ("G main", "G path length", "D main", "D R1"):
        # Forward and backward, with the optimizer's step after them.
        assert {"bias_act_kernel", "bias_act_bwd_kernel"} <= counts[name].launches.keys()
        assert counts[name].operations["aten::_fused_adam_"][0] == 1
