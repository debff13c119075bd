# SPDX-License-Identifier: Apache-2.0
"""The one tolerance of every parity test, and of the benchmarks, derived and never widened.

    err(kernel, float64 reference) <= 2 * err(same-dtype reference, float64 reference) + a few ULP

in the maximum norm and in the L2 norm. The same-dtype reference rounds as ordinary PyTorch code does; a kernel may add
up in another order, hence the factor 2, and the few ULP cover results that the reference happens to get exactly right.
The error is a norm over the whole tensor, and an ULP is one of the tensor's norm: small elements of a sum with
cancellation aren't asked to be more precise than what was added up. For a result that vanishes identically, because its
terms cancel, the ULP is that of the largest result of the same evaluation.

For a tensor with few elements a single error is a matter of luck, so the reference's is the largest of `DRAWS` draws of
the inputs. In float64 the reference's own error can't be seen; as rounding errors are proportional to the machine
epsilon, it is the error of the float32 reference times the ratio of the epsilons (for results that the reference itself
computes, in the layout that it computes them in: see test_parity.py). Kinks: see inputs.py.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch

# Results by name, and the largest errors of a reference by (name of a result, norm).
Results = Mapping[str, torch.Tensor]
Errors = dict[tuple[str, str], float]

DRAWS = 3
ULPS = 4
NORMS = {"max": torch.inf, "L2": 2.0}


def norm(x: torch.Tensor, kind: str) -> float:
    """The "max" or "L2" norm over all elements, in float64."""
    return float(torch.linalg.vector_norm(x.double(), NORMS[kind])) if x.numel() else 0.0


def error(actual: torch.Tensor, truth: torch.Tensor, kind: str) -> float:
    """Norm of the difference."""
    return norm(actual.double() - truth, kind)


def bound(dtype: torch.dtype, reference_error: float, size: float) -> float:
    """The largest error that a kernel in `dtype` may have.

    Args:
        dtype: Of the kernel.
        reference_error: Of the reference in `reference_dtype(dtype)`.
        size: Norm of the true result.
    """
    scale = torch.finfo(dtype).eps / torch.finfo(reference_dtype(dtype)).eps
    return 2 * scale * reference_error + ULPS * torch.finfo(dtype).eps * size


def reference_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which the reference's error is measured for a kernel in `dtype`."""
    return torch.float32 if dtype == torch.float64 else dtype


def largest_errors(evaluations: Iterable[tuple[Results, Results]]) -> Errors:
    """The largest errors over several draws of (results of the reference, true results)."""
    errors: Errors = {}
    for results, truth in evaluations:
        for name, value in truth.items():
            for kind in NORMS:
                errors[name, kind] = max(errors.get((name, kind), 0.0), error(results[name], value, kind))
    return errors


def faults(actual: Results, truth: Results, reference_errors: Errors, dtype: torch.dtype) -> Iterator[str]:
    """Yields a sentence for each result of a kernel in `dtype` that isn't within its bound, in every norm."""
    derivatives = [t for name, t in truth.items() if name != "output"]
    largest = {kind: max((norm(t, kind) for t in derivatives), default=0.0) for kind in NORMS}
    for name, value in truth.items():
        if actual[name].shape != value.shape:
            yield f"{name} has the shape {tuple(actual[name].shape)} in place of {tuple(value.shape)}"
            continue
        if actual[name].isnan().any():
            yield f"{name} has unwritten or invalid elements"
            continue
        for kind in NORMS:
            size = norm(value, kind)
            limit = bound(dtype, reference_errors[name, kind], size or largest[kind])
            found = error(actual[name], value, kind)
            if not found <= limit:
                yield f"{name}: {kind} error {found:.3g} over {limit:.3g}, of {size:.3g}"
