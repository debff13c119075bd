# SPDX-License-Identifier: Apache-2.0
"""The generator under PyTorch's transforms: what measures of the latent space, per-sample gradients and traces use."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap

from hsr.models import Generator
from hsr_kernels import use_backend

pytestmark = pytest.mark.filterwarnings("ignore:.*slow reference")


@pytest.fixture
def G() -> Generator:
    """A small generator with noise, in float64, which takes no gradients."""
    G = Generator(4, 2, 4, 8, channel_base=32, channel_max=4, mapping_layers=2).double().requires_grad_(False)
    for name, parameter in G.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(0.3)
    return G


def _codes(G: Generator) -> Tensor:
    return torch.randn(2, G.num_ws, G.w_dim, dtype=torch.float64)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-9)


def test_derivatives_along_w(G: Generator) -> None:
    ws = _codes(G)
    direction = torch.randn_like(ws)
    images = lambda ws: G.synthesis(ws, "const")  # noqa: E731
    with use_backend("reference"):
        jacobian = torch.autograd.functional.jacobian(images, ws)
    along = jacobian.flatten(4) @ direction.flatten()
    close(jacrev(images)(ws), jacobian)
    close(jvp(images, (ws,), (direction,))[1], along)
    of_each = lambda w, v: jvp(lambda w: images(w[None])[0], (w,), (v,))[1]  # noqa: E731
    close(vmap(of_each, in_dims=(1, 0))(ws.movedim(0, 1), direction), along)
    energy = lambda ws: images(ws).square().sum()  # noqa: E731
    expected = torch.autograd.functional.hvp(energy, ws, direction)[1]
    close(jvp(grad(energy), (ws,), (direction,))[1], expected)
    close(vjp(grad(energy), ws)[1](direction)[0], expected)


def test_random_noise_is_what_vmap_was_told(G: Generator) -> None:
    w = _codes(G)[0]
    ws = torch.stack([w, w])
    image = lambda w: G.synthesis(w[None])[0]  # noqa: E731
    first, second = vmap(image, randomness="same")(ws)
    assert torch.equal(first, second)
    first, second = vmap(image, randomness="different")(ws)
    assert not torch.equal(first, second)
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(image)(ws)


def test_gradients_of_weights_per_sample(G: Generator) -> None:
    parameters = {name: parameter.detach() for name, parameter in G.named_parameters()}
    z, c = torch.randn(2, 4, dtype=torch.float64), torch.eye(2, dtype=torch.float64)

    def energy(parameters: dict[str, Tensor], z: Tensor, c: Tensor) -> Tensor:
        options = {"noise_mode": "const", "truncation_psi": 0.7}
        return functional_call(G, parameters, (z[None], c[None]), options).square().sum()

    actual = vmap(grad(energy), in_dims=(None, 0, 0))(parameters, z, c)
    for i in range(2):
        leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
        expected = torch.autograd.grad(energy(leaves, z[i], c[i]), list(leaves.values()))
        for name, value in zip(leaves, expected, strict=True):
            close(actual[name][i], value)


def _images(G: Generator) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda z, c: G(z, c, truncation_psi=0.7, noise_mode="const")


def _inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(3, 4, dtype=torch.float64), torch.eye(2, dtype=torch.float64)[[0, 1, 1]]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traces_take_any_batch(G: Generator) -> None:
    z, c = _inputs()
    trace = torch.jit.trace(_images(G), (z[:2], c[:2]), check_trace=False)
    close(trace(z, c), _images(G)(z, c))


def test_compiled_generators_have_the_same_gradients(G: Generator) -> None:
    torch._dynamo.reset()
    G.requires_grad_(True)
    z, c = _inputs()
    results = []
    for function in (_images(G), torch.compile(_images(G), backend="aot_eager", fullgraph=True)):
        y = function(z, c)
        results.append((y, *torch.autograd.grad(y.square().sum(), list(G.parameters()))))
    for actual, expected in zip(*results, strict=True):
        close(actual, expected)
