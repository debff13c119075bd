# SPDX-License-Identifier: Apache-2.0
"""The signatures of the projects that the shims stand in for."""

import importlib
import inspect
from math import sqrt

import numpy as np
import pytest
import torch

_FILTERED_LRELU = "x, fu=None, fd=None, b=None, up=1, down=1, padding=0, gain=sqrt(2), slope=0.2, clamp=None, flip_filter=False, impl='cuda'"  # noqa: E501
_CONV = "input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1"
_CONV_TRANSPOSE = "input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1"
_SCALED = "negative_slope=0.2, scale=2 ** 0.5"
_FIR = "flip_filter=False, gain=1"
_BIAS_ACT = "dim=1, act='linear', alpha=None, gain=None, clamp=None"

SIGNATURES = {
    "nvlabs.upfirdn2d.setup_filter": "f, device=torch.device('cpu'), normalize=True, flip_filter=False, gain=1, separable=None",  # noqa: E501
    "nvlabs.upfirdn2d.upfirdn2d": f"x, f, up=1, down=1, padding=0, {_FIR}, impl='cuda'",
    "nvlabs.upfirdn2d.filter2d": f"x, f, padding=0, {_FIR}, impl='cuda'",
    "nvlabs.upfirdn2d.upsample2d": f"x, f, up=2, padding=0, {_FIR}, impl='cuda'",
    "nvlabs.upfirdn2d.downsample2d": f"x, f, down=2, padding=0, {_FIR}, impl='cuda'",
    "nvlabs.bias_act.bias_act": f"x, b=None, {_BIAS_ACT}, impl='cuda'",
    "nvlabs.conv2d_resample.conv2d_resample": "x, w, f=None, up=1, down=1, padding=0, groups=1, flip_weight=True, flip_filter=False",  # noqa: E501
    "nvlabs.conv2d_gradfix.conv2d": _CONV,
    "nvlabs.conv2d_gradfix.conv_transpose2d": _CONV_TRANSPOSE,
    "nvlabs.conv2d_gradfix.no_weight_gradients": "disable=True",
    "nvlabs.grid_sample_gradfix.grid_sample": "input, grid",
    "nvlabs.fma.fma": "a, b, c",
    "nvlabs.filtered_lrelu.filtered_lrelu": _FILTERED_LRELU,
    "nvlabs.custom_ops.get_plugin": "module_name, sources, headers=None, source_dir=None, **build_kwargs",
    "nvlabs.networks.modulated_conv2d": "x, weight, styles, noise=None, up=1, down=1, padding=0, resample_filter=None, demodulate=True, flip_weight=True, fused_modconv=True",  # noqa: E501
    "nvlabs.networks_stylegan3.modulated_conv2d": "x, w, s, demodulate=True, padding=0, input_gain=None",
    "rosinality.upfirdn2d": "input, kernel, up=1, down=1, pad=(0, 0)",
    "rosinality.fused_leaky_relu": f"input, bias=None, {_SCALED}",
    "rosinality.FusedLeakyReLU": f"channel, bias=True, {_SCALED}",
    "rosinality.conv2d_gradfix.conv2d": _CONV,
    "rosinality.conv2d_gradfix.conv_transpose2d": _CONV_TRANSPOSE,
    "rosinality.conv2d_gradfix.no_weight_gradients": "",
    "basicsr.upfirdn2d": "input, kernel, up=1, down=1, pad=(0, 0)",
    "basicsr.fused_leaky_relu": f"input, bias, {_SCALED}",
    "basicsr.FusedLeakyReLU": f"channel, {_SCALED}",
    "mmcv.upfirdn2d_v1.upfirdn2d": "input, kernel, up=1, down=1, pad=(0, 0)",
    "mmcv.upfirdn2d": f"input, filter, up=1, down=1, padding=0, {_FIR}, use_custom_op=True",
    "mmcv.filter2d": f"input, filter, padding=0, {_FIR}, use_custom_op=True",
    "mmcv.upsample2d": f"input, filter, up=2, padding=0, {_FIR}, use_custom_op=True",
    "mmcv.bias_act": f"input, bias=None, {_BIAS_ACT}, use_custom_op=True",
    "mmcv.filtered_lrelu": "input, filter_up=None, filter_down=None, bias=None, up=1, down=1, padding=0, gain=sqrt(2), slope=0.2, clamp=None, flip_filter=False, use_custom_op=True",  # noqa: E501
    "mmcv.fused_bias_leakyrelu": f"input, bias, {_SCALED}",
    "mmcv.FusedBiasLeakyReLU": f"num_channels, {_SCALED}",
    "mmcv.conv2d": _CONV,
    "mmcv.conv_transpose2d": _CONV_TRANSPOSE,
}


def _parameters(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature_is_the_projects_own(name):
    family, *path = name.split(".")
    found = importlib.import_module(f"hsr_kernels.compat.{family}")
    for part in path:
        found = getattr(found, part)
    expected = eval(f"lambda {SIGNATURES[name]}: None", {"torch": torch, "sqrt": sqrt})
    assert _parameters(found) == _parameters(expected)


def test_modules_answer_what_vendored_code_asks_them():
    from hsr_kernels.compat.nvlabs import (
        bias_act,
        conv2d_gradfix,
        custom_ops,
        filtered_lrelu,
        grid_sample_gradfix,
        upfirdn2d,
    )

    for module in (bias_act, filtered_lrelu, upfirdn2d):
        assert module._init() is True
        assert module._inited is True
        assert module._plugin is None
    assert (conv2d_gradfix.enabled, grid_sample_gradfix.enabled, custom_ops.verbosity) == (True, True, "brief")
    assert conv2d_gradfix.weight_gradients_disabled is False
    with conv2d_gradfix.no_weight_gradients():
        assert conv2d_gradfix.weight_gradients_disabled is True
    assert upfirdn2d._parse_padding(np.array([1, 2])) == (1, 1, 2, 2)
    assert upfirdn2d._parse_scaling(2) == (2, 2)
    assert upfirdn2d._get_filter_size(torch.ones(3, 5)) == (5, 3)


def test_activation_funcs_is_the_table_that_networks_read():
    from hsr_kernels.compat.nvlabs.bias_act import activation_funcs

    table = {name: (entry.def_alpha, entry["def_gain"], entry.ref, entry.has_2nd_grad, entry.cuda_idx)
             for name, entry in activation_funcs.items()}  # fmt: skip
    assert table == {
        "linear": (0, 1, "", False, 1),
        "relu": (0, sqrt(2), "y", False, 2),
        "lrelu": (0.2, sqrt(2), "y", False, 3),
        "tanh": (0, 1, "y", True, 4),
        "sigmoid": (0, 1, "y", True, 5),
        "elu": (0, 1, "y", True, 6),
        "selu": (0, 1, "y", True, 7),
        "softplus": (0, 1, "y", True, 8),
        "swish": (0, sqrt(2), "x", True, 9),
    }
    x = torch.tensor([-1.0, 2.0])
    assert torch.equal(activation_funcs["lrelu"].func(x, alpha=0.5), torch.tensor([-0.5, 2.0]))
    assert torch.equal(activation_funcs["relu"].func(x), torch.tensor([0.0, 2.0]))


def test_get_plugin_compiles_nothing():
    from hsr_kernels.compat.nvlabs import custom_ops

    with pytest.raises(RuntimeError, match="'my_plugin' was asked for"):
        custom_ops.get_plugin("my_plugin", ["my.cu"], extra_cuda_cflags=["-O3"])
