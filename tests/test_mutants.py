# SPDX-License-Identifier: Apache-2.0
"""The table of faults is up to date: each still applies to the code as it is."""

from collections import Counter

from tests.mutants import ROOT, mutants


def test_every_fault_applies():
    every = mutants()
    assert len(every) >= 60 and max(Counter(mutant.name for mutant in every).values()) == 1
    for mutant in every:
        mutant.mutated((ROOT / mutant.file).read_text())
