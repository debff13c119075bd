# SPDX-License-Identifier: Apache-2.0
"""Settings and fixtures of all tests."""

import os

import hypothesis
import pytest
import torch
from torch.utils import deterministic


def pytest_configure(config):
    # Triton reads this where kernels are defined, so the interpreter has a test process of its own.
    if config.option.markexpr == "interpret":
        os.environ["TRITON_INTERPRET"] = "1"
    if config.option.markexpr == "emulate":
        from tests.emulator.build import build

        os.environ["HSR_CUDA_EMULATED"] = str(build("_cuda_emulated"))


def pytest_ignore_collect(collection_path):
    """Leaves out the compiler's tests where kernels are interpreted: there is nothing to compile then."""
    interpreting = os.environ.get("TRITON_INTERPRET") == "1"
    return True if interpreting and collection_path.name in ("test_aot.py", "test_vector_access.py") else None


def pytest_collection_modifyitems(config, items):
    """Leaves out what this process can't run: interpreted and emulated kernels elsewhere, a GPU's without one."""
    interpreting = os.environ.get("TRITON_INTERPRET") == "1"
    emulating = bool(os.environ.get("HSR_CUDA_EMULATED"))

    def runs(item: pytest.Item) -> bool:
        if item.get_closest_marker("gpu"):
            return torch.cuda.is_available() and not interpreting and not emulating
        kinds = bool(item.get_closest_marker("interpret")), bool(item.get_closest_marker("emulate"))
        return kinds == (interpreting, emulating)

    left_out = [item for item in items if not runs(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if runs(item)]


# Derandomised: a run that was green stays green. No deadline: the first call of an operator warms caches up.
hypothesis.settings.register_profile("hsr", derandomize=True, deadline=None, max_examples=60, database=None)
hypothesis.settings.load_profile("hsr")


@pytest.fixture(autouse=True, scope="session")
def _interpreter():
    if os.environ.get("TRITON_INTERPRET") == "1":
        from tests import interpreter

        interpreter.mend()


@pytest.fixture(autouse=True)
def _one_thread():
    """Small tensors gain nothing from threads and wait for each other on a busy machine; test_threads.py sets its own
    number."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    # Not torch.manual_seed, which also walks all accelerators: 5 ms, in every one of thousands of tests.
    torch.default_generator.manual_seed(0)


@pytest.fixture(autouse=True)
def _default_backend():
    """No test leaves a backend selected for the next one."""
    import hsr_kernels  # not before pytest_configure

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
