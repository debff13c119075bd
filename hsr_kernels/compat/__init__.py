# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the copies of StyleGAN operators in other projects, under these projects' own names.

    import hsr_kernels.compat.nvlabs
    hsr_kernels.compat.nvlabs.install()  # before the project's networks are imported

From then on `torch_utils.ops.bias_act` and its like are this package's operators. Nothing is compiled at import or at a
first call. Each module can be imported by its own name, too: `from hsr_kernels.compat.rosinality import upfirdn2d`.

nvlabs       StyleGAN2-ADA, StyleGAN3 and the projects that came from them: torch_utils.ops
rosinality   stylegan2-pytorch and its descendants: op, models.stylegan2.op and others
basicsr      BasicSR, GFPGAN, CodeFormer: basicsr.ops
mmcv         mmcv.ops, in the version 2 of MMCV or in an older one
arguments    what the families' arguments have in common
shims        modules under other names in sys.modules
"""

FAMILIES = ("nvlabs", "rosinality", "basicsr", "mmcv")
