# SPDX-License-Identifier: Apache-2.0
"""What `python -m hsr_kernels.compat check` says about a project, and its exit code."""

import inspect
import re
from pathlib import Path

import pytest

from hsr_kernels.compat import __main__ as compat
from hsr_kernels.compat import check, nvlabs, sources
from tests.compat.projects import PROJECTS, write


def _copies(folder):
    report = check.check(folder)
    return {(copy.family, copy.package, str(copy.place.relative_to(folder))) for copy in report.copies}


@pytest.mark.parametrize(
    ("family", "package", "place"),
    [
        ("nvlabs", "torch_utils.ops", "torch_utils/ops"),
        ("rosinality", "models.stylegan2.op", "models/stylegan2/op"),
        ("basicsr", "basicsr.ops", "basicsr/ops"),
        ("mmcv", "mmcv.ops", "mmgen_like/networks.py"),
    ],
)
def test_a_projects_lines_are_repaired_and_its_copies_are_replaced(tmp_path, capsys, family, package, place):
    write(tmp_path, PROJECTS[family])
    assert _copies(tmp_path) == {(family, package, place)}
    # The builds stand in files that aren't read then.
    assert compat.main(["check", str(tmp_path)]) == 1
    *lines, summary = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        rf"{len(PROJECTS[family])} Python files read: 1 family to replace, [1-9] lines? that `run` repairs, "
        "0 lines to change by hand",
        summary,
    )
    assert lines[0].startswith(f"{place}: ")
    assert any(line.startswith("train.py:") and "(adam-betas: " in line for line in lines)


def test_copies_of_other_names_and_with_changes_are_recognised(tmp_path):
    changed = {name.replace("torch_utils/ops", "lib/layers"): text for name, text in PROJECTS["nvlabs"].items()}
    changed["lib/layers/bias_act.py"] = """
        # Ours.
        @torch.jit.ignore
        def bias_act(x, b=None, dim: int = 1, act="linear", *, alpha=None, gain=None, clamp=None) -> "Tensor": ...
    """
    write(tmp_path / "nvlabs", {name: text for name, text in changed.items() if "layers" in name})
    fused = PROJECTS["rosinality"]["models/stylegan2/op/fused_act.py"]
    write(tmp_path / "rosinality", {"nets/native/fused_act.py": fused, "nets/native/__init__.py": ""})
    assert _copies(tmp_path) == {
        ("nvlabs", "nvlabs.lib.layers", "nvlabs/lib/layers"),
        ("rosinality", "rosinality.nets.native", "rosinality/nets/native"),
    }


def test_operators_that_are_imported_from_elsewhere_are_found(tmp_path):
    write(
        tmp_path,
        {
            "a.py": "import mmcv\ny = mmcv.ops.upfirdn2d(x, f, pad=1)\nfrom gfpgan import GFPGANer",
            "b.py": "from mmcv.ops import bias_act, upfirdn2d\nfrom mmcv.ops import DeformConv2d",
            "c.py": "from mmcv.ops import DeformConv2d\nfrom face.op.fused_act import FusedLeakyReLU",
            "d.py": "from own.op import FusedLeakyReLU\nfrom torch_utils.ops import bias_act",
            "own/op.py": "class FusedLeakyReLU: ...",
        },
    )
    report = check.check(tmp_path)
    assert {(copy.family, copy.package, copy.place.name, copy.version) for copy in report.copies} == {
        ("mmcv", "mmcv.ops", "a.py", "1"),
        ("basicsr", "basicsr.ops", "a.py", ""),
        ("rosinality", "face.op", "c.py", ""),
        ("nvlabs", "torch_utils.ops", "d.py", ""),
    }


def test_arguments_that_the_replacement_lacks_are_left_by_hand(tmp_path):
    ours = ", ".join(inspect.signature(nvlabs.bias_act.bias_act).parameters)
    write(tmp_path, {"torch_utils/ops/bias_act.py": f"\ndef bias_act({ours}, slope): ..."})
    report = check.check(tmp_path)
    assert [(p.line, p.what.split(":")[0], p.repair) for p in report.problems] == [(2, "slope", None)]


