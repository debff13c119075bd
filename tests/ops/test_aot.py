# SPDX-License-Identifier: Apache-2.0
"""Ahead-of-time compilation of the Triton kernels: everything is recorded, and every check can fail."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
# The command line needs these two, which a machine with a GPU may lack.
tyro = pytest.importorskip("tyro")
pytest.importorskip("rich")

import hsr_kernels  # noqa: E402
from hsr_kernels import _gpu  # noqa: E402
from hsr_kernels.aot import __main__ as cli  # noqa: E402
from hsr_kernels.aot import build, native, record, report, workload  # noqa: E402
from tests.native import requires_cuda  # noqa: E402

SM90, SM120 = record.CHIPS["sm_90"], record.CHIPS["sm_120"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def recorded():
    return record.record(workload.calls((torch.float16,)), [SM90])[SM90]


@triton.jit
def copy_kernel(x, y, n, SIZE: tl.constexpr):
    offsets = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(y + offsets, tl.load(x + offsets, mask=offsets < n), mask=offsets < n)


@triton.jit
def broken_kernel(x, y, SIZE: tl.constexpr):
    tl.store(y + tl.arange(0, SIZE), tl.load(x + tl.arange(0, 2 * SIZE)))


@triton.jit
def product_kernel(x, y, M: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr):
    row, column = tl.arange(0, M)[:, None], tl.arange(0, K)[None, :]
    a = tl.load(x + row * K + column)
    total = tl.zeros([M, M], tl.float32)
    for _ in range(8):
        total = tl.dot(a, tl.trans(a), total, input_precision=PRECISION)
        a += 1
    tl.store(y + row * M + tl.arange(0, M)[None, :], total)


@triton.autotune([triton.Config({"SIZE": 64}, num_warps=2), triton.Config({"SIZE": 128}, num_stages=5)], key=["n"])
@triton.jit
def tuned_kernel(x, y, n, SIZE: tl.constexpr):
    offsets = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(y + offsets, tl.load(x + offsets, mask=offsets < n), mask=offsets < n)


def launches(kernel, *args, chip=SM90, **options):
    """The records of one launch of a kernel."""
    with record.recording(chip) as found:
        args = [torch.empty(a, dtype=options.pop("dtype", torch.float32)) if isinstance(a, tuple) else a for a in args]
        kernel[1,](*args, **options)
    return list(found.launches.values())


def compiled(kernel, *args, chip=SM90, **options):
    (launch,) = launches(kernel, *args, chip=chip, **options)
    return build.build(launch, chip)


def test_everything_is_recorded(recorded):
    assert record.library_kernels()
    assert record.forgotten([recorded]) == []


def test_kernels_that_nothing_launches_are_reported(recorded):
    kept = {key: launch for key, launch in recorded.launches.items() if launch.kernel != "bias_act_bwd_kernel"}
    incomplete = record.Recording(kept, recorded.operators - {"hsr_kernels::bias_act.triton"})
    assert record.forgotten([incomplete]) == [
        "hsr_kernels.bias_act.triton_impl.bias_act_bwd_kernel",
        "hsr_kernels::bias_act.triton",
    ]


def test_recording_leaves_nothing_behind():
    before = dict(vars(triton.runtime.driver)), dict(vars(tuned_kernel)), torch.cuda.device_of
    assert len(launches(tuned_kernel, (100,), (100,), 100)) == 2
    assert before == (dict(vars(triton.runtime.driver)), dict(vars(tuned_kernel)), torch.cuda.device_of)
    assert triton.knobs.runtime.jit_cache_hook is None
    assert not torch.empty(2).is_cuda
    if not torch.cuda.is_available():
        with hsr_kernels.use_backend("triton"), pytest.raises(RuntimeError, match="can't run bias_act"):
            hsr_kernels.bias_act(torch.zeros(1, 2))


def test_recorded_launches_are_specialised_like_real_ones():
    x = torch.empty(100)
    with record.recording(SM90) as found:
        x = torch.empty(100)
        copy_kernel[1,](x, x[1:], 1, 64, num_warps=8)
        copy_kernel[1,](x, x[4:], 32, 64, num_warps=8)
        copy_kernel[1,](x, x[4:], 2**31, 64, num_warps=8)
    one, aligned, long = found.launches.values()
    assert one.signature == {"x": "*fp32", "y": "*fp32", "n": "constexpr", "SIZE": "constexpr"}
    assert one.constants == {(2,): 1, (3,): 64}
    assert {index for index, values in one.attributes.items() if values} == {(0,)}
    assert {index for index, values in aligned.attributes.items() if values} == {(0,), (1,), (2,)}
    assert (aligned.signature["n"], long.signature["n"]) == ("i32", "i64")
    assert one.options["num_warps"] == 8
    assert one.constexprs == {"SIZE": 64}


def test_each_chip_reports_its_own_capability():
    def call() -> None:
        x = torch.empty(128)
        size = 64 if _gpu.of(x).generation >= 12 else 128
        copy_kernel[1,](x, x, 128, size)

    found = record.record([call], [SM90, SM120])
    for chip, size in ((SM90, 128), (SM120, 64)):
        (launch,) = found[chip].launches.values()
        assert launch.constexprs == {"SIZE": size}
        # All other options are the chip's defaults.
        assert launch.options == {"num_warps": 4, "num_stages": 3}


def test_all_configurations_of_a_tuned_kernel_are_recorded():
    found = launches(tuned_kernel, (100,), (100,), 100)
    assert [(x.constexprs["SIZE"], x.options["num_warps"], x.options["num_stages"]) for x in found] == [
        (64, 2, 3),
        (128, 4, 5),
    ]


def test_sound_kernels_have_no_problems():
    assert compiled(copy_kernel, (100,), (100,), 100, 128).problems == ()
    found = compiled(product_kernel, (64, 64), (64, 64), 64, 64, "ieee", dtype=torch.float16)
    assert (found.problems, found.tensor_core) == ((), "wgmma")
    assert found.registers > 16 and found.shared >= 64 * 64 * 2
    found = compiled(product_kernel, (64, 64), (64, 64), 64, 64, "ieee", chip=SM120)
    assert (found.problems, found.tensor_core) == ((), "none")


@pytest.mark.parametrize(
    "name, lanes, instruction", [("gfx942", 64, "mfma"), ("gfx950", 64, "mfma"), ("gfx1100", 32, "wmma")]
)
def test_kernels_compile_for_chips_of_amd(name, lanes, instruction):
    """With as many threads as elsewhere, in waves of their own size, and without what only NVIDIA's assembler knows."""
    chip = record.CHIPS[name]
    found = compiled(product_kernel, (64, 64), (64, 64), 64, 64, "ieee", chip=chip, dtype=torch.float16)
    assert (found.problems, found.tensor_core, found.spills) == ((), instruction, 0) and found.registers > 16
    # More numbers per thread than there are registers; with many more the compiler takes a minute.
    size = {32: 256, 64: 1024}[lanes] * lanes
    found = compiled(copy_kernel, (size,), (size,), size, size, chip=chip, num_warps=1)
    assert found.spills > 0 and found.problems == (f"spills {found.spills} bytes",)
    with record.recording(chip) as recorded:
        hsr_kernels.bias_act(torch.empty(4, 8, 8, 8), torch.empty(8), act="lrelu")
        images = torch.empty(2, 16, 8, 8).contiguous(memory_format=torch.channels_last)
        hsr_kernels.modulated_conv2d(images, torch.empty(16, 16, 3, 3), torch.empty(2, 16), padding=1)
    options = [dict(launch.options) for launch in recorded.launches.values()]
    assert {"bias_act_kernel", "demodulation_kernel"} <= {launch.kernel for launch in recorded.launches.values()}
    assert all(one["num_warps"] * lanes in (128, 256) and not one.get("maxnreg") for one in options)


