# SPDX-License-Identifier: Apache-2.0
"""The emulator's own kernels."""

import pytest

from tests.emulator.build import load


@pytest.fixture(scope="session")
def kernels():
    """The module of small kernels, built on first use."""
    return load("_emulator_kernels", "_emulator_kernels")


@pytest.fixture(autouse=True)
def _fresh_emulator(kernels):
    kernels.emulator_order(0)
    kernels.emulator_idle(False)
    kernels.emulator_reset()
