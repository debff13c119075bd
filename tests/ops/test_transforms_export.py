# SPDX-License-Identifier: Apache-2.0
"""Programs of torch.export and ONNX files of modules that call the operators: they hold PyTorch's operators alone."""

from collections.abc import Callable

import pytest
import torch

import hsr_kernels as hk
from tests.native import requires_native
from tests.ops.test_transforms import F4, OPERATORS, close

pytestmark = pytest.mark.filterwarnings("ignore:.*slow reference")


class _Module(torch.nn.Module):
    """Calls a function on images; its parameter makes it a module as it is trained."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function
        self.weight = torch.nn.Parameter(torch.full((2, 2, 3, 3), 0.3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(hk.conv2d(x, self.weight, padding=1))


def _expect_pytorchs_operators(function: Callable[[torch.Tensor], torch.Tensor], strict: bool) -> None:
    module, x = _Module(function), torch.randn(2, 2, 4, 4)
    program = torch.export.export(module, (x,), strict=strict)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets and not [target for target in targets if not target.startswith(("aten.", "<built-in function"))]
    close(program.module()(x), module(x))


@requires_native
@pytest.mark.parametrize("op", OPERATORS.values(), ids=OPERATORS.keys())
def test_programs_hold_pytorchs_operators_alone(op):
    _expect_pytorchs_operators(op, strict=False)


@requires_native
def test_strict_programs_hold_pytorchs_operators_alone():
    """These are traced by torch.compile's tracer."""
    _expect_pytorchs_operators(lambda x: hk.bias_act(x, act="lrelu"), strict=True)


@requires_native
def test_compiling_keeps_native_operators():
    """Exporting and compiling look much alike to a traced function."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable:
        graphs.append(graph.print_readable(print_output=False))
        return graph

    torch._dynamo.reset()
    torch.compile(lambda x: hk.bias_act(x, act="lrelu"), backend=backend, fullgraph=True)(torch.randn(2, 2, 4, 4))
    assert "hsr_kernels.bias_act" in graphs[0]


def test_onnx_files_hold_standard_operators_and_take_any_batch():
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    weight = torch.randn(3, 2, 3, 3)

    def layers(x: torch.Tensor) -> torch.Tensor:
        x = hk.modulated_conv2d(x, weight, x.mean((2, 3)), up=2, padding=1, resample_filter=F4, act="lrelu", clamp=0.8)
        x = hk.filtered_lrelu(x, F4, F4, torch.ones(3), up=2, down=2, padding=3)
        x = hk.conv2d_resample(hk.bias_act(x, act="swish"), weight.transpose(0, 1), F4, down=2, padding=1)
        x = hk.grid_sample(hk.conv_transpose2d(x, weight.transpose(0, 1), stride=2), x[:, :2, :3, :3].movedim(1, 3))
        head = (
            weight[:, :, 0, 0].mT @ weight[:, :, 0, 0] @ weight[:, :, 0, 0].mT,
            torch.ones(2),
            weight[:, :, 0, 1],
            torch.ones(3),
        )
        loss = hk.feature_projection_loss([x], [x.new_zeros(x.shape[0], 3, 2, 2)], [head])
        return x * loss

    module = _Module(layers).eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        module,
        (torch.randn(2, 2, 6, 6),),
        dynamo=True,
        dynamic_shapes=({0: batch},),
        external_data=False,
        verbose=False,
    )
    proto = program.model_proto
    assert {node.domain for node in proto.graph.node} == {""} and not proto.functions
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for x in (torch.randn(1, 2, 6, 6), torch.randn(3, 2, 6, 6)):
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), module(x).detach(), rtol=1e-3, atol=1e-4)
