# SPDX-License-Identifier: Apache-2.0
"""Definitions spelled out in NumPy loops, sharing no line with the package. All arrays are float64."""

import numpy as np

# The default alpha and gain of each activation.
PARAMETERS = {
    "linear": (0.0, 1.0), "relu": (0.0, 2**0.5), "lrelu": (0.2, 2**0.5), "tanh": (0.0, 1.0), "sigmoid": (0.0, 1.0),
    "elu": (0.0, 1.0), "selu": (0.0, 1.0), "softplus": (0.0, 1.0), "swish": (0.0, 2**0.5),
}  # fmt: skip
SELU_SCALE, SELU_ALPHA = 1.0507009873554804935, 1.6732632423543772848


def logistic(x):
    return np.exp(-np.logaddexp(0, -x))


def slope(x, act, alpha=None, gain=None, clamp=None):
    """Derivative of `activation`; at a kink the one from below, and 0 where the output has the clamp's magnitude."""
    default_alpha, default_gain = PARAMETERS[act]
    alpha = default_alpha if alpha is None else alpha
    s = logistic(x)
    exponential = np.exp(np.minimum(x, 0))
    dy = {
        "linear": lambda: np.ones_like(x),
        "relu": lambda: np.where(x > 0, 1.0, 0.0),
        "lrelu": lambda: np.where(x > 0, 1.0, alpha),
        "tanh": lambda: 1 - np.tanh(x) ** 2,
        "sigmoid": lambda: s * (1 - s),
        "elu": lambda: np.where(x > 0, 1.0, exponential),
        "selu": lambda: SELU_SCALE * np.where(x > 0, 1.0, SELU_ALPHA * exponential),
        "softplus": lambda: s,
        "swish": lambda: s * (1 + x * (1 - s)),
    }[act]()
    dy = dy * (default_gain if gain is None else gain)
    if clamp is None or clamp < 0:
        return dy
    return np.where(np.abs(activation(x, act, alpha, gain)) < clamp, dy, 0.0)


def grid_sample(x, grid):
    """(samples, their derivatives in the grid's x and y, each [N, C, H', W']); zeros outside, corners not aligned."""
    n, c, h, w = x.shape
    y, slope_x, slope_y = (np.zeros((n, c, *grid.shape[1:3])) for _ in range(3))
    for index in np.ndindex(n, *grid.shape[1:3]):
        position = ((grid[index] + 1) * (w, h) - 1) / 2
        corner = np.floor(position)
        fx, fy = position - corner
        for dx, dy in np.ndindex(2, 2):
            column, row = corner[0] + dx, corner[1] + dy
            if 0 <= column < w and 0 <= row < h:
                pixel = x[index[0], :, int(row), int(column)]
                weight_x, weight_y = (fx if dx else 1 - fx), (fy if dy else 1 - fy)
                channels = (index[0], slice(None), *index[1:])
                y[channels] += pixel * weight_x * weight_y
                slope_x[channels] += pixel * (2 * dx - 1) * weight_y * w / 2
                slope_y[channels] += pixel * weight_x * (2 * dy - 1) * h / 2
    return y, slope_x, slope_y


def activation(x, act, alpha=None, gain=None, clamp=None):
    default_alpha, default_gain = PARAMETERS[act]
    alpha = default_alpha if alpha is None else alpha
    y = {
        "linear": lambda: x,
        "relu": lambda: np.maximum(x, 0),
        "lrelu": lambda: np.where(x > 0, x, alpha * x),
        "tanh": lambda: np.tanh(x),
        "sigmoid": lambda: logistic(x),
        "elu": lambda: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        "selu": lambda: SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(np.minimum(x, 0))),
        "softplus": lambda: np.logaddexp(0, x),
        "swish": lambda: x * logistic(x),
    }[act]()
    y = y * (default_gain if gain is None else gain)
    return y if clamp is None or clamp < 0 else np.clip(y, -clamp, clamp)


