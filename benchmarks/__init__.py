# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of the operators against plain PyTorch; run as `python -m benchmarks`."""
