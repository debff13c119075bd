# SPDX-License-Identifier: Apache-2.0
"""The transforms of `hsr.augment` at a percentile, spelled out in float64 with matrices and sums over taps."""

import math

import numpy as np

# Low-passes of the wavelets sym6 and sym2.
SYM6 = np.array([
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
])  # fmt: skip
SYM2 = np.array([1 - math.sqrt(3), 3 - math.sqrt(3), 3 + math.sqrt(3), 1 + math.sqrt(3)]) / (4 * math.sqrt(2))
PARAMETERS = {
    "xint_max": 0.125, "scale_std": 0.2, "rotate_max": 1, "aniso_std": 0.2, "xfrac_std": 0.125, "brightness_std": 0.2,
    "contrast_std": 0.5, "hue_max": 1, "saturation_std": 1, "imgfilter_bands": (1, 1, 1, 1), "imgfilter_std": 1,
    "noise_std": 0.1, "cutout_size": 0.5,
}  # fmt: skip


def erfinv(y: float) -> float:
    """The inverse error function, by bisection."""
    low, high = -6.0, 6.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erf(middle) < y else (low, middle)
    return low


def augment(images: np.ndarray, q: float, switches: dict[str, object]) -> np.ndarray:
    """Returns images [N, C, H, W] at the percentile q without noise, whose draws no percentile decides on."""
    s = PARAMETERS | switches
    x = images.astype(np.float64)
    if any(name in switches for name in ("xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac")):
        x = resampled(x, np.linalg.inv(movement(q, s, *x.shape[2:])))
    if any(name in switches for name in ("brightness", "contrast", "lumaflip", "hue", "saturation")):
        x = coloured(x, colour_matrix(q, s, x.shape[1]))
    if "imgfilter" in switches:
        x = filtered(x, gains(q, s))
    if "cutout" in switches:
        x = with_box(x, q, s["cutout_size"])
    return x


def movement(q: float, s: dict, height: int, width: int) -> np.ndarray:
    """M, from input to output coordinates."""
    z, deviation = erfinv(2 * q - 1), 2 * q - 1

    def rotation(a: float) -> np.ndarray:
        return np.array([[math.cos(a), math.sin(a), 0], [-math.sin(a), math.cos(a), 0], [0, 0, 1]])

    def translation(x: float, y: float) -> np.ndarray:
        return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])

    size, stretch = 2 ** (s["scale_std"] * z), 2 ** (s["aniso_std"] * z)
    transforms = {
        "xflip": np.diag([1 - 2 * math.floor(2 * q), 1, 1]),
        "rotate90": rotation(math.floor(4 * q) * math.pi / 2),
        "xint": translation(np.round(deviation * s["xint_max"] * width), np.round(deviation * s["xint_max"] * height)),
        "scale": np.diag([size, size, 1]),
        "rotate": rotation(deviation * math.pi * s["rotate_max"]),
        "aniso": np.diag([stretch, 1 / stretch, 1]),
        "xfrac": translation(s["xfrac_std"] * z * width, s["xfrac_std"] * z * height),
    }
    total = np.eye(3)
    for name, matrix in transforms.items():
        if name in s:
            total = matrix @ total
    return total