def upfirdn2d(x, f, up=(1, 1), down=(1, 1), padding=(0, 0, 0, 0), flip_filter=False, gain=1.0):
    """Zero-insert, pad or crop, convolve (correlate if flipped), gain, keep every down-th pixel."""
    f = np.ones((1, 1)) if f is None else np.outer(f, f) if f.ndim == 1 else f
    if not flip_filter:
        f = f[::-1, ::-1]
    n, c, h, w = x.shape
    x0, x1, y0, y1 = padding
    (upx, upy), (downx, downy) = up, down
    image = np.zeros((n, c, h * upy + y0 + y1, w * upx + x0 + x1))
    for i in range(h):
        for j in range(w):
            row, column = i * upy + y0, j * upx + x0
            if 0 <= row < image.shape[2] and 0 <= column < image.shape[3]:
                image[:, :, row, column] = x[:, :, i, j]
    fh, fw = f.shape
    out = np.zeros((n, c, (image.shape[2] - fh) // downy + 1, (image.shape[3] - fw) // downx + 1))
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            window = image[:, :, i * downy : i * downy + fh, j * downx : j * downx + fw]
            out[:, :, i, j] = gain * (window * f).sum((2, 3))
    return out


def filtered_lrelu(x, fu, fd, b, up=1, down=1, padding=(0, 0, 0, 0), gain=2**0.5, slope=0.2, clamp=None, flip=False):
    """Bias, upsampling with gain up^2, leaky ReLU with gain, clamp, downsampling: four separate steps."""
    x = upfirdn2d(x + b[:, None, None], fu, (up, up), (1, 1), padding, flip, up**2)
    return upfirdn2d(activation(x, "lrelu", slope, gain, clamp), fd, (1, 1), (down, down), flip_filter=flip)


def correlate(x, w, padding=(0, 0, 0, 0), groups=1):
    """Cross-correlation [N, C, H, W] * [O, C / groups, kh, kw], `padding` (x0, x1, y0, y1) may crop."""
    x = upfirdn2d(x, None, padding=padding)
    out, inner, kh, kw = w.shape
    y = np.zeros((x.shape[0], out, x.shape[2] - kh + 1, x.shape[3] - kw + 1))
    for o in range(out):
        first = o // (out // groups) * inner
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                window = x[:, first : first + inner, i : i + kh, j : j + kw]
                y[:, o, i, j] = (window * w[o]).sum((1, 2, 3))
    return y


def conv2d_resample(x, w, f, up=1, down=1, padding=(0, 0, 0, 0), groups=1, flip_weight=True, flip_filter=False):
    """Upsample with the filter, convolve, filter, keep every down-th pixel: three separate steps."""
    taps = np.ones((1, 1)) if f is None else np.outer(f, f) if f.ndim == 1 else f
    fh, fw = taps.shape
    x0, x1, y0, y1 = padding
    if up > 1:
        x0, x1 = x0 + (fw + up - 1) // 2, x1 + (fw - up) // 2
        y0, y1 = y0 + (fh + up - 1) // 2, y1 + (fh - up) // 2
    if down > 1:
        x0, x1 = x0 + (fw - down + 1) // 2, x1 + (fw - down) // 2
        y0, y1 = y0 + (fh - down + 1) // 2, y1 + (fh - down) // 2
    # All of the padding comes first: an up-filter is applied to the padded image.
    x = upfirdn2d(x, taps if up > 1 else None, (up, up), padding=(x0, x1, y0, y1), flip_filter=flip_filter, gain=up**2)
    x = correlate(x, w if flip_weight else w[:, :, ::-1, ::-1], groups=groups)
    return upfirdn2d(x, taps if down > 1 else None, down=(down, down), flip_filter=flip_filter)


def adaptive_average(x, size):
    """Output pixel i averages the input pixels that its share [i * H / T, (i + 1) * H / T) touches."""

    def window(i, length):
        return slice(i * length // size, -((-(i + 1) * length) // size))

    y = np.zeros((*x.shape[:2], size, size))
    for i in range(size):
        for j in range(size):
            y[:, :, i, j] = x[:, :, window(i, x.shape[2]), window(j, x.shape[3])].mean((2, 3))
    return y


def modulated_conv2d(x, weight, styles, noise, f, demodulate, bias, act, clamp, **resample):
    """Every sample with weights of its own."""
    samples = []
    for image, style in zip(x, styles, strict=True):
        sample_weight = weight * style[None, :, None, None]
        if demodulate:
            sample_weight = sample_weight / np.sqrt((sample_weight**2).sum((1, 2, 3), keepdims=True) + 1e-8)
        samples.append(conv2d_resample(image[None], sample_weight, f, **resample))
    y = np.concatenate(samples)
    y = y if noise is None else y + noise
    y = y if bias is None else y + bias[None, :, None, None]
    return activation(y, act, clamp=clamp)


def feature_projection_loss(x, target, w1, b1, w2, b2, hidden_gain):
    hidden = np.maximum(np.einsum("kc,nchw->nkhw", w1, x) + b1[:, None, None], 0) * hidden_gain
    projected = np.einsum("dk,nkhw->ndhw", w2, hidden) + b2[:, None, None]
    return ((adaptive_average(projected, target.shape[2]) - target) ** 2).mean()