@pytest.mark.parametrize(
    "files",
    [
        # Functions of the same names with other arguments, in files and folders of the same names.
        {"ops/upfirdn2d.py": "def upfirdn2d(x, f, up, down, pad): ...", "op/fused_act.py": "def fused_act(x): ..."},
        {"ops/bias_act.py": "def bias_act(x, bias, activation): ...", "ops/fma.py": "def fma(a, b, c, d): ..."},
        # Modern code, and code that is prepared for what is missing.
        {
            "train.py": """
                import os
                import numpy as np
                import torch
                from torch.utils.data import DataLoader, Sampler
                try:
                    from torch._six import container_abcs
                except ImportError:
                    import collections.abc as container_abcs
                try:
                    check = torch._assert
                except AttributeError:
                    check = torch.Assert
                JIT = os.getenv("PROJECT_JIT")
                if JIT == "True":
                    torch.utils.cpp_extension.load(name="mine")
                kind = np.float if hasattr(np, "float") else float
                optimizer = torch.optim.Adam(net.parameters(), betas=(0.0, 0.99))
                torch.load("x.pt", weights_only=True)
                fft = torch.rfft if torch.__version__ < "1.8" else torch.fft.rfft2
                torch.npu.is_available()
                torch.ops.mine.double(np.float32(1), torch.utils.data.get_worker_info())
            """,
            "notes.txt": "np.float",
        },
        # Folders that are none of the project's.
        {"venv/pyvenv.cfg": "", "venv/lib/a.py": "import imp", ".git/a.py": "print 1", "build/a.py": "print 1"},
        {},
    ],
)
def test_nothing_is_found_where_there_is_nothing(tmp_path, capsys, files):
    write(tmp_path, files)
    assert compat.main(["check", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_what_run_cannot_repair_is_left_by_hand(tmp_path, capsys):
    write(
        tmp_path,
        {
            "a.py": """
                import torch
                from torch import rfft
                from torch.utils.cpp_extension import load
                rfft(torch.irfft(x, 2), 2)
                load(name="mine")
            """,
            "b.py": "import torch\nweights = torch.load('weights.pt')",
            "old.py": "\nprint 'Python 2'",
            "notebook.ipynb": "{}",
        },
    )
    (tmp_path / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\nx = '\xe9'; import numpy as np; np.float")
    (tmp_path / "broken.py").write_bytes(b"x = '\xe9'")
    (tmp_path / "null.py").write_bytes(b"x = 1\0")
    (tmp_path / "bom.py").write_bytes(b"\xef\xbb\xbfimport numpy as np\r\nnp.Inf\r\n")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "dangling.py").symlink_to("absent.py")
    assert compat.main(["check", str(tmp_path)]) == 2
    *lines, summary = capsys.readouterr().out.splitlines()
    by_hand = {line.split(": ")[0] for line in lines if line.endswith("to be changed by hand")}
    assert by_hand == {"a.py:3", "a.py:5", "a.py:6", "old.py:2", "broken.py:1", "null.py:1"}
    repaired = {line.split(": ")[0] for line in lines} - by_hand
    assert repaired == {"b.py:2", "latin.py:2", "bom.py:2"}
    assert summary.startswith("7 Python files read (1 notebook not): 0 families to replace, 3 lines that `run` repairs")
    # One file is read like a tree.
    assert compat.main(["check", str(tmp_path / "bom.py")]) == 1


def test_a_path_that_is_missing_is_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        compat.main(["check", str(tmp_path / "absent")])
    assert stopped.value.code == 2
    assert re.fullmatch(r"python -m hsr_kernels\.compat: check: there is no \S+absent\n", capsys.readouterr().err)


def test_exit_codes_are_documented(capsys):
    with pytest.raises(SystemExit):
        compat.main(["check", "--help"])
    assert re.search(r"0  nothing.*\n\s+1  `run`.*\n\s+2  something", capsys.readouterr().out)


def test_huge_files_are_data(tmp_path, monkeypatch):
    write(tmp_path, {"data.py": "import imp\n" * 100})
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 100)
    assert check.check(tmp_path).exit_code == 0


def test_a_counter_shows_on_terminals_alone(tmp_path, monkeypatch, capsys):
    files = [Path(str(number)) for number in range(60)]
    monkeypatch.setattr(compat, "MIN_SECONDS_OF_COUNTER", -1)
    assert [*compat._counted(files)] == files
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(compat.sys.stderr, "isatty", lambda: True)
    assert [*compat._counted(files)] == files
    shown = capsys.readouterr().err
    assert "50 files read" in shown and shown.endswith("\r\x1b[K")
