# SPDX-License-Identifier: Apache-2.0
"""A script under `python -m hsr_kernels.compat run`: as under `python`, but for the operators and the repairs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hsr_kernels.compat import __main__ as compat
from hsr_kernels.compat import run
from hsr_kernels.compat.repairs import REPAIRS
from tests.compat.projects import MMCV_ITSELF, PROJECTS, write

ROOT = Path(__file__).resolve().parents[2]

# Runs the script of every family, each from its own folder, and prints the processes that were started meanwhile.
TRAIN_ALL = """
    import runpy
    import sys

    STARTED = ("subprocess.Popen", "os.fork", "os.forkpty", "os.system", "os.exec", "os.posix_spawn", "os.spawn")
    processes = []

    def note(event, arguments):
        if event in STARTED:
            processes.append((event, str(arguments[:2])))

    def train(families):
        sys.addaudithook(note)
        for family in families:
            sys.path.insert(0, family)
            runpy.run_path(f"{family}/train.py", run_name="__main__")
        print(processes)
"""
START_ALL = """
    import sys
    import train_all

    def worker(rank, family):
        # In a process of its own, whose modules are imported afresh.
        sys.path.insert(0, family)
        from torch_utils.ops import bias_act
        print(bias_act.__name__)

    if __name__ == "__main__":
        train_all.train(sys.argv[1:])
        import subprocess
        import torch

        torch.multiprocessing.spawn(worker, (sys.argv[1],), nprocs=1)
        subprocess.run([sys.executable, "light.py"], check=True)
"""
# A process that imports no more than NumPy.
LIGHT = """
    import sys
    import numpy as np
    print(np.float.__name__, "torch" in sys.modules, "hsr_kernels" in sys.modules)
"""
# The same step with the projects' own copies, in plain PyTorch, and nothing built.
EXPECT_ALL = """
    import sys
    import torch.utils.cpp_extension
    import train_all
    from hsr_kernels.compat import repairs

    torch.utils.cpp_extension.load = lambda *args, **kwargs: None
    repairs.apply({repair.name for repair in repairs.REPAIRS})
    train_all.train(sys.argv[1:])
"""


def _environment(**changes):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HSR_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes}


def test_training_steps_of_all_families_are_those_of_plain_pytorch(tmp_path):
    for family, files in PROJECTS.items():
        write(tmp_path / "all" / family, files)
    scripts = {"train_all.py": TRAIN_ALL, "start_all.py": START_ALL, "expect_all.py": EXPECT_ALL, "light.py": LIGHT}
    folder = write(tmp_path / "all", scripts)
    write(tmp_path / "plain", MMCV_ITSELF)

    def run_here(command, **changes):
        return subprocess.run(command, cwd=folder, env=_environment(**changes), capture_output=True, text=True)

    done = run_here([sys.executable, "-m", "hsr_kernels.compat", "run", "start_all.py", *PROJECTS])
    assert done.returncode == 0, done.stderr
    plain = f"{ROOT}{os.pathsep}{tmp_path / 'plain'}"
    expected = run_here([sys.executable, "expect_all.py", *PROJECTS], PYTHONPATH=plain)
    assert expected.returncode == 0, expected.stderr
    *steps, processes, in_worker, in_light = done.stdout.splitlines()
    assert len(steps) == len(PROJECTS)
    for family, step, plain_step in zip(PROJECTS, steps, expected.stdout.splitlines(), strict=False):
        assert json.loads(step) == pytest.approx(json.loads(plain_step), rel=2e-4), family
    # No compiler, no ninja, nothing.
    assert processes == "[]"
    # Processes that the script starts are prepared, too, and don't import PyTorch if they don't need it.
    assert in_worker == "hsr_kernels.compat.nvlabs.bias_act"
    assert in_light == "float False False"
    first, *acts = [line for line in done.stderr.splitlines() if line.startswith("hsr_kernels.compat: ")]
    assert "torch_utils.ops" in first and "models.stylegan2.op" in first and "mmcv.ops" in first
    # One line for each repair that acted, in each process in which it did.
    named = [line.split(": ")[1] for line in acts]
    assert sorted(named) == ["adam-betas", "data-sampler", "functional-tensor", "numpy-names", "numpy-names"]


@pytest.fixture
def python(monkeypatch, tmp_path):
    """Runs a command line of `python` in a folder of scripts, or what `run` makes of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path / 'machine'}")
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-u", "-m", "hsr_kernels.compat", "run"])

    def run_python(*arguments, is_prepared, options=(), **changes):
        command, environment = [sys.executable, "-u", *arguments], dict(os.environ)
        if is_prepared:
            started = []
            monkeypatch.setattr(run.os, "execve", lambda *given: started.append(given))
            compat.main(["run", *options, *arguments])
            ((_, command, environment),) = started
        return subprocess.run(command, capture_output=True, text=True, env={**environment, **changes})

    return run_python


