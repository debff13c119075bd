# SPDX-License-Identifier: Apache-2.0
from .reference import modulated_conv2d  # noqa: F401
