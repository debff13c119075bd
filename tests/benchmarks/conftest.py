# SPDX-License-Identifier: Apache-2.0
"""A CPU in the place of a GPU. The library is imported in fixtures only: settings of ../conftest.py come first."""

import pytest

MACHINE = {"chip": "none: a rehearsal", "driver": "none", "torch": "2", "triton": "3", "commit": "0", "sizes": "tiny"}


@pytest.fixture
def rehearsal(monkeypatch):
    """Lets the GPU report's code run on the CPU in tiny sizes, as HSR_GPU_REHEARSAL does."""
    import torch

    import hsr_kernels
    from hsr_kernels._dispatch import request

    monkeypatch.setenv("HSR_GPU_REHEARSAL", "1")
    # Workers name a table of their own.
    monkeypatch.setenv(request.MEASURED.variable, "")
    hsr_kernels.reset_choices()
    # The generated code is for inductor's own tests: here it only has to be one more variant.
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


@pytest.fixture
def journal(tmp_path):
    """A journal of a rehearsal, in a folder of its own."""
    from benchmarks.gpu.journal import NAME, Journal

    found = Journal(tmp_path / NAME)
    found.name(MACHINE)
    found.refresh()
    return found
