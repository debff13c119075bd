# SPDX-License-Identifier: Apache-2.0
from .reference import bias_act  # noqa: F401
