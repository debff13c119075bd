# SPDX-License-Identifier: Apache-2.0
"""A guard against slower code that can't be wrong by chance: counts, the same in every run, against recorded ones.

cpu           calls of Python functions, kernels, PyTorch's operations, bytes moved and allocated on the cpu backend
triton        launches, PyTorch's operations and bytes moved of the Triton implementations, without a GPU
recorded      what was counted, recorded.csv, and what has become more
instructions  the processor's instructions in each native kernel, instructions.csv, by valgrind
driver.cpp    runs one kernel for it

A count that is more than a tenth above the recorded one is a fault. Times aren't looked at.
"""
