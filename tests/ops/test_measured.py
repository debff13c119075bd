# SPDX-License-Identifier: Apache-2.0
"""The table of measurements, and the backend of a GPU that follows from it, on a machine with a simulated GPU."""

import pytest
import torch

import hsr_kernels as hk
from hsr_kernels._dispatch import measured, native, operators
from hsr_kernels._dispatch.measured import HEADER, Measurement, Problem

TABLE = f"""{",".join(HEADER)}
8.0,bias_act,forward and backward,float32,contiguous,1024,cuda=30.0 triton=8.0
9.0,bias_act,forward and backward,float32,contiguous,1024,cuda=8.0 triton=30.0
9.0,bias_act,forward and backward,float32,contiguous,67108864,cuda=140.0 triton=120.0
9.0,bias_act,forward and backward,float16,channels_last,1024,cuda=8.0 triton=8.0
"""


class OnGpu:
    """The properties of a tensor on a GPU that a choice depends on."""

    def __init__(self, *shape: int, dtype: torch.dtype = torch.float32, channels_last: bool = False) -> None:
        self._shape = shape
        self._channels_last = channels_last
        self.device, self.dtype, self.ndim = torch.device("cuda", 0), dtype, len(shape)

    def numel(self) -> int:
        return int(torch.Size(self._shape).numel())

    def is_contiguous(self) -> bool:
        return not self._channels_last

    def stride(self, _: int) -> int:
        return 1 if self._channels_last else 7


@pytest.fixture
def hopper(monkeypatch, tmp_path):
    """A machine with a Hopper card, on which both backends can run, and measurements of it."""
    table = tmp_path / "measured.csv"
    table.write_text(TABLE)
    monkeypatch.setenv("HSR_KERNELS_MEASURED", str(table))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: (9, 0))
    monkeypatch.setattr(native, "missing", lambda name: "")
    monkeypatch.setattr(native, "unsuitable", lambda name, device: "")
    hk.reset_choices()


SMALL, LARGE = OnGpu(1, 4, 16, 16), OnGpu(16, 256, 128, 128)


def chosen(x: OnGpu, op: str = "bias_act") -> str:
    return operators.operators[op].choose(x).backend


def test_the_faster_backend_is_chosen_at_each_size(hopper):
    assert (chosen(SMALL), chosen(LARGE)) == ("cuda", "triton")


def test_cuda_is_chosen_where_both_are_equally_fast(hopper):
    assert chosen(OnGpu(1, 4, 16, 16, dtype=torch.float16, channels_last=True)) == "cuda"


@pytest.mark.parametrize(
    "x", (OnGpu(1, 4, 16, 16, channels_last=True), OnGpu(4, 64, 64, 64), OnGpu(1, 4, 16, 16, dtype=torch.half))
)
def test_cuda_is_chosen_where_nothing_similar_was_measured(hopper, x):
    assert chosen(x) == "cuda"
    assert chosen(SMALL, "upfirdn2d") == chosen(SMALL, "conv2d_resample") == "cuda"


def test_what_is_one_kernel_on_one_backend_runs_there(hopper):
    f = hk.setup_filter([1, 3, 3, 1], separable=True)
    half = OnGpu(4, 64, 64, 64, dtype=torch.float16)
    explanation = hk.explain("filtered_lrelu", half, f, f)
    assert explanation.backend == "triton"
    assert explanation.reasons["triton"].startswith(
        "chosen: the default (not measured; it has one kernel for this call"
    )
    assert hk.explain("filtered_lrelu", OnGpu(4, 64, 64, 64), f, f).backend == "cuda"
    with hk.use_backend("cuda"):
        assert hk.explain("filtered_lrelu", half, f, f).backend == "cuda"


def test_measurements_of_other_chips_are_ignored(hopper, monkeypatch):
    assert chosen(LARGE) == "triton"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: (10, 0))
    hk.reset_choices()
    assert chosen(LARGE) == "cuda"


