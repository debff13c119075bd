# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for a GPU. The library is imported in fixtures only: settings of ../conftest.py come first."""

import time

import pytest
import torch

SETTING = {"chip": "none", "driver": "0", "torch": torch.__version__, "triton": "0", "commit": "0"}


@pytest.fixture
def cpu_for_gpu(monkeypatch):
    """The report's own logic on CPU tensors and the cpu backend."""
    from benchmarks import gpu
    from benchmarks.gpu_table import Time
    from hsr_kernels.modulated_conv2d import routes

    def timed(call):
        began = time.perf_counter()
        call()
        spent = time.perf_counter() - began
        return Time(spent, spent, spent)

    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(gpu, "OURS", "cpu")
    monkeypatch.setattr(gpu, "available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(gpu, "environment", lambda: SETTING)
    monkeypatch.setattr(gpu, "_time", timed)
    monkeypatch.setattr(gpu, "copy_bandwidth", lambda size: 1e9)
    monkeypatch.setattr(gpu, "_captured", lambda call: call)
    monkeypatch.setattr(gpu, "_peak", lambda call: 1_000_000)
    monkeypatch.setattr(gpu, "without_cuda", lambda: "there is no CUDA device")
    monkeypatch.setenv(routes.ENVIRONMENT, "")  # the report names its own
    # The generated code is for inductor's own tests: here it only has to be one more contender.
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


@pytest.fixture
def both_backends(cpu_for_gpu, monkeypatch):
    """A cuda backend too: cpu stands in for it, and reference for triton where the two are compared."""
    from benchmarks import gpu, gpu_backends

    monkeypatch.setattr(gpu, "without_cuda", lambda: "")
    monkeypatch.setattr(gpu, "CUDA", "cpu")
    monkeypatch.setattr(gpu_backends, "CUDA", "cpu")
    monkeypatch.setattr(gpu_backends, "TRITON", "reference")
    monkeypatch.setattr(gpu, "_batch", lambda run, calls: gpu._time(run).median)
