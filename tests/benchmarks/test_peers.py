# SPDX-License-Identifier: Apache-2.0
"""Somebody's own checkout beside ours: miniature ones, some of which are wrong."""

import dataclasses

import pytest

from benchmarks import commands
from benchmarks.cpu.measure import Options
from benchmarks.cpu.report import CpuRow, cells
from benchmarks.cpu.worker import MEASURE, PEER_PACKAGE, Worker
from benchmarks.workloads import BACKWARD, BOTH, FORWARD, SECOND
from tests.compat.projects import NVLABS, ROSINALITY, write
from tests.native import requires_native

pytestmark = requires_native
PHASES = (FORWARD, BACKWARD, SECOND, BOTH)
# As theirs is where the backward pass runs an operator that has no derivative: values and gradients are right.
WITHOUT_SECOND_DERIVATIVES = """
import torch

class BiasAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, b, clamp):
        y = x + b.reshape(1, -1, 1, 1)
        y = torch.where(y < 0, y * 0.2, y) * 2 ** 0.5
        ctx.save_for_backward(y)
        ctx.clamp = clamp
        return y if clamp is None else y.clamp(-clamp, clamp)

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        dx = torch.where(y.detach() < 0, dy.detach() * 0.2, dy.detach()) * 2 ** 0.5
        if ctx.clamp is not None:
            dx = dx * (y.detach().abs() < ctx.clamp)
        return dx, dx.sum([0, 2, 3]), None

def bias_act(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None, impl="cuda"):
    return BiasAct.apply(x, b, clamp)
"""
MMCV_2 = {
    "mmcv/__init__.py": "",
    "mmcv/ops/__init__.py": "from .upfirdn2d import upsample2d",
    "mmcv/ops/upfirdn2d.py": """
        import torch.nn.functional as F

        def upfirdn2d(input, filter, up=1, down=1, padding=0, flip_filter=False, gain=1, use_custom_op=True):
            raise NotImplementedError

        def upsample2d(input, filter, up=2, padding=0, flip_filter=False, gain=1, use_custom_op=True):
            n, c, h, w = input.shape
            y = input.new_zeros(n, c, h * up, w * up)
            y[:, :, ::up, ::up] = input
            f = filter.to(input.dtype).flip(0, 1) * gain * up ** 2
            return F.conv2d(F.pad(y, (2, 1, 2, 1)), f[None, None].repeat(c, 1, 1, 1), groups=c)
    """,
}


@pytest.fixture(scope="module")
def worker():
    with Worker() as found:
        yield found


def measured(worker: Worker, case: str, path, family: str) -> list[CpuRow]:
    options = Options("cpu", 3, tiny=True, compiled=False, peer=str(path), family=family)
    return [CpuRow(**row) for row in worker.ask(MEASURE, case=case, **dataclasses.asdict(options))]


def peers(rows: list[CpuRow]) -> dict[str, tuple[bool, str]]:
    """Of each pass, whether the peer was timed, and its note."""
    return {row.phase: (row.median_ms is not None, row.note) for row in rows if row.variant == "peer"}


@pytest.fixture(scope="module")
def rosinality(tmp_path_factory):
    return write(tmp_path_factory.mktemp("rosinality"), ROSINALITY)


def test_operators_of_a_checkout_are_timed_beside_ours(worker, rosinality):
    for case in ("upsample2d", "downsample2d", "bias_act_unclamped"):
        rows = measured(worker, case, rosinality, "rosinality")
        assert peers(rows) == dict.fromkeys(PHASES, (True, "")), case
        ours = [row for row in rows if row.variant == "cpu"]
        assert all(row.vs_peer is not None and row.peer == f"rosinality: {rosinality.name}" for row in ours)
    lines, notes = cells(rows)
    assert all(line[6].endswith("x") for line in lines) and notes == []


def test_what_a_checkout_lacks_is_said(worker, rosinality):
    for case, why in (
        ("bias_act", "rosinality's fused_leaky_relu has no clamps"),
        ("filtered_lrelu", "rosinality has no filtered_lrelu"),
        ("inference", "peers are timed in single operators"),
    ):
        rows = measured(worker, case, rosinality, "rosinality")
        assert {*peers(rows).values()} == {(False, why)}
        assert not any(row.is_invalid for row in rows)
        assert all(row.median_ms is not None for row in rows if row.variant == "cpu")


def test_a_checkout_without_second_derivatives_has_no_figure(worker, tmp_path_factory):
    files = NVLABS | {"torch_utils/ops/bias_act.py": WITHOUT_SECOND_DERIVATIVES}
    path = write(tmp_path_factory.mktemp("nvlabs"), files)
    rows = measured(worker, "bias_act", path, "nvlabs")
    for timed, note in peers(rows).values():
        assert not timed and note.startswith("wrong: double backward of bias_act on random numbers: ")
    ours = [row for row in rows if row.variant == "cpu"]
    assert len(ours) == len(PHASES) and all(row.median_ms is not None and row.vs_peer is None for row in ours)
    assert any("The peer's" in note and "wrong: double backward" in note for note in cells(rows)[1])
    # The same names from elsewhere would be this checkout's.
    other = write(tmp_path_factory.mktemp("other"), NVLABS)
    with pytest.raises(RuntimeError, match=rf"torch_utils.ops was imported from {path}.*, which isn't in {other}"):
        worker.ask(PEER_PACKAGE, path=str(other), family="nvlabs")


def test_arguments_of_mmcv_2(worker, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("mmcv"), MMCV_2)
    assert peers(measured(worker, "upsample2d", path, "mmcv")) == dict.fromkeys(PHASES, (True, ""))


def test_a_folder_without_operators_ends_in_a_sentence(tmp_path, capsys):
    for options, sentence in (
        (
            {"peer": tmp_path, "family": "nvlabs"},
            f"{tmp_path} has no operators of nvlabs: none of its files defines them",
        ),
        ({"peer": tmp_path, "family": "mmcv"}, f"{tmp_path} has no operators of mmcv"),
        ({"peer": tmp_path / "none", "family": "rosinality"}, "--peer must be a folder, and "),
        ({"peer": tmp_path}, "--peer PATH and --family go together"),
    ):
        with pytest.raises(SystemExit) as stop:
            commands.run(quick=True, **options)
        error = capsys.readouterr().err
        assert stop.value.code == 2 and sentence in error and error.count("\n") == 1


def test_what_cannot_be_imported_ends_in_a_sentence(tmp_path, capsys):
    write(
        tmp_path,
        {"op/__init__.py": "import nowhere", "op/upfirdn2d.py": ROSINALITY["models/stylegan2/op/upfirdn2d.py"]},
    )
    with pytest.raises(SystemExit) as stop:
        commands.run(quick=True, peer=tmp_path, family="rosinality")
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert f"op of {tmp_path} can't be imported: ModuleNotFoundError: No module named 'nowhere'" in error
