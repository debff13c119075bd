# SPDX-License-Identifier: Apache-2.0
"""What scripts do that what is installed refuses works once it is repaired, and what isn't refused stays as it is."""

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hsr_kernels.compat.repairs import REPAIRS, names, other_calls, repair
from hsr_kernels.compat.repairs.syntax import aliases_of, dotted, imports
from tests.compat.projects import write

ROOT = Path(__file__).resolve().parents[2]

# What Python itself has dropped since is hidden where it is still there.
HIDDEN = ("distutils", "imp")
# By the name of a repair: what a script does, and an expression that is true then.
USES = {
    "adam-betas": (
        "import torch",
        "torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], betas=[0, 0.99]).defaults['betas'] == (0.0, 0.99)",
    ),
    "data-sampler": (
        """
        from torch.utils.data import Sampler
        class Infinite(Sampler):
            def __init__(self, dataset):
                super().__init__(dataset)
                self.dataset = dataset
        """,
        "Infinite([1]).dataset == [1]",
    ),
    "prefetch-factor": (
        "from torch.utils.data import DataLoader",
        "list(DataLoader(['a'], num_workers=0, prefetch_factor=2)) == [['a']]",
    ),
    "conv-forward": (
        "import torch\nconv = torch.nn.Conv2d(1, 2, 1)\nx = torch.ones(1, 1, 2, 2)",
        "torch.equal(conv._conv_forward(x, conv.weight), conv(x))",
    ),
    "grid-sampler": (
        """
        import torch
        x, grid = torch.arange(4.0).reshape(1, 1, 2, 2), torch.zeros(1, 1, 1, 2)
        op = torch._C._jit_get_operation("aten::grid_sampler_2d_backward")
        """,
        "op(torch.ones(1, 1, 1, 1), x, grid, 0, 0, False)[0].tolist() == [[[[0.25, 0.25], [0.25, 0.25]]]]"
        " and torch.equal(op[0](torch.ones(1, 1, 1, 1), x, grid, 0, 0, False, [True, True])[1], 0.5 * grid + "
        "torch.tensor([1.0, 2.0]))",
    ),
    "scheduler-verbose": (
        "import torch\noptimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)",
        "torch.optim.lr_scheduler.StepLR(optimizer, 3, verbose=True).step_size == 3",
    ),
    "image-range": (
        "import torch\nfrom torchvision.utils import make_grid",
        "make_grid(torch.zeros(1, 3, 2, 2), normalize=True, range=(-1, 1)).unique().tolist() == [0.5]",
    ),
    "linear-algebra": (
        "import torch\na = torch.tensor([[2.0, 1.0], [0.0, 3.0]])\nsymmetric = a + a.T",
        "torch.allclose(torch.cholesky(symmetric, upper=True).T @ torch.cholesky(symmetric, upper=True), symmetric)"
        " and torch.equal(torch.symeig(symmetric)[0], torch.linalg.eigvalsh(symmetric))"
        " and torch.qr(torch.ones(3, 2), some=False)[0].shape == (3, 3)",
    ),
    "torch-names": ("import torch\ntorch.set_deterministic(True)", "torch.is_deterministic()"),
    "torch-six": ("from torch._six import container_abcs, inf", "isinstance({}, container_abcs.Mapping) and inf > 1"),
    "functional-tensor": (
        "import torch\nfrom torchvision.transforms.functional_tensor import rgb_to_grayscale",
        "rgb_to_grayscale(torch.ones(3, 2, 2)).shape == (1, 2, 2)",
    ),
    "models-utils": (
        "from torchvision.models.utils import load_state_dict_from_url as load",
        "load.__module__ == 'torch.hub'",
    ),
    "pkg-resources": (
        "import pkg_resources\nfrom pkg_resources import parse_version, packaging, resource_filename",
        "parse_version('1.10') > parse_version('1.9') and pkg_resources.get_distribution('torch>=1').version == version"
        " and resource_filename('email.mime', 'text.py').endswith('mime/text.py')",
    ),
    "numpy-names": (
        "import numpy as np",
        "np.float is float and np.Inf > 1 and np.zeros(2, np.float_).dtype == 'f8' and np.trapz([1, 1]) == 1"
        " and issubclass(np.VisibleDeprecationWarning, Warning) and np.asfarray([1]).dtype == 'f8'",
    ),
    "numpy-fromstring": (
        "import numpy as np\na = np.fromstring(b'\\1\\2\\3', np.uint8)\na[0] = 5",
        "a.tolist() == [5, 2, 3] and np.fromstring('1 2', dtype=int, sep=' ').tolist() == [1, 2]",
    ),
    "scipy-windows": ("from scipy.signal import gaussian, kaiser", "gaussian(3, 1)[1] == 1 and len(kaiser(5, 8)) == 5"),
    "scipy-integrate": ("from scipy.integrate import cumtrapz, trapz", "trapz([1, 1]) == 1 == cumtrapz([1, 1])[0]"),
    "sqrtm-disp": (
        "import numpy as np\nfrom scipy.linalg import sqrtm\nroot, error = sqrtm(np.diag([4.0, 9.0]), disp=False)",
        "np.allclose(root, np.diag([2, 3])) and error < 1e-12",
    ),
    "pillow-names": ("from PIL import Image", "Image.ANTIALIAS == Image.LANCZOS and Image.CUBIC == Image.BICUBIC"),
    "collections-abc": ("from collections import Mapping", "isinstance({}, Mapping)"),
    "getargspec": (
        "import inspect",
        "inspect.getargspec(lambda a, *b, c=1, **d: 0) == (['a'], 'b', 'd', None)",
    ),
    "time-clock": ("import time", "time.clock() >= 0"),
    "gcd": ("from fractions import gcd", "gcd(6, 4) == 2"),
    "distutils": (
        "from distutils.version import LooseVersion\nfrom distutils.util import strtobool",
        "LooseVersion('1.10.0') > '1.9' and LooseVersion('2') == LooseVersion('2') and strtobool('Yes') == 1",
    ),
    "imp": ("import imp", "imp.reload.__module__ == 'importlib' and imp.new_module('x').__name__ == 'x'"),
    "local-rank": (
        """
        import argparse, sys
        parser = argparse.ArgumentParser()
        parser.add_argument("--local_rank", type=int)
        sys.argv = ["train.py", "--local-rank=3"]
        """,
        "parser.parse_args().local_rank == 3 and parser.parse_args(['--local-rank', '4']).local_rank == 4",
    ),
    "trust-pickles": (
        """
        import argparse, torch
        torch.save(argparse.Namespace(size=3), "weights.pt")
        """,
        "torch.load('weights.pt').size == 3",
    ),
}
# Runs each of them, and prints what came out as JSON.
USE_ALL = """
    import json
    import sys
    from importlib import metadata
    from hsr_kernels.compat import repairs
    from hsr_kernels.compat.repairs.repair import _provider

    class Hide:
        def find_spec(self, name, path=None, target=None):
            return _provider.find_spec(name, path, target) if name.partition(".")[0] in sys.argv[1:] else None

    for hidden in sys.argv[1:]:
        sys.modules.pop(hidden, None)
    repairs.apply({repair.name for repair in repairs.REPAIRS})
    sys.meta_path.insert(0, Hide())
    results = {}
    with open("uses.json") as uses:
        for name, (statements, expression) in json.load(uses).items():
            namespace = {"version": metadata.version("torch")}
            try:
                exec(statements, namespace)
                results[name] = bool(eval(expression, namespace))
            except Exception as error:
                results[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(results))
"""


