# SPDX-License-Identifier: Apache-2.0
"""Measures what the library chooses between on a GPU, and so fills its table, measured.csv.

backends   an operator on cuda and on triton
routes     a pass of a modulated layer, fused and around PyTorch's convolution
trials     all of these, the most important first
"""
