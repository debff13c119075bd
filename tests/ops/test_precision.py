# SPDX-License-Identifier: Apache-2.0
"""How PyTorch's settings for float32 are read and changed, however users have set them."""

import pytest
import torch

from hsr_kernels._precision import convolutions_use_tf32, exact_float32, tf32_on_gpus
from hsr_kernels.modulated_conv2d.routes import products

BACKENDS = torch.backends
# What users do, and whether float32 convolutions on a GPU then use tf32.
SETTINGS = {
    "nothing": ("", True),
    "old, off": ("cudnn.allow_tf32 = False", False),
    "old, products on": ("cuda.matmul.allow_tf32 = True", True),
    "old, high": ("cudnn.allow_tf32 = False; torch.set_float32_matmul_precision('high')", False),
    "old, medium": ("torch.set_float32_matmul_precision('medium')", True),
    "new, all tf32": ("fp32_precision = 'tf32'", True),
    "new, all ieee": ("fp32_precision = 'ieee'", True),
    "new, all unset": ("cudnn.conv.fp32_precision = 'none'", False),
    "new, of a backend": ("cudnn.conv.fp32_precision = 'none'; cudnn.fp32_precision = 'tf32'", True),
    "new, of convolutions": ("cudnn.conv.fp32_precision = 'ieee'", False),
    "new, of products": ("cuda.matmul.fp32_precision = 'tf32'; mkldnn.matmul.fp32_precision = 'bf16'", True),
    "old off, new on": ("cudnn.allow_tf32 = False; fp32_precision = 'tf32'", True),
    "old on, new off": ("cudnn.allow_tf32 = True; cudnn.conv.fp32_precision = 'ieee'", False),
    "new off, old high": ("cuda.matmul.fp32_precision = 'ieee'; torch.set_float32_matmul_precision('high')", True),
    "old high, new off": ("torch.set_float32_matmul_precision('high'); cuda.matmul.fp32_precision = 'ieee'", True),
    "on the CPU": ("mkldnn.conv.fp32_precision = 'bf16'; mkldnn.rnn.fp32_precision = 'tf32'", True),
    "on the CPU, all": ("mkldnn.set_flags(_fp32_precision='bf16')", True),
}
KINDS = [("generic", "all"), *((b, op) for b in ("cuda", "mkldnn") for op in ("all", "conv", "rnn", "matmul"))]


def apply(settings: str) -> None:
    """Resets all settings to those of a fresh process, then executes the user's."""
    BACKENDS.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")
    for kind in KINDS:
        torch._C._set_fp32_precision_setter(*kind, "tf32" if kind in (("cuda", "conv"), ("cuda", "rnn")) else "none")
    for statement in filter(None, settings.split("; ")):
        exec(statement if statement.startswith("torch.") else f"torch.backends.{statement}")


def effective_settings() -> list[str]:
    """The effective setting of each kind of operation, and what the older getters return, be it an error."""
    found = [torch._C._get_fp32_precision_getter(*kind) for kind in KINDS]
    for get in (
        lambda: BACKENDS.cudnn.allow_tf32, lambda: BACKENDS.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision,
    ):  # fmt: skip
        try:
            found.append(str(get()))
        except RuntimeError:
            found.append("an error")
    return found


def all_settings() -> list[list[str]]:
    """The effective settings, and those after each outer or older setting was changed."""
    found = [effective_settings()]
    for kind in KINDS:
        torch._C._set_fp32_precision_setter(*kind, "none")
        found.append(effective_settings())
    BACKENDS.cudnn.conv.fp32_precision = BACKENDS.cudnn.rnn.fp32_precision = "tf32"
    return [*found, effective_settings()]


@pytest.fixture(autouse=True)
def _restored_settings():
    with exact_float32():
        yield


@pytest.mark.parametrize("settings, tf32", SETTINGS.values(), ids=SETTINGS)
def test_convolutions_use_tf32_where_settings_allow_it(settings, tf32):
    apply(settings)
    assert convolutions_use_tf32() == tf32
    assert products(torch.float32) == ("tf32" if tf32 else "ieee")


@pytest.mark.parametrize("settings, tf32", SETTINGS.values(), ids=SETTINGS)
def test_exact_float32_restores_every_setting(settings, tf32):
    apply(settings)
    expected = all_settings()
    apply(settings)
    with pytest.raises(ZeroDivisionError), exact_float32():
        assert effective_settings() == ["ieee"] * len(KINDS) + ["False", "False", "highest"]
        with exact_float32():
            pass
        assert effective_settings() == ["ieee"] * len(KINDS) + ["False", "False", "highest"]
        raise ZeroDivisionError
    assert all_settings() == expected


@pytest.mark.parametrize("settings", [settings for settings, _ in SETTINGS.values()], ids=SETTINGS)
def test_tf32_is_for_gpus_and_restores_every_setting(settings):
    tf32 = [*("tf32" if backend == "cuda" else "ieee" for backend, _ in KINDS), "True", "True", "high"]
    apply(settings)
    expected = all_settings()
    apply(settings)
    with tf32_on_gpus():
        assert effective_settings() == tf32
        with exact_float32():
            assert effective_settings() == ["ieee"] * len(KINDS) + ["False", "False", "highest"]
        assert effective_settings() == tf32
    assert all_settings() == expected


def test_exact_float32_keeps_products_on_the_cpu_exact():
    """Processors that don't multiply bfloat16 never differ."""
    torch.manual_seed(0)
    a, x, w = torch.randn(64, 256), torch.randn(2, 64, 16, 16), torch.randn(64, 64, 3, 3)

    def results() -> list[torch.Tensor]:
        return [a @ a.t(), torch.nn.functional.conv2d(x, w)]

    apply("")
    exact = results()
    apply("mkldnn.set_flags(_fp32_precision='bf16'); torch.set_float32_matmul_precision('medium')")
    rounded = results()
    with exact_float32():
        assert all(torch.equal(found, right) for found, right in zip(results(), exact, strict=True))
    # Reading and restoring lets the rounding return.
    assert all(torch.equal(found, before) for found, before in zip(results(), rounded, strict=True))
