# SPDX-License-Identifier: Apache-2.0
"""Settings and fixtures of all tests."""

import hypothesis
import pytest
import torch
from torch.utils import deterministic

import hsr_kernels

# Derandomised: a run that was green stays green. No deadline: the first call of an operator warms caches up.
hypothesis.settings.register_profile("hsr", derandomize=True, deadline=None, max_examples=60, database=None)
hypothesis.settings.load_profile("hsr")


@pytest.fixture(autouse=True)
def _seeded():
    # Not torch.manual_seed, which also walks all accelerators: 5 ms, in every one of thousands of tests.
    torch.default_generator.manual_seed(0)


@pytest.fixture(autouse=True)
def _default_backend():
    """No test leaves a backend selected for the next one."""
    yield
    hsr_kernels.use_backend(None)


@pytest.fixture
def poisoned_memory():
    """Fresh tensors hold NaN instead of leftovers, so that output which a kernel doesn't write shows."""
    before = torch.are_deterministic_algorithms_enabled(), deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0])
    deterministic.fill_uninitialized_memory = before[1]
