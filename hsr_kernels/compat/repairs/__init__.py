# SPDX-License-Identifier: Apache-2.0
"""What today's PyTorch, NumPy, Pillow and Python refuse in older scripts, and how each is repaired.

A repair is an entry of REPAIRS: a name, a sentence, what in a script's text it is about, whether what is installed
refuses that, and what changes it. What isn't refused isn't changed, and a repair says so when it first acts.

This folder imports nothing beside the standard library and nothing from outside itself: a process that a script runs in
is prepared before the script, and so before PyTorch, is imported.

repair    what a repair is, and how it gets at modules that aren't imported yet
calls     functions and classes that refuse arguments which they took once
modules   contents of modules that exist no more
names     names that modules had
syntax    what a file's syntax tree says about names
"""

import functools
import mmap
import sys
from collections.abc import Collection

from . import calls, modules, names
from .repair import Repair, change_of, module_of, name_where, node_where

__all__ = ["REPAIRS", "Repair", "apply"]

REPAIRS = (
    Repair(
        "adam-betas",
        "Adam's betas of an int and a float, [0, 0.99], become floats",
        node_where(calls.passes_int_betas),
        calls.refuses_int_betas,
        change_of("torch", calls.may_be_refused, calls.take_int_betas)[1],
    ),
    Repair(
        "data-sampler",
        "the argument of Sampler.__init__, which never had a use, is ignored",
        calls.data_for_sampler,
        *change_of("torch", calls.refuses_data, calls.take_data),
    ),
    Repair(
        "conv-forward",
        "Conv2d._conv_forward(input, weight) takes the module's own bias",
        node_where(calls.convolves_without_bias),
        *change_of("torch", calls.requires_bias, calls.take_own_bias),
    ),
    Repair(
        "scheduler-verbose",
        "the argument verbose of learning rate schedulers is ignored",
        node_where(calls.passes("torch", calls.SCHEDULERS, "verbose")),
        *change_of("torch", calls.refuses_verbose, calls.take_verbose),
    ),
    Repair(
        "image-range",
        "the argument range of torchvision's save_image and make_grid becomes value_range",
        node_where(calls.passes("torchvision", calls.GRIDS, "range")),
        *change_of("torchvision.utils", calls.refuses_range, calls.take_range),
    ),
    Repair(
        "linear-algebra",
        "torch.cholesky, torch.qr and torch.symeig are those of torch.linalg",
        name_where(calls.LINEAR_ALGEBRA.__contains__),
        *change_of("torch", calls.refuses_linear_algebra, calls.give_linear_algebra),
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
        node_where(calls.reads_binary_string),
        *change_of("numpy", calls.refuses_bytes, calls.take_bytes),
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
        node_where(calls.declares_local_rank),
        *change_of("argparse", calls.may_be_refused, calls.take_local_rank),
    ),
    Repair(
        "trust-pickles",
        "torch.load reads pickles, which can run any code; only with --trust-pickles",
        node_where(calls.loads_pickle),
        *change_of("torch", calls.may_be_refused, calls.trust_pickles),
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
