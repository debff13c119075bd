# SPDX-License-Identifier: Apache-2.0
"""What a pass costs at least: bytes, with every tensor moved once, and multiplications and additions.

Those of operators follow from shapes. Of whole networks the products that plain PyTorch computes are counted in a run,
without its depthwise convolutions: these are FIRs, which need fewer.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import hsr_kernels

from .variants import REFERENCE, Variant
from .workloads import BACKWARD, BOTH, FORWARD, SECOND, Workload

# The places of weight and groups among a convolution's arguments.
_CONVOLUTIONS = {torch.ops.aten.convolution: (1, 8), torch.ops.aten.convolution_backward: (2, 9)}
# Times a forward pass, the products that each pass consists of: where derivatives of both factors are taken, and in
# FIRs. Second order leaves out the passes before it.
_PRODUCTS = {FORWARD: (1, 1), BACKWARD: (2, 1), BOTH: (3, 2), SECOND: (4, 1)}


@dataclass(frozen=True)
class Cost:
    """The fewest bytes that are read and written, and the fewest multiplications and additions."""

    min_bytes: int
    flops: float


def tensor_bytes(values: Iterable[object]) -> int:
    """Bytes of the distinct tensors among values; of an expanded one, those that exist."""
    tensors = {id(t): t for t in values if isinstance(t, torch.Tensor)}.values()
    return sum(min(t.numel() * t.element_size(), t.untyped_storage().nbytes()) for t in tensors)


def cost(work: Workload, phase: str, reread: tuple[str, ...] = ()) -> Cost:
    """Returns the cost of a pass or a step.

    Args:
        work: What runs.
        phase: One of its passes or steps.
        reread: What a backward pass has to read again, as in `Case`.
    """
    if work.is_network:
        return Cost(_network_bytes(work, phase), _counted_flops(Variant(REFERENCE, work).phase(phase)))
    of_products, of_filters = _PRODUCTS[phase]
    return Cost(pass_bytes(work, phase, reread), of_products * work.flops + of_filters * work.filter_flops)


def pass_bytes(work: Workload, phase: str, reread: tuple[str, ...] = ()) -> int:
    """The fewest bytes of a pass of one operator; its output has the size of the cotangent, a gradient its tensor's."""
    tensors = {"inputs": list(work.inputs), "parameters": list(work.parameters), "output": [work.cotangent]}
    forward = tensor_bytes([*work.inputs, *work.parameters]) + tensor_bytes([work.cotangent])
    if phase == FORWARD:
        return forward
    if phase == SECOND:
        # It reads what the gradients are multiplied by. The cotangent's derivative is written, and that of each tensor
        # in which the operator isn't piecewise linear.
        call = work.calls[0]
        named = dict(zip(call.shapes, (*work.inputs, *work.parameters), strict=False))
        written = [named[name] for name in call.nonlinear_tensors() if name in named]
        return tensor_bytes(work.leaves) + tensor_bytes([work.cotangent]) + tensor_bytes(written)
    backward = tensor_bytes([work.cotangent]) + tensor_bytes(work.leaves)
    backward += sum(tensor_bytes(tensors[name]) for name in reread)
    return backward if phase == BACKWARD else forward + backward


def _network_bytes(work: Workload, phase: str) -> int:
    """The fewest bytes of a network: its parameters are read, and by a step of training written."""
    parameters = tensor_bytes(work.parameters)
    return parameters * (2 if phase in work.steps else 1) + tensor_bytes([*work.inputs, work.cotangent])


def _counted_flops(run: Callable[[], object]) -> float:
    with _Products() as products, hsr_kernels.use_backend(REFERENCE):
        run()
    return products.flops


class _Products(TorchDispatchMode):
    """Adds up what PyTorch's formulas say of convolutions and matrix products; its own counter can't see R1."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None and not _is_depthwise(func._overloadpacket, args):
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


def _is_depthwise(operator: Any, args: Any) -> bool:
    if operator not in _CONVOLUTIONS:
        return False
    weight, groups = _CONVOLUTIONS[operator]
    return args[groups] > 1 and args[weight].shape[1] == 1
