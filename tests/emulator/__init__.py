# SPDX-License-Identifier: Apache-2.0
"""A GPU for tests that have none: the CUDA kernels on the CPU, with every access to memory checked."""
