# SPDX-License-Identifier: Apache-2.0
"""conv2d and conv_transpose2d as PyTorch has them; its own autograd differentiates them to any order."""

import torch.nn.functional as F

conv2d = F.conv2d
conv_transpose2d = F.conv_transpose2d
