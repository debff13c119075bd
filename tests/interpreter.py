# SPDX-License-Identifier: Apache-2.0
"""What the tests change in Triton's interpreter: bfloat16 as on a GPU, and a third of the time."""

import dataclasses
import functools
from types import SimpleNamespace

import numpy as np
import torch
from triton.runtime import interpreter

_tl = interpreter.tl


def mend() -> None:
    """Changes the interpreter of this process. Once is enough."""
    _round_bfloat16()
    _look_up_once()
    _skip_idle_checks()


def _round_bfloat16() -> None:
    """The interpreter keeps bfloat16 as integers: it cuts float32 off to it, and multiplies the integers.

    A GPU rounds to nearest, ties to even, and multiplies the numbers, and so does this.
    """
    builder = interpreter.InterpreterBuilder
    convert, dot = interpreter._convert_float, builder.create_dot

    def rounding(values, source, target, mode):
        if source == _tl.float32 and target == _tl.bfloat16:
            floats = torch.from_numpy(np.ascontiguousarray(values).view(np.float32))
            return floats.bfloat16().view(torch.int16).numpy().view(np.uint16).reshape(values.shape)
        return convert(values, source, target, mode)

    def widened(operand):
        if operand.dtype.scalar != _tl.bfloat16:
            return operand
        bits = np.ascontiguousarray(operand.data).view(np.uint16).astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), _tl.float32)

    def multiplying(self, a, b, *rest):
        return dot(self, widened(a), widened(b), *rest)

    interpreter._convert_float, builder.create_dot = rounding, multiplying


def _look_up_once() -> None:
    """The interpreter exchanges `triton.language` for its own at each launch, and again at each call in a kernel.

    Once a launch will do, if it exchanges everything that a function called in the kernel may look up.
    """
    patch_language = interpreter._patch_lang
    everything = SimpleNamespace(__globals__={"tl": _tl, "core": _tl.core})
    interpreter._patch_lang = lambda fn: patch_language(everything)
    interpreter.InterpretedFunction.__call__ = lambda self, *args, **kwargs: self.rewrite()(*args, **kwargs)

    dtype_of = interpreter._get_np_dtype
    of_number = functools.cache(dtype_of)  # a pointer's type has no hash, nor has a block's
    interpreter._get_np_dtype = lambda type: dtype_of(type) if type.scalar.is_ptr() else of_number(type.scalar)


def _skip_idle_checks() -> None:
    """Whether integers overflow is computed at each operation, and then ignored outside of Triton's debug mode."""
    builder = interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=builder.options.debug)
