# SPDX-License-Identifier: Apache-2.0
"""Tests and measurements on one GPU, for a machine that is at hand for minutes: docs/gpu-run.md says how to use it.

    report.py     starts a process per stage, ends what takes too long, and writes the tables
    worker.py     that process: works through the items of a stage
    items.py      what an item is, and which stage consists of which
    journal.py    the one record of what was done; tables are derived from it
    testing.py, choosing.py, measuring.py, profiling.py, kernels.py: the items of each stage
    device.py     the GPU, or a CPU that stands in for it in a rehearsal
    cases.py, routes.py, backends.py: what is measured
    table.py      the tables
    cache.py      compiled kernels to be carried to a GPU; recording.py finds those that the tests launch

Nothing here imports more than PyTorch, Triton, NumPy and pytest.
"""
