# SPDX-License-Identifier: Apache-2.0
"""Tests and measurements on one GPU, for a machine that is at hand for minutes: docs/gpu-run.md says how to use it.

commands    the command lines
report      starts a process per stage, ends what takes too long, and writes the files
worker      that process: works through the items of a stage
stages      the stages and their items; items.py says what an item is
journal     the one record of what was done; the report's files are derived from it
testing, choosing, measuring, profiling, kernels
            the items of each stage
cases       what is measured, and what it must reach
results     what was found of a case, and whether it reached what it must
table       the results as CSV and Markdown
files       the report's files, derived from the journal
cache       compiled kernels, to be carried to a GPU
archive     compiles them; recording.py finds those that the tests launch

Nothing here imports more than PyTorch, Triton, NumPy and pytest.
"""