def test_long_filters_compile_for_chips_of_amd_in_seconds():
    """Triton's time grows exponentially there with the additions in a chain of pointers: this took two minutes."""
    chip, f = record.CHIPS["gfx942"], hsr_kernels.setup_filter([1.0] * 12)
    with record.recording(chip) as recorded:
        images = torch.empty(2, 64, 8, 8, dtype=torch.float16).contiguous(memory_format=torch.channels_last)
        weight, styles = torch.empty(64, 64, 3, 3, dtype=torch.float16), torch.empty(2, 64, dtype=torch.float16)
        hsr_kernels.modulated_conv2d(images, weight, styles, up=2, padding=1, resample_filter=f)
    (launch,) = (x for x in recorded.launches.values() if x.kernel == "modulated_conv2d_fir_epilogue_kernel")
    built = build.fill_cache(launch, chip)
    assert launch.constexprs["TAPS_Y"] == 12 and built.problems == () and built.seconds < 20


def test_failure_to_compile_is_a_problem():
    (problem,) = compiled(broken_kernel, (100,), (100,), 64).problems
    assert "CompilationError" in problem


def test_spills_are_a_problem():
    found = compiled(copy_kernel, (8192,), (8192,), 8192, 8192, num_warps=1, maxnreg=32)
    assert found.spills > 0
    assert found.problems == (f"spills {found.spills} bytes",)


