# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2 training with the Hierarchical Semantic Regularizer, on `hsr_kernels`."""
