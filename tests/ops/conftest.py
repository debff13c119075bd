# SPDX-License-Identifier: Apache-2.0
"""Settings of the operator tests."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    """Small tensors gain nothing from threads and lose on a busy machine; test_threads.py sets its own number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
