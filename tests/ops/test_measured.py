# SPDX-License-Identifier: Apache-2.0
"""Which of a GPU's two backends runs: as measured, on a machine whose GPU is pretended."""

import pytest
import torch

import hsr_kernels as hk
from hsr_kernels import _backends, _measured, _native

TABLE = """chip,op,dtype,layout,elements,cuda_us,triton_us
9.0,bias_act,float32,contiguous,1024,8.0,30.0
9.0,bias_act,float32,contiguous,67108864,140.0,120.0
9.0,bias_act,float16,channels_last,1024,8.0,8.0
8.0,bias_act,float32,contiguous,1024,30.0,8.0
"""


class OnGpu:
    """What choosing looks at of a tensor."""

    def __init__(self, *shape: int, dtype: torch.dtype = torch.float32, last: bool = False) -> None:
        self._shape = shape
        self.device, self.dtype, self.ndim, self._last = torch.device("cuda", 0), dtype, len(shape), last

    def numel(self) -> int:
        return int(torch.Size(self._shape).numel())

    def is_contiguous(self) -> bool:
        return not self._last

    def stride(self, _: int) -> int:
        return 1 if self._last else 7


@pytest.fixture
def hopper(monkeypatch, tmp_path):
    """A machine with a Hopper card, on which both backends can run, and measurements of it."""
    table = tmp_path / "measured.csv"
    table.write_text(TABLE)
    monkeypatch.setenv(_measured.ENVIRONMENT, str(table))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: (9, 0))
    monkeypatch.setattr(_native, "missing", lambda name: "")
    monkeypatch.setattr(_backends, "_unsuitable", lambda native, device: "")
    monkeypatch.setattr(_backends, "_choices", {})
    _backends._order.cache_clear()
    yield table
    _backends._order.cache_clear()


SMALL, LARGE = OnGpu(1, 4, 16, 16), OnGpu(16, 256, 128, 128)


def chosen(x: OnGpu, op: str = "bias_act") -> str:
    backend = _backends._operators[op].choose(x)
    assert backend == _backends.gpu_backend(_backends._operators[op].folder, x), "operators must run as was said"
    return backend


def test_the_faster_one_is_taken_at_each_size(hopper):
    assert (chosen(SMALL), chosen(LARGE)) == ("cuda", "triton")


def test_cuda_is_taken_where_both_are_as_fast(hopper):
    assert chosen(OnGpu(1, 4, 16, 16, dtype=torch.float16, last=True)) == "cuda"


@pytest.mark.parametrize(
    "x", (OnGpu(1, 4, 16, 16, last=True), OnGpu(4, 64, 64, 64), OnGpu(1, 4, 16, 16, dtype=torch.half))
)
def test_cuda_is_taken_where_nothing_alike_was_measured(hopper, x):
    assert chosen(x) == "cuda"
    assert chosen(SMALL, "upfirdn2d") == chosen(SMALL, "conv2d_resample") == "cuda"


def test_no_other_chip_speaks_for_this_one(hopper, monkeypatch):
    assert chosen(LARGE) == "triton"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: (10, 0))
    monkeypatch.setattr(_backends, "_choices", {})
    _backends._order.cache_clear()
    assert chosen(LARGE) == "cuda"


@pytest.mark.parametrize("wanted", ("cuda", "triton"))
def test_a_request_outranks_measurements(hopper, wanted):
    with hk.use_backend(wanted):
        assert chosen(SMALL) == chosen(LARGE) == wanted


@pytest.mark.parametrize("absent, left", (("_cuda", "triton"), ("triton", "cuda")))
def test_the_other_one_runs_where_one_cannot(hopper, monkeypatch, absent, left):
    monkeypatch.setattr(_native, "missing", lambda name: "it isn't there" if name == absent else "")
    assert chosen(SMALL) == chosen(LARGE) == left


def test_explain_tells_the_measurement(hopper):
    text = str(hk.explain("bias_act", SMALL))
    assert "cuda: chosen: the fastest that can run (measured for 1024 elements: cuda 8.0 µs, triton 30.0 µs)" in text
    for op, x, why in (("upfirdn2d", SMALL, "on this chip"), ("bias_act", OnGpu(4, 64, 64, 64), "of about this size")):
        explanation = hk.explain(op, x)
        assert explanation.backend == "cuda"
        assert "not measured" in explanation.reasons["cuda"] and why in explanation.reasons["cuda"]


def test_the_loss_has_no_cuda_kernels_and_says_so(hopper):
    explanation = hk.explain("feature_projection_loss", SMALL)
    assert explanation.backend == "triton" and "feature_projection_loss has no cuda impl" in explanation.reasons["cuda"]


@pytest.mark.parametrize(
    "text, sentence",
    (
        ("chip,op\n", "must begin with the columns chip,op,dtype,layout,elements,cuda_us,triton_us"),
        (TABLE + "9.0,bias_act,float32,contiguous,many,1,2\n", "line 6: invalid literal"),
        (TABLE + "9.0,bias_act,float32\n", "line 6"),
    ),
)
def test_what_is_no_table_is_refused(tmp_path, text, sentence):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        _measured.read(str(path))


def test_tables_are_read_as_they_were_written(tmp_path):
    one = _measured.Measurement("9.0", "upfirdn2d", "bfloat16", "channels_last", 4096, 7.5, 21.0)
    _measured.write(tmp_path / "table.csv", [one])
    assert _measured.read(str(tmp_path / "table.csv")) == (one,)


def test_the_table_that_is_shipped_can_be_read():
    _measured.read(str(_measured._TABLE))