@pytest.fixture(autouse=True)
def _no_changes_stay(monkeypatch):
    """Undoes what a test has changed of how modules are imported."""
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setattr(repair._watcher, "changes", {})


def test_every_repair_acts_and_says_so_once(tmp_path):
    write(tmp_path, {"use_all.py": USE_ALL})
    unindented = {name: [ast.unparse(_parsed(statements)), test] for name, (statements, test) in USES.items()}
    (tmp_path / "uses.json").write_text(json.dumps(unindented))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "use_all.py", *HIDDEN]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(USES, True)
    said = [line.split(": ")[1] for line in done.stderr.splitlines() if line.startswith("hsr_kernels.compat: ")]
    assert said == [one.name for one in REPAIRS if one.name in HIDDEN or one.is_refused()]
    assert list(USES) == [one.name for one in REPAIRS]


def _parsed(text):
    lines = text.splitlines()
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return ast.parse("\n".join(line[margin:] for line in lines))


def _found(text):
    """The names of the repairs that a text is about, whatever is installed, with the lines."""
    nodes = [*ast.walk(ast.parse(text))]
    aliases = aliases_of(nodes)
    found = set()
    for node in nodes:
        own = [dotted(node, aliases), *imports(node)]
        for one in REPAIRS:
            if (match := one.match(node, aliases, own)) is not None:
                found.add((one.name, match.lineno))
    return found