def test_too_much_shared_memory_is_a_problem():
    found = compiled(product_kernel, (64, 64), (64, 64), 64, 64, "ieee", dtype=torch.float16)
    low = replace(SM90, shared=found.shared - 1)
    (problem,) = build.build(found.launch, low).problems
    assert problem == f"needs {found.shared} bytes of shared memory, sm_90 has {found.shared - 1}"


def test_missing_tensor_core_is_a_problem():
    blocked_dot = "%d = tt.dot %a, %b, %c{} : tensor<16x16x{}, #ttg.dot_op<{{opIdx = 0, parent = #blocked}}>> * more"
    tensor_core_dot = blocked_dot.replace("blocked", "mma")

    def problems_of(ttgir):
        return list(build.problems(build.Build(None, SM90), 0, ttgir))

    for precision, dtype in (("", "f16"), ("", "bf16"), (", inputPrecision = tf32", "f32")):
        (problem,) = problems_of(blocked_dot.format(precision, dtype))
        assert "without a tensor-core instruction" in problem
        assert problems_of(tensor_core_dot.format(precision, dtype)) == []
    assert problems_of(blocked_dot.format("", "f32")) == []


def test_sample_takes_the_largest_tile_of_each_dtype():
    launched = [
        *launches(copy_kernel, (9,), (9,), 9, 64),
        *launches(copy_kernel, (9,), (9,), 9, 256),
        *launches(copy_kernel, (9,), (9,), 9, 128, dtype=torch.float16),
    ]
    assert sorted((x.dtypes, x.constexprs["SIZE"]) for x in report.sampled(launched)) == [
        ("fp16 fp32", 128),
        ("fp32", 256),
    ]


def test_sample_takes_each_precision_of_products(recorded):
    """tf32's tiles are the larger ones: a sample per dtype would never compile those of ieee."""
    launched = [launch for p in ("ieee", "tf32") for m in (16, 64) for launch in launches(
        product_kernel, (m, 16), (m, m), m, 16, p, dtype=torch.float32)]  # fmt: skip
    assert sorted((x.constexprs["PRECISION"], x.constexprs["M"]) for x in report.sampled(launched)) == [
        ("ieee", 64),
        ("tf32", 64),
    ]
    calls = [call for call in workload.calls((torch.float32,)) if "modulated" in repr(call)][:40]
    library = record.record(calls, [SM90])[SM90].launches.values()
    sample = [x for x in report.sampled(library) if x.kernel == "modulated_conv2d_layer_kernel"]
    assert {x.constexprs["PRECISION"] for x in sample} == {"ieee", "tf32"}


