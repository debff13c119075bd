# SPDX-License-Identifier: Apache-2.0
from .reference import upfirdn2d  # noqa: F401
