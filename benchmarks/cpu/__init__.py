# SPDX-License-Identifier: Apache-2.0
"""Time and memory of the operators on the CPU, beside the reference backend and torch.compile of it.

cases     what is measured, and what it must reach
measure   times and memory of a case
timing    variants in turns
memory    what autograd saves, and how far a process grows
report    the measurements as CSV and as a table
"""