def test_some_chips_are_sampled_and_others_compiled_in_full(monkeypatch, tmp_path):
    def recorded(calls, chips):
        launched = [launch for size in (64, 128) for launch in launches(copy_kernel, (9,), (9,), 9, size)]
        return {chip: record.Recording({launch.key: launch for launch in launched}) for chip in chips}

    monkeypatch.setattr(record, "record", recorded)
    monkeypatch.setattr(record, "library_kernels", lambda: {"tests.ops.test_aot.copy_kernel"})
    monkeypatch.setattr(record, "forgotten", lambda recordings: [])
    monkeypatch.setattr(build, "build_all", lambda jobs, _: [build.build(*job) for job in jobs])
    monkeypatch.setattr(native, "builds", lambda *_: [])

    def compiled(**options):
        cli.main(arch="sm_80,sm_90", csv=tmp_path / "x.csv", **options)
        lines = (tmp_path / "x.csv").read_text().splitlines()[1:]
        return sorted((line.split(",")[2], line.split(",")[1].split()[1]) for line in lines)

    assert compiled(sample=True) == [("sm_80", "SIZE=128"), ("sm_90", "SIZE=128")]
    assert compiled(sample=True, full="sm_90") == [
        ("sm_80", "SIZE=128"), ("sm_90", "SIZE=128"), ("sm_90", "SIZE=64"),
    ]  # fmt: skip
    assert len(compiled()) == 4


@pytest.mark.parametrize("is_launched", (True, False))
def test_a_kernel_of_16_bits_is_not_missed_among_those_of_32(is_launched, monkeypatch, capsys):
    (launch,) = launches(copy_kernel, (9,), (9,), 9, 64, dtype=torch.float16)

    def recorded(dtypes, chips):
        launched = {launch.key: launch} if is_launched and torch.float16 in dtypes else {}
        return {chip: record.Recording(launched, set(record.library.triton_operators)) for chip in chips}

    every = tuple(workload.DTYPES.values())
    monkeypatch.setattr(workload, "calls", lambda dtypes=every: dtypes)
    monkeypatch.setattr(record, "record", recorded)
    monkeypatch.setattr(record, "library_kernels", lambda: {f"{launch.module}.copy_kernel"})
    monkeypatch.setattr(native, "builds", lambda *_: [])
    run = partial(cli.main, arch="sm_90", sample=True, dtype="fp32")
    if is_launched:
        return run()
    with pytest.raises(SystemExit):
        run()
    assert "copy_kernel is never launched" in capsys.readouterr().out