SCRIPTS = {
    "machine/sitecustomize.py": "import builtins; builtins.machine = 'its own'",
    "package/__init__.py": "",
    "package/inner.py": "import sys; print(sys.argv, sys.path, __name__, __spec__.name, machine); sys.exit('no')",
    "scripts/state.py": """
        import os
        import sys
        import __main__
        print(sys.argv, sys.path, os.getcwd(), __name__, __file__, __spec__, machine, __main__.__dict__ is globals())
        class Local: pass
        sys.exit(3)
    """,
    "scripts/raise.py": "def f():\n    raise ValueError('so')\nf()",
    "scripts/kill.py": "import os\nos.kill(os.getpid(), int(os.sys.argv[1]))",
    "scripts/refused.py": "import numpy as np\nnp.float",
}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        # Options of the script that `run` has, too.
        (["scripts/state.py", "--family", "nothing", "--", "-m", "x", "--list-repairs", "-h", ""], 3),
        (["-m", "package.inner", "--no-repairs"], 1),
        (["-m", "package.none"], 1),
        (["scripts/raise.py"], 1),
        (["scripts/kill.py", str(int(signal.SIGTERM))], -signal.SIGTERM),
        (["scripts/kill.py", str(int(signal.SIGINT))], -signal.SIGINT),
    ],
)
def test_a_script_sees_what_it_sees_under_python(python, tmp_path, arguments, code):
    write(tmp_path, SCRIPTS)
    plain, prepared = (python(*arguments, is_prepared=is_prepared) for is_prepared in (False, True))
    assert plain.returncode == prepared.returncode == code
    assert (plain.stdout, plain.stderr) == (prepared.stdout, prepared.stderr)


def test_repairs_can_be_left_out_and_other_interpreters_are_left_alone(python, tmp_path):
    write(tmp_path, SCRIPTS)
    assert python("scripts/refused.py", is_prepared=True).returncode == 0
    assert python("scripts/refused.py", is_prepared=True, options=["--no-repairs"]).returncode == 1
    other = '{"interpreter": ["3.6", "/usr"]}'
    assert python("scripts/refused.py", is_prepared=True, HSR_KERNELS_COMPAT=other).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["absent.py"], "there is no script absent.py"),
        (["-m", "absent.inner"], "there is no module absent.inner"),
        ([], "give a script or -m and a module to run"),
        (["--family", "stylegan", "absent.py"], "invalid choice: 'stylegan'"),
        (["--unknown", "absent.py"], "unrecognized arguments: --unknown"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(capsys, arguments, sentence):
    with pytest.raises(SystemExit) as stopped:
        compat.main(["run", *arguments])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert sentence in error and error.count("\n") == 1


def test_list_repairs_names_all_of_them(capsys):
    compat.main(["run", "--list-repairs"])
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == [repair.name for repair in REPAIRS]


def test_names_under_which_inner_folders_are_imported(tmp_path):
    write(tmp_path / "third_party" / "stylegan2", PROJECTS["rosinality"])
    write(tmp_path / "stylegan2-ada" / "src", PROJECTS["nvlabs"])
    write(tmp_path, {"op/__init__.py": "", "use.py": "from face.op import FusedLeakyReLU"})
    settings, large = run.settings_for([tmp_path / "stylegan2-ada", tmp_path])
    assert settings.families == {"nvlabs": ["src.torch_utils.ops", "torch_utils.ops"]}
    settings, large = run.settings_for([tmp_path])
    # `op` is something else of this project.
    outer = ["third_party.stylegan2.models.stylegan2.op", "stylegan2.models.stylegan2.op", "models.stylegan2.op"]
    assert settings.families["rosinality"] == [*outer, "stylegan2.op", "face.op"]
    assert settings.families["nvlabs"] == ["src.torch_utils.ops", "torch_utils.ops"]
    assert large == []
    # What is asked for counts, with its usual names where the project has no copy.
    settings, _ = run.settings_for([tmp_path], ["basicsr"], repair=False, trust_pickles=True)
    assert (settings.families, settings.packages, settings.repairs) == (
        {"basicsr": []},
        ["basicsr.ops"],
        ["trust-pickles"],
    )


def test_names_that_a_script_has_for_itself_stay_its_own(tmp_path):
    write(tmp_path / "another", PROJECTS["rosinality"])
    write(tmp_path / "script", {"train.py": "import op", "op.py": "", "models/stylegan2/__init__.py": ""})
    settings, _ = run.settings_for([tmp_path / "script", tmp_path])
    outer = ["another.models.stylegan2.op", "models.stylegan2.op", "stylegan2.op"]
    assert settings.families == {"rosinality": outer}


def test_large_folders_are_read_in_part(tmp_path, monkeypatch):
    write(tmp_path, {f"data/{i}.txt": "" for i in range(50)} | PROJECTS["nvlabs"])
    monkeypatch.setattr(run, "MAX_ENTRIES", 20)
    assert run.settings_for([tmp_path])[1] == [tmp_path]
    monkeypatch.setattr(run, "MAX_ENTRIES", 1000)
    assert run.settings_for([tmp_path])[0].families == {"nvlabs": ["torch_utils.ops"]}


def test_folders_are_the_scripts_and_those_around_it(tmp_path, monkeypatch):
    write(tmp_path, SCRIPTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), "package", "absent"]))
    assert run.folders_of("scripts/state.py", []) == [tmp_path / "scripts", tmp_path / "package", tmp_path]
    launched = run.folders_of("torch.distributed.run", ["--x", "scripts/state.py"], is_module=True)
    assert launched == [tmp_path / "scripts", tmp_path / "package", tmp_path]
    monkeypatch.chdir(tmp_path / "machine")
    monkeypatch.delenv("PYTHONPATH")
    assert run.folders_of("../scripts/state.py", []) == [tmp_path / "scripts"]
