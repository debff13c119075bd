# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the copies of StyleGAN operators in other projects, under these projects' own names.

    python -m hsr_kernels.compat run train.py --outdir=...

runs a project's script, unmodified, on this package's operators. So do two lines before the project's first import:

    import hsr_kernels.compat.nvlabs
    hsr_kernels.compat.nvlabs.install()

From then on `torch_utils.ops.bias_act` and its like are this package's operators. Nothing is compiled at import or at a
first call. Each module can be imported by its own name, too: `from hsr_kernels.compat.rosinality import upfirdn2d`.

nvlabs       StyleGAN2-ADA, StyleGAN3 and the projects that came from them: torch_utils.ops
rosinality   stylegan2-pytorch and its descendants: op, models.stylegan2.op and others
basicsr      BasicSR, GFPGAN, CodeFormer: basicsr.ops
mmcv         mmcv.ops, in the version 2 of MMCV or in an older one
shims        modules under other names in sys.modules
arguments    what the families' arguments have in common
__main__     the commands run and check
run          what a script needs, and the start of its process
prepare      what is done to that process, and to those that it starts
site         has Python do it
check        what a project's lines ask for that isn't there any more
copies       whose operators a project has a copy of
sources      a project's Python files
repairs      what is installed refuses, and how it is repaired

This file imports nothing: a process is prepared before PyTorch is imported.
"""

FAMILIES = ("nvlabs", "rosinality", "basicsr", "mmcv")
