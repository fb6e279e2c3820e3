"""The activations in numpy, at the precision of their argument: what tables, thresholds and the interpreter are made from."""

import math
from collections.abc import Callable

import numpy as np

from searchspaces.ops import LEAKY_SLOPE

Array = np.ndarray


def sigmoid(y: Array) -> Array:
    half = np.tanh(y * 0.5) * 0.5       # no overflow at either end
    return half + 0.5


def _normal_cdf(y: Array) -> Array:
    return 0.5 * (1.0 + np.vectorize(math.erf, otypes=[np.float64])(y * 0.5**0.5))


ACTIVATION: dict[str, Callable[[Array], Array]] = {
    "none": lambda y: y,
    "relu": lambda y: np.maximum(y, 0.0),
    "relu6": lambda y: np.clip(y, 0.0, 6.0),
    "leaky_relu": lambda y: np.where(y > 0, y, y * LEAKY_SLOPE),
    "hardswish": lambda y: y * np.clip(y + 3.0, 0.0, 6.0) / 6.0,
    "silu": lambda y: y * sigmoid(y),
    "sigmoid": sigmoid,
    "gelu": lambda y: y * _normal_cdf(y),
}
LOWEST = {"hardswish": -0.375, "silu": -0.2784645427610738, "gelu": -0.16997120747990366}      # of those that fall before they rise
STEEPEST = {"hardswish": 1.5, "silu": 1.1, "gelu": 1.13, "sigmoid": 0.25}      # largest |slope|; 1 for the others
