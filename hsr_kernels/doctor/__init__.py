# SPDX-License-Identifier: Apache-2.0
"""What hsr_kernels can use on this machine, what is missing and how to get it: `python -m hsr_kernels.doctor`.

machine    what there is
advice     what is missing, what that costs, and the command that helps
__main__   the screen
"""
