"""From real arithmetic to integers: how an accumulator becomes an output code.

The real function of channel c is y = act(acc * m[c] + b[c]), and its code on a grid is clip(floor(y / scale + zero_point + 1/2)):
rounding is half up, here and nowhere else (torch rounds half to even; the two differ on exact halves alone).
"""

import numpy as np
from numpy.typing import NDArray

from nas.compiler.activations import ACTIVATION, LOWEST, STEEPEST
from nas.compiler.errors import CompilerError
from nas.compiler.grids import Grid, Real
from nas.runtime.plan import Requant
from searchspaces.ops import LEAKY_SLOPE, NARROW_BITS

TABLE_ERROR = 1 / 64        # of an output step, before rounding: what a table is made fine enough for, where MAX_TABLE allows
MAX_TABLE = 4096
COARSE_BITS = 2             # up to here thresholds are few: 13 bytes a channel at 2 bits, 29 and 61 at 3 and 4
LINEAR = ("none", "relu", "relu6")      # ReLU is a lower clip of the codes, ReLU6 an upper one too
ADD_LIMIT = 2**22           # of a sum's multipliers: twice 255 codes stay inside int32
_INT32 = np.iinfo(np.int32)
_SCAN = 8192                # samples in the search for the range in which a code still changes
_TAIL = 40.0                # beyond +-40, silu, gelu, hardswish and sigmoid are at their asymptotes in float64


def requant(m: Real, b: Real, act: str, grid: Grid, reach: int) -> Requant:
    """The cheapest epilogue that computes the codes of act(acc * m + b), |acc| <= reach, on `grid`.

    linear     none, relu and relu6 from 3 bits on: multiplier and bias; off by one code only within 2^-18 of a half
    threshold  up to 4 bits all others whose codes never fall, SiLU among them where a step hides its dip: exact
    table      everything else: act is sampled at most TABLE_ERROR of an output step from its argument (see `table`)
    """
    m, b = np.atleast_1d(np.asarray(m, dtype=np.float64)), np.atleast_1d(np.asarray(b, dtype=np.float64))
    if not (np.isfinite(m).all() and np.isfinite(b).all()):
        raise CompilerError("a scale or bias is not finite")
    if act in LINEAR and grid.bits > COARSE_BITS:
        return linear(m, b, act, grid, reach)
    if grid.bits <= NARROW_BITS and _climbs(act, grid):
        return thresholds(m, b, act, grid)
    return table(m, b, act, grid, reach)


def _climbs(act: str, grid: Grid) -> bool:
    """Whether the codes of act never fall: always where it is monotone, else where the grid is too coarse to see its dip below 0."""
    return act not in LOWEST or bool(grid.codes(np.float64(LOWEST[act])) == grid.codes(np.float64(0.0)))


def linear(m: Real, b: Real, act: str, grid: Grid, reach: int) -> Requant:
    """ReLU is the lower clip and ReLU6 the upper one, for rounding is monotone."""
    lo, hi = _clip(act, grid)
    multiplier, bias, shift = fixed_point(m / grid.scale, b / grid.scale + (grid.zero_point + 0.5), reach)
    return Requant("linear", shift=shift, lo=lo, hi=hi, multiplier=multiplier, bias=bias)


def _clip(act: str, grid: Grid) -> tuple[int, int]:
    lo = grid.zero_point if act in ("relu", "relu6") else 0
    hi = int(grid.codes(np.float64(6.0))) if act == "relu6" else grid.highest
    return lo, hi


def fixed_point(m: Real, b: Real, reach: int) -> tuple[NDArray[np.int32], NDArray[np.int64], int]:
    """(multiplier, bias, shift) with floor(acc * m + b) = (acc * multiplier + bias) >> shift for |acc| <= reach.

    The largest multiplier gets 31 bits, so the error stays below reach * max|m| * 2^-31.  A bias so large that its channel is
    saturated whatever acc is (a dead channel of a batch-norm) is cut to what still saturates.
    """
    limit = reach * np.abs(m) + 2 * MAX_TABLE
    b = np.clip(b, -limit, limit)
    largest = max(float(np.abs(m).max()), 2.0**-40)
    shift = 30 - int(np.floor(np.log2(largest)))
    shift = min(shift, 61 - int(np.ceil(np.log2(float(np.abs(b).max()) + 1.0))), 62)
    if shift < 0:
        raise CompilerError(f"a requantization multiplies by {largest:.3g}: an output step is far too small for its accumulator")
    if np.rint(largest * 2.0**shift) > _INT32.max:
        shift -= 1
    return np.rint(m * 2.0**shift).astype(np.int32), np.rint(b * 2.0**shift).astype(np.int64), shift


def sum_linear(a: Grid, b: Grid, act: str, grid: Grid) -> tuple[int, int, Requant]:
    """(multiplier_a, multiplier_b, requant) of a sum of codes whose every step fits int32, which is what the fast kernels take.

    The output's step is worth 2^shift, and the sum itself is shifted: the real ratio of each scale is rounded to 2^-shift, so with
    scales of one magnitude the sum is off by less than 2^-12 of an output step.
    """
    ratios = [a.scale / grid.scale, b.scale / grid.scale]
    for shift in range(31, -1, -1):
        ma, mb = (round(ratio * 2.0**shift) for ratio in ratios)
        bias = round((grid.zero_point + 0.5) * 2.0**shift)
        reach = 255 * (ma + mb)
        if max(ma, mb) < ADD_LIMIT and reach + abs(bias - ma * a.zero_point - mb * b.zero_point) < _INT32.max:
            lo, hi = _clip(act, grid)
            return ma, mb, Requant("linear", shift=shift, lo=lo, hi=hi, multiplier=np.ones(1, np.int32), bias=np.array([bias]))
    raise CompilerError(f"the scales {a.scale:.3g} and {b.scale:.3g} of a sum are too large for its output step {grid.scale:.3g}")


