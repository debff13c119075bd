# SPDX-License-Identifier: Apache-2.0
from .reference import feature_projection_loss  # noqa: F401