def resampled(x: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Looks output pixels up at their places in the input, at twice the resolution."""
    h = SYM6 / SYM6.sum()
    height, width = x.shape[2:]
    up_y, up_x = upsampling(height, h), upsampling(width, h)
    u = up_y @ x @ up_x.T
    i, j = np.mgrid[0 : 2 * (height + 6), 0 : 2 * (width + 6)]
    points = np.stack([(j - 6) / 2 - (width - 1) / 2, (i - 6) / 2 - (height - 1) / 2, np.ones(i.shape)])
    places = np.einsum("ij,jhw->ihw", inverse, points)
    columns = 2 * (places[0] + (width - 1) / 2 + width - 1)
    rows = 2 * (places[1] + (height - 1) / 2 + height - 1)
    v = np.zeros((*x.shape[:2], *i.shape))
    for row, row_weight in neighbours(rows):
        for column, column_weight in neighbours(columns):
            inside = (row >= 0) & (row < u.shape[2]) & (column >= 0) & (column < u.shape[3])
            value = u[:, :, row.clip(0, u.shape[2] - 1), column.clip(0, u.shape[3] - 1)]
            v += np.where(inside, row_weight * column_weight * value, 0)
    return downsampling(height, h) @ v @ downsampling(width, h).T


def neighbours(positions: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    first = np.floor(positions).astype(int)
    return [(first, 1 - (positions - first)), (first + 1, positions - first)]


def upsampling(size: int, h: np.ndarray) -> np.ndarray:
    """From `size` pixels, reflected by size - 1 on both sides, to twice as many samples."""
    length = 3 * size - 2
    matrix = np.zeros((2 * length, size))
    for n in range(2 * length):
        for k in range(12):
            position = n + 5 - k
            if position % 2 == 0 and 0 <= position // 2 < length:
                pixel = abs(position // 2 - (size - 1))
                pixel = pixel if pixel < size else 2 * (size - 1) - pixel
                matrix[n, pixel] += 2 * h[k]
    return matrix


def downsampling(size: int, h: np.ndarray) -> np.ndarray:
    matrix = np.zeros((size, 2 * (size + 6)))
    for j in range(size):
        matrix[j, 2 * j + 1 : 2 * j + 13] = h
    return matrix


def colour_matrix(q: float, s: dict, channels: int) -> np.ndarray:
    """K of homogeneous colours."""
    z = erfinv(2 * q - 1)
    v = np.ones(3) / math.sqrt(3)
    luma, identity = np.outer(v, v), np.eye(3)
    a = (2 * q - 1) * math.pi * s["hue_max"]
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    transforms = {
        "brightness": (identity, s["brightness_std"] * z),
        "contrast": (2 ** (s["contrast_std"] * z) * identity, 0),
        "lumaflip": (identity - 2 * math.floor(2 * q) * luma, 0),
        "hue": (math.cos(a) * identity + (1 - math.cos(a)) * luma + math.sin(a) * cross, 0),
        "saturation": (luma + 2 ** (s["saturation_std"] * z) * (identity - luma), 0),
    }
    total = np.eye(4)
    for name, (linear, offset) in transforms.items():
        if name in s and (channels == 3 or name not in ("hue", "saturation")):
            matrix = np.eye(4)
            matrix[:3, :3], matrix[:3, 3] = linear, offset
            total = matrix @ total
    return total


def coloured(x: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    if x.shape[1] == 1:
        return x * matrix[:3, :3].sum() / 3 + matrix[:3, 3].mean()
    return np.einsum("ij,njhw->nihw", matrix[:3, :3], x) + matrix[:3, 3][:, None, None]


def bands() -> np.ndarray:
    """The four filters [4, 43], which sum to an impulse."""
    low = np.convolve(SYM2, SYM2[::-1]) / 2
    high = -low
    high[3] += 1

    def spread(taps: np.ndarray, spacing: int) -> np.ndarray:
        result = np.zeros(6 * spacing + 1)
        result[::spacing] = taps
        return result

    products = (
        [spread(low, 1), spread(low, 2), spread(low, 4)],
        [spread(low, 1), spread(low, 2), spread(high, 4)],
        [spread(low, 1), spread(high, 2)],
        [spread(high, 1)],
    )
    filters = np.zeros((4, 43))
    for band, factors in enumerate(products):
        taps = np.ones(1)
        for factor in factors:
            taps = np.convolve(taps, factor)
        margin = (43 - len(taps)) // 2
        filters[band, margin : 43 - margin] = taps
    return filters


def gains(q: float, s: dict) -> np.ndarray:
    t = 2 ** (s["imgfilter_std"] * erfinv(2 * q - 1))
    powers, g = np.array([10, 1, 1, 1]) / 13, np.ones(4)
    for band, multiplier in enumerate(s["imgfilter_bands"]):
        e = np.ones(4)
        e[band] = t if multiplier > 0 else 1
        g = g * e / math.sqrt((powers * e**2).sum())
    return g


def filtered(x: np.ndarray, g: np.ndarray) -> np.ndarray:
    taps = g @ bands()
    for axis in (2, 3):
        padding = [(21, 21) if a == axis else (0, 0) for a in range(4)]
        padded = np.moveaxis(np.pad(x, padding, mode="reflect"), axis, -1)
        size = x.shape[axis]
        x = np.moveaxis(sum(taps[k] * padded[..., k : k + size] for k in range(43)), -1, axis)
    return x


def with_box(x: np.ndarray, q: float, size: float) -> np.ndarray:
    height, width = x.shape[2:]
    i, j = np.mgrid[0:height, 0:width]
    in_box = (abs((j + 0.5) / width - q) < size / 2) & (abs((i + 0.5) / height - q) < size / 2)
    return np.where(in_box, 0, x)
