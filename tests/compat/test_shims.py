# SPDX-License-Identifier: Apache-2.0
"""What imports find while shims are installed, and afterwards."""

import importlib
import sys
import textwrap

import pytest
import torch

from hsr_kernels.compat import basicsr, mmcv, nvlabs, rosinality, shims

FAMILIES = (nvlabs, rosinality, basicsr, mmcv)


@pytest.fixture(autouse=True)
def imports(monkeypatch, tmp_path):
    """Undoes what a test installs and imports; its folder is where imports look first."""
    before = dict(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for family in FAMILIES:
        family.uninstall()
    for name in sys.modules.keys() - before.keys():
        if name.split(".")[0] in ("torch_utils", "training", "op", "basicsr", "mmcv", "project", "models", "user"):
            del sys.modules[name]


def _write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    importlib.invalidate_caches()


def test_uninstall_leaves_nothing():
    modules, finders = dict(sys.modules), [*sys.meta_path]
    for family in FAMILIES:
        family.install()
        family.install()
    found = {name: importlib.import_module(name) for name in ("torch_utils.ops.bias_act", "op", "models.stylegan2.op")}
    assert found["torch_utils.ops.bias_act"] is nvlabs.bias_act
    assert found["op"].upfirdn2d is found["models.stylegan2.op"].upfirdn2d is rosinality.upfirdn2d
    # The package has the function under the module's name, and the module is importable all the same.
    assert importlib.import_module("op.upfirdn2d").upfirdn2d is rosinality.upfirdn2d
    assert importlib.import_module("basicsr.ops.fused_act").FusedLeakyReLU is basicsr.FusedLeakyReLU
    assert importlib.import_module("basicsr.ops.fused_act.fused_act").FusedLeakyReLU is basicsr.FusedLeakyReLU
    assert importlib.import_module("mmcv.ops").filter2d is mmcv.filter2d
    for family in FAMILIES:
        family.uninstall()
    assert {name for name in sys.modules.keys() - modules.keys() if not name.startswith("hsr_kernels")} == set()
    assert sys.meta_path == finders
    with pytest.raises(ImportError):
        importlib.import_module("torch_utils.ops.bias_act")


def test_a_projects_own_packages_stay_and_its_copies_are_not_read(tmp_path):
    _write(
        tmp_path,
        {
            "torch_utils/__init__.py": "",
            "torch_utils/misc.py": "answer = 42",
            "torch_utils/custom_ops.py": "raise RuntimeError('it compiles')",
            "torch_utils/ops/__init__.py": "",
            "torch_utils/ops/bias_act.py": "raise RuntimeError('it compiles')",
            "torch_utils/ops/own.py": "from . import bias_act, upfirdn2d\nfrom .. import custom_ops, misc",
            "op/__init__.py": "from .fused_act import FusedLeakyReLU\nfrom .upfirdn2d import upfirdn2d\nmore = 1",
            "op/fused_act.py": "raise RuntimeError('it compiles')",
            "op/upfirdn2d.py": "raise RuntimeError('it compiles')",
        },
    )
    nvlabs.install()
    rosinality.install()
    import op
    from torch_utils.ops import own

    assert (own.bias_act, own.upfirdn2d, own.custom_ops) == (nvlabs.bias_act, nvlabs.upfirdn2d, nvlabs.custom_ops)
    assert own.misc.answer == 42
    assert (op.upfirdn2d, op.FusedLeakyReLU, op.more) == (rosinality.upfirdn2d, rosinality.FusedLeakyReLU, 1)


def test_packages_of_other_names():
    nvlabs.install("project.stylegan.torch_utils.ops")
    rosinality.install("project.my_op")
    from project.my_op import fused_leaky_relu
    from project.stylegan.torch_utils import custom_ops
    from project.stylegan.torch_utils.ops.fma import fma

    assert (custom_ops, fma) == (nvlabs.custom_ops, nvlabs.fma.fma)
    assert fused_leaky_relu is rosinality.fused_leaky_relu
    with pytest.raises(ImportError):
        importlib.import_module("torch_utils.ops.fma")
    # Another call takes the place of the first.
    nvlabs.install()
    assert importlib.import_module("torch_utils.ops.fma") is nvlabs.fma
    assert "project.stylegan.torch_utils.ops.fma" not in sys.modules


def test_a_late_install_replaces_what_was_imported_and_says_where(tmp_path):
    _write(
        tmp_path,
        {
            "torch_utils/ops/bias_act.py": "def bias_act(x, b=None): return 'theirs'",
            "user.py": "from torch_utils.ops import bias_act as module\nfrom torch_utils.ops.bias_act import bias_act",
        },
    )
    import user

    theirs = user.module
    with pytest.warns(RuntimeWarning, match="user had taken something from there") as warnings:
        nvlabs.install()
    assert warnings[0].filename == __file__
    assert user.module is nvlabs.bias_act
    assert user.bias_act is nvlabs.bias_act.bias_act
    nvlabs.uninstall()
    assert user.module is theirs
    assert user.bias_act(0) == "theirs"
    assert sys.modules["torch_utils.ops.bias_act"] is theirs


MODULATED = """
    import functools
    import torch
    from torch_utils.ops import conv2d_resample

    def profiled(function):
        def decorator(*args, **kwargs):
            return function(*args, **kwargs)
        decorator.__name__ = function.__name__
        return decorator

    @profiled
    def modulated_conv2d(x, weight, styles, noise=None, up=1, down=1, padding=0, resample_filter=None,
                         demodulate=True, flip_weight=True, fused_modconv=True):
        w = weight[None] * styles[:, None, :, None, None]
        if demodulate:
            w = w * (w.square().sum([2, 3, 4], keepdim=True) + 1e-8).rsqrt()
        n = x.shape[0]
        y = conv2d_resample.conv2d_resample(
            x.reshape(1, -1, *x.shape[2:]), w.flatten(0, 1), resample_filter, up, down, padding, n, flip_weight)
        y = y.reshape(n, -1, *y.shape[2:])
        return y if noise is None else y + noise

    class Layer(torch.nn.Module):
        def forward(self, *arguments):
            return modulated_conv2d(*arguments)
"""


def test_networks_get_the_modulated_convolution_if_theirs_computes_the_same(tmp_path):
    _write(
        tmp_path,
        {
            "training/networks_stylegan2.py": MODULATED,
            "training/networks.py": MODULATED.replace("1e-8", "1e-2"),
            "training/networks_other.py": MODULATED.replace("padding=0", "padding=1"),
            "training/networks_failing.py": MODULATED.replace("y = y.reshape", "y = y.no_such_method"),
            "training/networks_stylegan3.py": """
                def modulated_conv2d(x, w, s, demodulate=True, padding=0, input_gain=None):
                    from hsr_kernels.compat.nvlabs.networks_stylegan3 import modulated_conv2d
                    return modulated_conv2d(x, w, s, demodulate, padding, input_gain)
                """,
            "training/layers.py": MODULATED,
        },
    )
    nvlabs.install()
    replaced = {
        name: importlib.import_module(f"training.{name}").modulated_conv2d.__module__.startswith("hsr_kernels")
        for name in ("networks_stylegan2", "networks_stylegan3", "networks", "networks_other", "networks_failing")
    }
    assert replaced == {
        "networks_stylegan2": True,
        "networks_stylegan3": True,
        "networks": False,
        "networks_other": False,
        "networks_failing": False,
    }
    # A module of another name keeps its own.
    own = importlib.import_module("training.layers").modulated_conv2d
    layer = sys.modules["training.networks_stylegan2"].Layer()
    x, weight, styles, noise = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.randn(2, 3), torch.randn(8, 8)
    torch.testing.assert_close(layer(x, weight, styles, noise, 1, 1, 1), own(x, weight, styles, noise, 1, 1, 1))
    nvlabs.uninstall()
    assert sys.modules["training.networks_stylegan2"].modulated_conv2d.__module__ == "training.networks_stylegan2"


@pytest.mark.parametrize(
    ("version", "is_old"),
    [("1.7.0", True), ("2.0.0rc4", True), ("2.0.0rc5", False), ("2.0.0", False), ("2.2.0", False), (None, False)],
)
def test_versions_of_mmcv(version, is_old):
    mmcv.install(version)
    ops = importlib.import_module("mmcv.ops")
    assert ("pad" in ops.upfirdn2d.__code__.co_varnames) == is_old
    assert hasattr(ops, "bias_act") != is_old
    with pytest.raises(ValueError, match="must be one of MMCV"):
        mmcv.install("two")


def test_mmcv_without_its_extension(tmp_path):
    _write(
        tmp_path,
        {
            "mmcv/__init__.py": "__version__ = '2.1.0'",
            "mmcv/ops/__init__.py": "from ._ext import nothing",
            "models/__init__.py": "from .missing import nothing",
        },
    )
    mmcv.install()
    with pytest.warns(RuntimeWarning, match=r"mmcv\.ops has no more than hsr_kernels' operators"):
        from mmcv.ops import FusedBiasLeakyReLU, upsample2d
    import mmcv as theirs

    assert theirs.__version__ == "2.1.0"
    assert (FusedBiasLeakyReLU, upsample2d) == (mmcv.FusedBiasLeakyReLU, mmcv.upsample2d)
    # A package of the project that fails says so as ever.
    rosinality.install("models.stylegan2.op")
    with pytest.raises(ImportError, match=r"models\.missing"):
        importlib.import_module("models.stylegan2.op")


def test_pickles_find_their_classes(tmp_path):
    _write(tmp_path, {"op/fused_act.py": "import torch\nclass FusedLeakyReLU(torch.nn.Module):\n    pass\n"})
    old = importlib.import_module("op.fused_act").FusedLeakyReLU()
    old.bias, old.negative_slope, old.scale = torch.nn.Parameter(torch.ones(3)), 0.2, 2.0
    torch.save(old, tmp_path / "module.pt")
    for name in ("op", "op.fused_act"):
        del sys.modules[name]
    rosinality.install()
    module = torch.load(tmp_path / "module.pt", weights_only=False)
    assert type(module) is rosinality.FusedLeakyReLU
    assert torch.equal(module(torch.full((1, 3), -2.0)), torch.full((1, 3), -0.4))


def test_nothing_of_a_shim_is_left_after_a_failing_import(tmp_path):
    _write(tmp_path, {"torch_utils/__init__.py": "raise ImportError('of its own')"})
    nvlabs.install()
    with pytest.raises(ImportError, match="of its own"):
        importlib.import_module("torch_utils.ops.own")
    nvlabs.uninstall()
    assert shims._FINDER not in sys.meta_path
