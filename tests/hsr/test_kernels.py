# SPDX-License-Identifier: Apache-2.0
"""What is compiled before training is what its steps launch."""

from contextlib import nullcontext

import pytest
import torch

pytest.importorskip("triton")

import hsr_kernels
from hsr.console import make_console
from hsr.training import kernels
from hsr_kernels._precision import exact_float32
from hsr_kernels.aot import build, record, warm
from tests.launches import recorded_on_real_tensors

from .conftest import SMALL
from .test_parts import trainer_and_batch

SM90 = record.CHIPS["sm_90"]


def test_a_step_launches_what_was_found_before():
    settings = {
        "mixed_precision": "bf16",
        "mixed_precision_resolutions": 1,
        "hsr_precision": "bfloat16",
        "batch_gpu": 4,
    }
    trainer, images, labels = trainer_and_batch(**settings)
    state, dataset = torch.get_rng_state(), kernels._Images(16, (0, 1))
    with exact_float32():
        shapes = trainer.hsr._encoder[0].shapes
        prepared, faults = warm.recorded(kernels.phases(trainer.config, dataset, shapes), SM90)
        assert torch.equal(state, torch.get_rng_state()), "the run's own numbers"
        # All phases are due in the first step.
        with recorded_on_real_tensors(SM90) as launched:
            trainer.step(images, labels)
            with torch.no_grad():
                trainer.G_ema(torch.randn(8, 8), torch.eye(2).repeat(4, 1))
    assert faults == []
    missed = launched.launches.keys() - {launch.key for launch in prepared}
    kinds = {launch.kernel for launch in launched.launches.values()}
    assert {"feature_hidden_kernel", "modulated_conv2d_epilogue_bwd_bwd_kernel", "bias_act_bwd_kernel"} <= kinds
    assert not missed


def test_a_run_compiles_what_is_missing_and_says_so(monkeypatch, tmp_path, capsys):
    def call() -> None:
        hsr_kernels.bias_act(torch.empty(2, 4, 4, 4), torch.empty(4))

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kernels, "phases", lambda *_: [("G main", call), ("D main", lambda: 1 / 0)])
    # In this process, for a GPU that isn't there.
    monkeypatch.setattr(build, "build_all", lambda jobs, processes, work: (work(*job) for job in jobs))
    monkeypatch.setattr(record, "chip_at_hand", lambda: SM90)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(hsr_kernels, "backends", lambda device: {"triton": ""})

    def said(device: str) -> str:
        kernels.prepare(SMALL, None, None, torch.device(device), 1, make_console())
        return " ".join(capsys.readouterr().out.split())

    assert said("cpu") == ""
    assert said("cuda").startswith("Triton: 1 kernels for sm_90: 1 compiled into ")
    fault = "Triton: not prepared: D main: ZeroDivisionError: division by zero"
    assert said("cuda") == fault, "the kernel was there"
    monkeypatch.setattr(hsr_kernels, "backends", lambda device: {"triton": "Triton isn't installed"})
    assert said("cuda") == ""
