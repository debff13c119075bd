# SPDX-License-Identifier: Apache-2.0
"""A CPU in the place of a GPU. The library is imported in fixtures only: settings of ../conftest.py come first."""

import pytest

MACHINE = {"chip": "none: a rehearsal", "driver": "none", "torch": "2", "triton": "3", "commit": "0", "sizes": "tiny"}


@pytest.fixture
def rehearsal(monkeypatch):
    """Lets the GPU report's code run on the CPU in tiny sizes, as HSR_GPU_REHEARSAL does."""
    import torch

    from hsr_kernels.modulated_conv2d import routes

    monkeypatch.setenv("HSR_GPU_REHEARSAL", "1")
    monkeypatch.setenv(routes.ENVIRONMENT, "")  # workers name their own
    # The generated code is for inductor's own tests: here it only has to be one more contender.
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


@pytest.fixture
def journal(tmp_path):
    """A journal of a rehearsal, in a folder of its own."""
    from benchmarks.gpu.journal import NAME, Journal

    found = Journal(tmp_path / NAME)
    found.name(MACHINE)
    found.refresh()
    return found
