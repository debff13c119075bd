# SPDX-License-Identifier: Apache-2.0
"""StyleGAN operators and the HSR loss, with every derivative that training needs."""

from ._dispatch import reset_choices
from ._dispatch.explain import backends, explain
from ._dispatch.request import use_backend, use_route
from .bias_act import bias_act
from .conv2d import conv2d, conv_transpose2d, no_weight_gradients
from .conv2d_resample import conv2d_resample
from .feature_loss import feature_projection_loss
from .filtered_lrelu import filtered_lrelu
from .grid_sample import grid_sample
from .modulated_conv2d import modulated_conv2d, modulated_conv2d_parameters
from .upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

__version__ = "0.1.0"

__all__ = [
    "backends",
    "bias_act",
    "conv2d",
    "conv2d_resample",
    "conv_transpose2d",
    "downsample2d",
    "explain",
    "feature_projection_loss",
    "filter2d",
    "filtered_lrelu",
    "grid_sample",
    "modulated_conv2d",
    "modulated_conv2d_parameters",
    "no_weight_gradients",
    "reset_choices",
    "setup_filter",
    "upfirdn2d",
    "upsample2d",
    "use_backend",
    "use_route",
]