@pytest.mark.parametrize("wanted", ("cuda", "triton"))
def test_a_request_overrides_measurements(hopper, wanted):
    with hk.use_backend(wanted):
        assert chosen(SMALL) == chosen(LARGE) == wanted


@pytest.mark.parametrize("absent, left", (("_cuda", "triton"), ("triton", "cuda")))
def test_the_other_backend_runs_where_one_cannot(hopper, monkeypatch, absent, left):
    monkeypatch.setattr(native, "missing", lambda name: "it isn't there" if name == absent else "")
    assert chosen(SMALL) == chosen(LARGE) == left


def test_explain_reports_the_measurement(hopper):
    text = str(hk.explain("bias_act", SMALL))
    assert "cuda: chosen: the fastest that can run (measured for 1024 elements: cuda 8.0 µs, triton 30.0 µs)" in text
    for op, x, why in (("upfirdn2d", SMALL, "on this chip"), ("bias_act", OnGpu(4, 64, 64, 64), "of about this size")):
        explanation = hk.explain(op, x)
        assert explanation.backend == "cuda"
        assert "not measured" in explanation.reasons["cuda"] and why in explanation.reasons["cuda"]
        assert explanation.reasons["triton"] == "it could run, but cuda is the default"


def test_explain_says_that_the_loss_has_no_cuda_kernels(hopper):
    explanation = hk.explain("feature_projection_loss", SMALL)
    assert explanation.backend == "triton" and "feature_projection_loss has no cuda impl" in explanation.reasons["cuda"]


def test_explain_names_pytorchs_own_kernels(hopper):
    for op in ("conv2d", "conv_transpose2d", "grid_sample"):
        explanation = hk.explain(op, SMALL)
        assert f"{op} on cuda:0 float32 runs PyTorch's own kernels" in str(explanation)
        assert explanation.reasons["triton"] == "it would run the same kernels, PyTorch's own"
        assert "measured" not in str(explanation)


def test_the_table_is_kept_until_choices_are_reset(hopper, tmp_path, monkeypatch):
    assert chosen(LARGE) == "triton"
    other = tmp_path / "other.csv"
    other.write_text(f"{','.join(HEADER)}\n")
    monkeypatch.setenv("HSR_KERNELS_MEASURED", str(other))
    assert chosen(LARGE) == "triton"
    hk.reset_choices()
    assert chosen(LARGE) == "cuda"


@pytest.mark.parametrize(
    "text, sentence",
    (
        ("chip,op\n", "must begin with the columns chip,op,pass,dtype,layout,size,candidates"),
        (TABLE + "9.0,bias_act,forward,float32,contiguous,many,cuda=1\n", "line 6: invalid literal"),
        (TABLE + "9.0,bias_act,forward,float32,contiguous,12,cuda=fast\n", "line 6: could not convert"),
        (TABLE + "9.0,bias_act,forward,float32,contiguous,12,cuda\n", "line 6: "),
        (TABLE + "9.0,bias_act,float32\n", "line 6"),
    ),
)
def test_malformed_tables_are_refused(tmp_path, text, sentence):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        measured.read(str(path))


def test_written_tables_are_read_back_unchanged(tmp_path):
    one = Measurement(
        "9.0", Problem("upfirdn2d", "forward and backward", "bfloat16", "channels_last", (4096,)), {"cuda": 7.5}
    )
    layer = Problem("modulated_conv2d", "forward 3x3", "tf32", "channels_last", (8, 4, 16))
    other = Measurement("12.0", layer, {"convolution": 3.0, "fused": 2.0})
    measured.write(tmp_path / "table.csv", [one, other])
    assert measured.read(str(tmp_path / "table.csv")) == (one, other)


def test_the_shipped_table_can_be_read():
    for m in measured.read(str(measured._TABLE)):
        assert len(m.microseconds) > 1 and min(m.microseconds.values()) > 0
