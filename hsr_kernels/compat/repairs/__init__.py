# SPDX-License-Identifier: Apache-2.0
"""What today's PyTorch, NumPy, Pillow and Python refuse in older scripts, and how each is repaired.

A repair is an entry of REPAIRS: a name, a sentence, what in a script's text it is about, whether what is installed
refuses that, and what changes it. What isn't refused isn't changed, and a repair says so when it first acts.

This folder imports nothing beside the standard library and nothing from outside itself: a process that a script runs in
is prepared before the script, and so before PyTorch, is imported.

repair        what a repair is, and how it gets at modules that aren't imported yet
torch_calls   functions and classes of PyTorch that refuse arguments which they took once
other_calls   the same of other packages
modules       contents of modules that exist no more
names         names that modules had
syntax        what a file's syntax tree says about names
"""

import functools
import mmap
import sys
from collections.abc import Collection

from . import modules, names, other_calls, torch_calls
from .repair import Repair, change_of, may_be_refused, module_of, name_where, node_where
from .syntax import calls_with

__all__ = ["REPAIRS", "Repair", "apply"]

REPAIRS = (
    Repair(
        "adam-betas",
        "Adam's betas of an int and a float, [0, 0.99], become floats",
        node_where(torch_calls.passes_int_betas),
        torch_calls.refuses_int_betas,
        change_of("torch", may_be_refused, torch_calls.take_int_betas)[1],
    ),
    Repair(
        "data-sampler",
        "the argument of Sampler.__init__, which never had a use, is ignored",
        torch_calls.data_for_sampler,
        *change_of("torch", torch_calls.refuses_data, torch_calls.take_data),
    ),
    Repair(
        "prefetch-factor",
        "DataLoader's argument prefetch_factor is ignored where there are no workers",
        node_where(torch_calls.prefetches_without_workers),
        torch_calls.refuses_prefetch_factor,
        change_of("torch", may_be_refused, torch_calls.take_prefetch_factor)[1],
    ),
    Repair(
        "conv-forward",
        "Conv2d._conv_forward(input, weight) takes the module's own bias",
        node_where(torch_calls.convolves_without_bias),
        *change_of("torch", torch_calls.requires_bias, torch_calls.take_own_bias),
    ),
    Repair(
        "grid-sampler",
        "PyTorch's derivative of grid_sample, by its private name, can be called without output_mask",
        node_where(torch_calls.gets_grid_sampler),
        *change_of("torch", torch_calls.returns_overloads, torch_calls.make_grid_sampler_callable),
    ),
    Repair(
        "scheduler-verbose",
        "the argument verbose of learning rate schedulers is ignored",
        node_where(calls_with("torch", torch_calls.SCHEDULERS, "verbose")),
        *change_of("torch", torch_calls.refuses_verbose, torch_calls.take_verbose),
    ),
    Repair(
        "image-range",
        "the argument range of torchvision's save_image and make_grid becomes value_range",
        node_where(calls_with("torchvision", other_calls.GRIDS, "range")),
        *change_of("torchvision.utils", other_calls.refuses_range, other_calls.take_range),
    ),
    Repair(
        "linear-algebra",
        "torch.cholesky, torch.qr and torch.symeig are those of torch.linalg",
        name_where(torch_calls.LINEAR_ALGEBRA.__contains__),
        *change_of("torch", torch_calls.refuses_linear_algebra, torch_calls.give_linear_algebra),
    ),
    Repair(
        "torch-names",
        "torch.set_deterministic and torch.is_deterministic are what replaced them",
        *names.names_of("torch", names.TORCH),
    ),
    Repair("torch-six", "torch._six is provided", *module_of(modules.TORCH_SIX)),
    Repair(
        "functional-tensor",
        "torchvision.transforms.functional_tensor is provided",
        *module_of(modules.FUNCTIONAL_TENSOR),
    ),
    Repair("models-utils", "torchvision.models.utils is provided", *module_of(modules.MODELS_UTILS)),
    Repair(
        "pkg-resources",
        "pkg_resources is provided, with versions, distributions, entry points and files of packages",
        *module_of(modules.PKG_RESOURCES),
    ),
    Repair(
        "numpy-names",
        "names that NumPy had, such as np.float, np.bool and np.product, are what replaced them",
        *names.names_of("numpy", names.NUMPY),
    ),
    Repair(
        "numpy-fromstring",
        "numpy.fromstring of bytes copies what numpy.frombuffer reads",
        node_where(other_calls.reads_binary_string),
        *change_of("numpy", other_calls.refuses_bytes, other_calls.take_bytes),
    ),
    Repair(
        "scipy-windows",
        "scipy.signal.gaussian and its like are those of scipy.signal.windows",
        *names.names_of("scipy.signal", names.SCIPY_SIGNAL),
    ),
    Repair(
        "scipy-integrate",
        "scipy.integrate.trapz and cumtrapz are what replaced them",
        *names.names_of("scipy.integrate", names.SCIPY_INTEGRATE),
    ),
    Repair(
        "sqrtm-disp",
        "scipy.linalg.sqrtm takes disp=False and returns an estimate of its error, too",
        node_where(calls_with("scipy", ("sqrtm",), "disp")),
        *change_of("scipy.linalg", other_calls.refuses_disp, other_calls.take_disp),
    ),
    Repair(
        "pillow-names",
        "names that Pillow had, such as Image.ANTIALIAS, are what replaced them",
        *names.names_of("PIL.Image", names.PILLOW),
    ),
    Repair(
        "collections-abc",
        "collections.Mapping and its like are those of collections.abc",
        *names.names_of("collections", names.COLLECTIONS),
    ),
    Repair("getargspec", "inspect.getargspec is provided", *names.names_of("inspect", names.INSPECT)),
    Repair("time-clock", "time.clock is time.process_time", *names.names_of("time", names.TIME)),
    Repair("gcd", "fractions.gcd is math.gcd", *names.names_of("fractions", names.FRACTIONS)),
    Repair(
        "distutils",
        "distutils is provided, with comparisons of versions and copies of folders",
        *module_of(modules.DISTUTILS),
    ),
    Repair("imp", "imp is provided, with load_source, new_module and reload", *module_of(modules.IMP)),
    Repair(
        "local-rank",
        "--local-rank, as PyTorch's launcher passes it, is taken for a script's --local_rank",
        node_where(other_calls.declares_local_rank),
        *change_of("argparse", may_be_refused, other_calls.take_local_rank),
    ),
    Repair(
        "trust-pickles",
        "torch.load reads pickles, which can run any code; only with --trust-pickles",
        node_where(torch_calls.loads_pickle),
        *change_of("torch", may_be_refused, torch_calls.trust_pickles),
        is_default=False,
    ),
)


def apply(chosen: Collection[str]) -> None:
    """Applies the repairs of these names where what is installed has need of them.

    Each prints one line when it first acts in this process or in one that was forked from it.
    """
    has_acted = mmap.mmap(-1, len(REPAIRS))

    def say(index: int, details: str) -> None:
        if not has_acted[index] and sys.stderr is not None:
            has_acted[index] = 1
            print(f"hsr_kernels.compat: {REPAIRS[index].name}: {details}", file=sys.stderr, flush=True)

    for index, repair in enumerate(REPAIRS):
        if repair.name in chosen:
            repair.install(functools.partial(say, index))