def thresholds(m: Real, b: Real, act: str, grid: Grid) -> Requant:
    """For each channel the 2^bits - 1 sums at which the code steps; a channel with negative m counts downwards.

    Found by bisection of the real function itself, so that the steps are those of `Grid.codes` to the last bit of float64.  A step
    that no int32 reaches is at its end.
    """
    sign = np.where(m < 0, -1, 1)
    slope = np.abs(m)[:, None]                                                  # (C, 1): the sum is signed, its slope is not
    k = np.arange(1, grid.highest + 1)                                          # (levels - 1,)

    def reaches(acc: Real) -> NDArray[np.bool_]:
        return grid.codes(ACTIVATION[act](acc * slope + b[:, None])) >= k

    low = np.full((len(m), grid.highest), _INT32.min - 1.0)                     # below the step
    high = np.full_like(low, _INT32.max)                                        # at the step, or the end
    for _ in range(32):                                                         # high - low is 2^32 at first, 1 at last
        middle = np.floor((low + high) / 2)
        reached = reaches(middle)
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    return Requant("threshold", thresholds=high.astype(np.int32), sign=sign.astype(np.int8))


def table(m: Real, b: Real, act: str, grid: Grid, reach: int) -> Requant:
    """The range of arguments in which the code still changes, cut into equal steps; each entry is the code at its middle.

    The table is the smallest that holds `table_error` to TABLE_ERROR, up to MAX_TABLE entries.
    """
    start, stop, entries = _cut(act, grid)
    step = (stop - start) / (entries - 2)                                       # the first and last entry lie outside
    codes = grid.codes(ACTIVATION[act](start + (np.arange(entries) - 0.5) * step))
    codes[[0, -1]] = grid.codes(ACTIVATION[act](np.array([start, stop])))
    multiplier, bias, shift = fixed_point(m / step, (b - start) / step + 1, reach)
    return Requant("table", shift=shift, multiplier=multiplier, bias=bias, table=codes.astype(np.uint8))


def table_error(act: str, grid: Grid) -> float:
    """The most by which a table's activation is off before rounding, in output steps: half a table step at the steepest slope.

    At 8 bits MAX_TABLE is what limits it.  For a SiLU it is 1/16 where the codes span 9 in real numbers, 1/8 at 3 and 1/3 at 1, for its
    flat tail keeps its length; for a LeakyReLU, ten times as wide on its negative side, 1/16 at a zero point of 28 and 1/6 at 128.
    """
    start, stop, entries = _cut(act, grid)
    return (stop - start) / (entries - 2) / 2 * STEEPEST.get(act, 1.0) / grid.scale


def _cut(act: str, grid: Grid) -> tuple[float, float, int]:
    """(start, stop, entries) of a table: the range of arguments that all but its first and last entry divide."""
    start, stop = _changing(act, grid)
    entries = 4
    while entries < MAX_TABLE and (stop - start) / (entries - 2) / 2 * STEEPEST.get(act, 1.0) > TABLE_ERROR * grid.scale:
        entries *= 2
    return start, stop, entries


def preactivation_grid(act: str, grid: Grid) -> Grid:
    """8-bit codes over the range of arguments in which the code of act still changes, 0 among the values they stand for."""
    start, stop = _changing(act, grid)
    low, high = min(start, 0.0), max(stop, 0.0)
    scale = float(np.float32((high - low) / 255))
    return Grid(8, scale, min(round(-low / scale), 255))


def _changing(act: str, grid: Grid) -> tuple[float, float]:
    """(start, stop): below and above, the code of act is constant."""
    span = (grid.highest + 1) * grid.scale
    y = np.linspace(-span / LEAKY_SLOPE if act == "leaky_relu" else -_TAIL, span + _TAIL, _SCAN)
    changes = np.flatnonzero(np.diff(grid.codes(ACTIVATION[act](y))))
    return (float(y[changes[0]]), float(y[changes[-1] + 1])) if len(changes) else (0.0, grid.scale)


def to_float(m: Real, b: Real) -> Requant:
    """The real value itself, for maps that a decoder reads."""
    scale, offset = np.atleast_1d(m).astype(np.float32), np.atleast_1d(b).astype(np.float32)
    if not (np.isfinite(scale).all() and np.isfinite(offset).all()):
        raise CompilerError("a scale or bias is not finite")
    return Requant("float", scale=scale, offset=offset)


def code_table(source: Grid, target: Grid, act: str = "none") -> NDArray[np.uint8]:
    """(256,) the code on `target` of act(what each code on `source` stands for): exact; entries no code reaches are 0."""
    codes = np.zeros(256, dtype=np.uint8)
    codes[: source.highest + 1] = target.codes(ACTIVATION[act](source.reals()))
    return codes
