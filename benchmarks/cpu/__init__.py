# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the operators on the CPU, beside the reference backend and torch.compile of it.

cases     what is measured, and what it must reach
measure   parity, times and memory of a case
worker    a process of its own that measures
timing    variants in turns
limits    what the machine can't be faster than
memory    what autograd saves, and how far a process grows
report    the measurements as CSV and as a table
scaling   time over batch, resolution, channels, threads; plots.py draws it
against   this checkout beside another commit
commands  the commands for these two
"""