@pytest.mark.parametrize("spills, demanded, sentence", (
    (8, "", "copy_kernel (fp32 i32) on sm_90: spills 8 bytes"),
    (0, "sm_80,sm_90", "there are no CUDA kernels for sm_80"),
    (0, "sm_90", ""),
))  # fmt: skip
def test_cuda_kernels_are_checked_for_the_same_problems(spills, demanded, sentence, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(record, "record", lambda calls, chips: {chip: record.Recording({}) for chip in chips})
    monkeypatch.setattr(record, "forgotten", lambda recordings: [])
    one = native.CudaBuild("copy_kernel", "fp32 i32", "sm_90", 40, spills, 0)
    monkeypatch.setattr(native, "builds", lambda *_: [one])
    run = partial(cli.main, arch="sm_90,sm_120", csv=tmp_path / "x.csv", cuda=demanded)
    if not sentence:
        return run()
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 1
    assert sentence in capsys.readouterr().out
    assert f"copy_kernel,fp32 i32,sm_90,40,{spills},0,none" in (tmp_path / "x.csv").read_text()


@requires_cuda
def test_cuda_kernels_are_read_from_the_extension():
    chips = list(record.CHIPS)
    found = list(native.builds(chips))
    assert {
        "bias_act_kernel",
        "upfirdn2d_planes_kernel",
        "modulated_conv2d_epilogue_kernel",
        "demodulation_kernel",
    } <= {b.kernel for b in found}
    for b in found:
        assert b.arch in chips and 16 <= b.registers <= 255 and b.spills == 0 and b.shared <= 48 << 10
    assert "fp16 i32" in {b.configuration for b in native.builds(chips, "bias_act_bwd_kernel")}


def test_a_problem_gives_exit_status_1(monkeypatch, capsys, tmp_path):
    def only_broken(calls, chips):
        (launch,) = launches(broken_kernel, (100,), (100,), 64)
        return {chip: record.Recording({launch.key: launch}) for chip in chips}

    monkeypatch.setattr(record, "record", only_broken)
    monkeypatch.setattr(record, "library_kernels", lambda: {"tests.ops.test_aot.broken_kernel"})
    monkeypatch.setattr(build, "build_all", lambda jobs, _: [build.build(*job) for job in jobs])
    with pytest.raises(SystemExit) as stop:
        cli.main(arch="sm_90", kernel="broken", csv=tmp_path / "x.csv")
    assert stop.value.code == 1
    assert "CompilationError" in capsys.readouterr().out
    assert "CompilationError" in (tmp_path / "x.csv").read_text()


def test_command_line(recorded, monkeypatch, capsys, tmp_path):
    path = tmp_path / "aot.csv"
    monkeypatch.setattr(record, "record", lambda calls, chips: dict.fromkeys(chips, recorded))
    options = ["--arch", "sm_90", "--kernel", "bias_act_bwd_bwd", "--sample", "--dtype", "fp16", "--csv", str(path)]
    monkeypatch.setattr(sys, "argv", ["python -m hsr_kernels.aot", *options])
    tyro.cli(cli.main)
    assert "no problems" in capsys.readouterr().out
    header, *lines = path.read_text().splitlines()
    assert header == "kernel,configuration,arch,registers,spills,shared,tensor_core,signature,attributes,problems"
    # Lines of Triton kernels have a signature; the others are of CUDA kernels.
    triton = [line for line in lines if "{" in line]
    assert [line.split(",")[1].split()[0] for line in triton] == ["fp16"]
    assert all(line.split(",")[4] == "0" and int(line.split(",")[3]) > 16 for line in lines)


def some_work():
    """Names and calls, as --workload takes them."""
    yield "two kernels", lambda: copy_kernel[1,](torch.empty(64), torch.empty(64), 64, 64)
    yield "a fault", lambda: 1 / 0


def test_the_cache_is_filled_from_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(build, "build_all", lambda jobs, processes, work: [work(*job) for job in jobs])
    for kernel, sentence in (("copy", "1 kernels for sm_90: 1 compiled into "), ("copy", "all were in"), ("no", "0 ")):
        with pytest.raises(SystemExit) as stop:
            cli.main(warm=True, arch="sm_90", kernel=kernel, workload=f"{__name__}:some_work")
        assert stop.value.code == 1
        out = " ".join(capsys.readouterr().out.split())
        assert sentence in out and out.endswith("a fault: ZeroDivisionError: division by zero (sm_90)")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        cli.main(warm=True)
    assert stop.value.code == 2 and "there is no GPU here" in capsys.readouterr().err


def test_bad_arguments_give_one_sentence(capsys, monkeypatch):
    for options, sentence in (
        ({"arch": "sm_90,sm_1"}, "--arch must be a comma-separated list out of sm_80, sm_86,"),
        ({"arch": ","}, "got ','"),
        ({"warm": True, "arch": "sm_1"}, "--arch must be a comma-separated list out of sm_80, sm_86,"),
        (
            {"warm": True, "arch": "sm_90", "workload": "json:nothing"},
            "must name functions as MODULE:FUNCTION, got 'json",
        ),
        ({"arch": "sm_90", "full": "sm_80"}, "--full must be a comma-separated list out of sm_90, got 'sm_80'"),
        ({"dtype": "fp64"}, "--dtype must be a comma-separated list out of fp32, fp16, bf16, got 'fp64'"),
        ({"kernel": "nonsense"}, "no kernel is called 'nonsense'; there are "),
        ({"csv": Path("/nowhere/x.csv")}, "--csv must be a file in an existing folder, got /nowhere/x.csv"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(**options)
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1
    monkeypatch.setattr(cli, "triton_interprets", lambda: True)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
