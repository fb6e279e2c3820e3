"""Convolution with codebooks: codes of 1 to 4 bits stand for int8 levels of any spacing, as learned or clustered quantizers give them.

A function of the engine, not an instruction of a plan.  The kernel looks sums of products up in a table (DeepGEMM, arXiv:2304.09049) and is
exact for any levels.  Lookups are fast where levels are small, the sums of two products within 255 of each other.  For larger levels, and
for all on CPUs with VNNI, codes become their levels while they are packed and an int8 convolution does the rest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.runtime.artifact import pack_weights
from nas.runtime.executor import engine
from nas.runtime.plan import ArtifactError

MAX_TERMS = 131071  # products in one sum, so that no sum passes int32


def conv2d_codebook(
    x: NDArray[np.uint8],
    weights: NDArray[np.uint8],
    weight_levels: NDArray[np.int8],
    activation_levels: NDArray[np.int8],
    *,
    stride: int = 1,
    padding: int = 0,
    outside: int = 0,
    groups: int = 1,
    thresholds: NDArray[np.int32] | None = None,
    sign: NDArray[np.int8] | None = None,
    variant: str = "",
    shares: int = 1,
) -> NDArray[Any]:
    """sum over taps of weight_levels[weights] * activation_levels[x]: int32 (C_out, H_out, W_out).

    x           (C_in, H, W) codes below len(activation_levels); `outside` is the code around the image, whatever its level
    weights     (C_out, C_in / groups, k, k) codes below len(weight_levels); at most MAX_TERMS products in one sum
    levels      int8, 2, 4, 8 or 16 of them, in any order
    thresholds  (C_out, levels - 1) int32, ascending, with a sign (C_out,) of -1 or +1: the result is then the uint8 codes of that
                epilogue, count(sign * sum >= threshold)
    variant     one of nas.runtime.executor.variants('conv2d_codebook'); the fastest that fits where empty
    shares      in how many pieces the work is done, one by one
    """
    weights, levels = np.asarray(weights), len(weight_levels)
    if weights.ndim != 4 or weights.shape[2] != weights.shape[3] or weights.shape[1] * groups != len(x):
        raise ArtifactError(f"conv2d_codebook: weights {weights.shape} do not suit {len(x)} channels in {groups} groups")
    bits = levels.bit_length() - 1
    if (weights.size and int(weights.max()) >= levels) or levels not in (2, 4, 8, 16):
        raise ArtifactError(f"conv2d_codebook: weight codes up to {weights.max()} and {levels} levels; 2, 4, 8 or 16 levels, one a code")
    if thresholds is not None:
        thresholds = np.ascontiguousarray(thresholds, np.int32)
        sign = np.ones(len(thresholds), np.int8) if sign is None else np.ascontiguousarray(sign, np.int8)
    codes = weights.astype(np.int8)
    packed = pack_weights(2 * codes - 1 if bits == 1 else codes - np.int8(levels // 2), bits)
    books = np.ascontiguousarray(weight_levels), np.ascontiguousarray(activation_levels)
    geometry = stride, padding, outside, groups
    return engine().conv2d_codebook(
        np.ascontiguousarray(x), packed, len(weights), weights.shape[2], *books, *geometry, thresholds, sign, variant, shares
    )