@pytest.mark.parametrize("name", USES)
def test_what_is_repaired_is_found_in_a_text(name):
    statements, expression = USES[name]
    text = f"{ast.unparse(_parsed(statements))}\n{expression}"
    if all(one.is_refused() for one in REPAIRS if one.name == name):
        assert {found for found, _ in _found(text)} == {name}


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.optim.Adam(p, betas=[0.0, 0.99])\ntorch.optim.Adam(p, 1, (0.5, 0.9))",
        "import numpy as np\nnp.float32, np.bool_, x.np.float, np.fromstring(s, sep=' ')",
        "import keras\nkeras.callbacks.ReduceLROnPlateau(verbose=1)\nutils.save_image(x, range=(0, 1))",
        "class Sampler: pass\nclass Mine(Sampler):\n    def __init__(self, a):\n        super().__init__(a)",
        "import torch\ntorch.load(f, weights_only=True)\ntorch.load(f, **options)\nload(f)\njson.load(f)",
        "loader(x, num_workers=3, prefetch_factor=2)\nloader(x, num_workers=0, prefetch_factor=None)",
        "conv._conv_forward(x, w, b)\nconv._conv_forward(x, w, bias=None)",
        "parser.add_argument('--local_rank', '--local-rank')",
        "from collections.abc import Mapping\nimport collections.abc\nfrom torchvision.transforms import functional",
    ],
)
def test_what_is_not_refused_is_not_found(text):
    assert _found(text) == set()


def test_lines_are_those_of_the_refused_part():
    text = """
import torch
class Infinite(torch.utils.data.Sampler):
    def __init__(self, dataset):
        super(Infinite, self).__init__(dataset)
options = dict(
    lr=1,
    betas=(0 ** ratio, 0.99 ** ratio),
)
"""
    assert _found(text) == {("data-sampler", 5), ("adam-betas", 6)}


def test_names_that_are_there_stay(monkeypatch):
    module = ModuleType("old_names")
    module.present, module.new, module.__getattr__ = 1, 3, lambda name: getattr(Made, name)
    monkeypatch.setitem(sys.modules, "old_names", module)
    _, is_refused, install = names.names_of("old_names", dict.fromkeys(("present", "made", "absent"), "new"))
    assert is_refused()
    said = []
    install(said.append)
    assert (module.present, module.made, module.absent) == (1, 2, 3)
    assert said == ["old_names.absent, which isn't there any more, is new"]
    with pytest.raises(AttributeError, match="other"):
        _ = module.other
    # Nothing is left to refuse.
    assert not is_refused()


class Made:
    """What a module makes when it is asked for it."""

    made = 2


def test_sqrtm_without_disp_estimates_its_error():
    linalg = ModuleType("linalg")
    linalg.sqrtm, linalg.norm = lambda A: A / 2, np.linalg.norm
    assert other_calls.refuses_disp(linalg)
    other_calls.take_disp(linalg, print)
    matrix = np.diag([4.0, 0.0])
    assert linalg.sqrtm(matrix).tolist() == [[2, 0], [0, 0]]
    assert linalg.sqrtm(3 * matrix, disp=False)[1] == pytest.approx(2)


def test_modules_are_changed_when_they_are_imported(monkeypatch, tmp_path):
    (tmp_path / "late_module.py").write_text("value = 1")
    monkeypatch.syspath_prepend(tmp_path)
    repair.after_import("late_module", lambda module: setattr(module, "value", module.value + 1))
    late = importlib.import_module("late_module")
    monkeypatch.delitem(sys.modules, "late_module")
    assert late.value == 2
    # The loader is the one that it would be without.
    assert "exec_module" not in vars(late.__spec__.loader)
