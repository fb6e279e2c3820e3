"""What a whole network amounts to for a runtime that is not ours: sums over its operators, and the traits that follow from them.

Our own kernels are priced operator by operator (operators.py).  Of a foreign runtime only the time of whole networks is known, and not
how it computes: each amount is one way in which such a runtime may spend time.  All are taken from shapes, so a network has the same
profile in float and in 8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwmodels.workload import OpCost, Workload
from searchspaces.ops import WEIGHTED

Vector = np.ndarray[tuple[int], np.dtype[np.float64]]
Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]

# Sums over the operators of a network; multiply-accumulates, elements and weights in millions.
AMOUNTS = (
    "network",  # 1
    "conv calls", "silu calls", "relu calls", "concat calls", "other calls",
    "macs", "k1 macs", "k3 macs", "strided macs",  # all; 1x1; 3x3 of stride 1; stride 2 and transposed
    # Work that a device does on filled-up shapes: channels in multiples (vector lanes, matrix units), rows in multiples of 8, both
    # sides of a map in multiples of 8, positions in multiples of 128.
    "channels8 macs", "channels32 macs", "row8 macs", "tile8 macs", "positions128 macs",
    "thin macs",  # of fewer than 64 input channels: little work per value loaded
    "map64 macs", "map256 macs", "map400 macs", "wide map macs",  # on maps of fewer than 64, 256, 401 and more than 6400 positions
    "root macs",  # sum of square roots, in thousands: operators too small to fill a device
    "elements", "silu elements", "relu elements", "bare elements",  # results of weighted operators: all, and by what follows
    "small silu elements", "root silu elements",  # on maps of at most 400 positions; sum of square roots, in thousands
    "tile8 elements", "unfolded elements", "spilled elements",  # filled up; inputs times kernel^2 (im2col); beyond a cache of SPILL
    "concat elements", "add elements", "maxpool elements", "upsample elements", "slice elements", "image elements",
    "weights", "late weights",  # learned numbers: all, and those of maps of fewer than 64 positions
)  # fmt: skip
SPILL = 250e3  # elements of an operator's input and output that a megabyte of floats holds
_COLUMN = {name: i for i, name in enumerate(AMOUNTS)}
_COUNTED = frozenset(name for name in AMOUNTS if name.endswith(" calls") or name == "network")
_UNIT = np.array([1.0 if name in _COUNTED else 1e-3 if name.startswith("root ") else 1e-6 for name in AMOUNTS])
_ACTS = ("", "silu", "relu")
_MOVED = {op: _COLUMN[f"{op} elements"] for op in ("concat", "add", "maxpool", "upsample", "slice")}
_MOVED |= {"input": _COLUMN["image elements"], "scale": _COLUMN["add elements"], "batchnorm": _COLUMN["add elements"]}
_FREE = frozenset({"input", "flatten", "quantize", "dfl_decode", "activation"})  # no kinds of their own
_RAW = ("input", "flatten", "quantize")  # no call of their own

# What a fit may depend on beyond sums: (name, middle, spread), the latter two over the 968 networks of YOLOBench.
_TRAITS = (
    ("log macs", 8.56, 1.23), ("log weights", 2.85, 1.06), ("log side", 5.71, 0.34), ("log elements", 2.23, 0.87),
    ("relu share", 0.3, 0.43), ("log conv calls", 4.59, 0.25), ("log other calls", 3.57, 0.64), ("k1 share", 0.13, 0.06),
    ("log channels32", 0.22, 0.23), ("log concat", -1.74, 0.69), ("log add", -2.04, 1.29), ("log root macs", 6.44, 0.64),
    ("map400 share", 0.41, 0.23), ("map256 share", 0.28, 0.16), ("log tile8", 0.29, 0.19), ("log tile8 elements", 0.17, 0.12),
    ("log positions128", 0.24, 0.2), ("slice share", 0.02, 0.05), ("log intensity", 6.29, 0.56), ("log silu calls", 3.23, 1.99),
    ("small silu share", 0.14, 0.15), ("wide map share", 0.07, 0.06), ("log root silu", 1.98, 1.99),
)  # fmt: skip
TRAITS = tuple(name for name, _, _ in _TRAITS)


def amounts(workload: Workload) -> Vector:
    """(len(AMOUNTS),), never negative."""
    total = np.zeros(len(AMOUNTS))
    total[_COLUMN["network"]] = 1.0
    rows = []
    for op in workload.ops:
        if op.op in WEIGHTED:
            act = _ACTS.index(op.activation) if op.activation in _ACTS else 0
            rows.append((op.macs, op.elements, op.c_in, op.c_out, op.kernel, op.stride, op.h_out * op.w_out, op.params, act))
            continue
        total[_COLUMN["other calls"]] += op.op not in _RAW
        if op.op in _MOVED:
            total[_MOVED[op.op]] += op.elements
            total[_COLUMN["concat calls"]] += op.op == "concat"
        elif op.op == "activation" and op.activation in _ACTS:
            total[_COLUMN[f"{op.activation} elements"]] += op.elements
            total[_COLUMN[f"{op.activation} calls"]] += 1
    if rows:
        _add_weighted(np.array(rows, dtype=np.float64).T, total)
    return total * _UNIT


def _add_weighted(columns: Matrix, total: Vector) -> None:
    """Add what convs and linears amount to; `columns` (9, operators) as gathered in `amounts`."""
    macs, elements, c_in, c_out, kernel, stride, positions, weights, act = columns
    side = np.sqrt(positions)
    silu, relu, small = act == _ACTS.index("silu"), act == _ACTS.index("relu"), positions <= 400
    row8 = _filled(side, 8) / side
    inputs = c_in * positions * stride**2
    found = {
        "conv calls": np.ones(len(macs)), "silu calls": silu, "relu calls": relu,
        "macs": macs, "k1 macs": macs * (kernel == 1), "k3 macs": macs * ((kernel == 3) & (stride == 1)),
        "strided macs": macs * (stride > 1),
        "channels8 macs": macs * _filled(c_in, 8) * _filled(c_out, 8) / (c_in * c_out),
        "channels32 macs": macs * _filled(c_in, 32) * _filled(c_out, 32) / (c_in * c_out),
        "row8 macs": macs * row8, "tile8 macs": macs * row8**2, "positions128 macs": macs * _filled(positions, 128) / positions,
        "thin macs": macs * (c_in < 64), "map64 macs": macs * (positions < 64), "map256 macs": macs * (positions < 256),
        "map400 macs": macs * small, "wide map macs": macs * (positions > 6400), "root macs": np.sqrt(macs),
        "elements": elements, "silu elements": elements * silu, "relu elements": elements * relu, "bare elements": elements * (act == 0),
        "small silu elements": elements * (silu & small), "root silu elements": np.sqrt(elements * silu),
        "tile8 elements": elements * row8**2, "unfolded elements": c_in * positions * kernel**2 * (kernel > 1),
        "spilled elements": np.maximum(inputs + elements - SPILL, 0), "weights": weights, "late weights": weights * (positions < 64),
    }  # fmt: skip
    for name, values in found.items():
        total[_COLUMN[name]] += values.sum()


def _filled(sizes: Vector, multiple: int) -> Vector:
    return np.ceil(sizes / multiple) * multiple


def profiles(workloads: Sequence[Workload]) -> Matrix:
    """(workloads, len(AMOUNTS))."""
    return np.stack([amounts(load) for load in workloads]) if workloads else np.zeros((0, len(AMOUNTS)))


def traits(profile: Matrix) -> Matrix:
    """(n, len(TRAITS)) of (n, len(AMOUNTS)), in spreads from the middle of YOLOBench's networks."""
    amount = dict(zip(AMOUNTS, profile.T))
    macs, acted = amount["macs"] + _TINY, amount["silu elements"] + amount["relu elements"] + _TINY
    columns = {
        "log macs": np.log(macs), "log weights": np.log(amount["weights"] + _TINY),
        "log side": np.log(amount["image elements"] / 3e-6 + _TINY) / 2,
        "log elements": np.log(acted), "relu share": amount["relu elements"] / acted,
        "log conv calls": np.log(amount["conv calls"] + 1), "log other calls": np.log(amount["other calls"] + 1),
        "k1 share": amount["k1 macs"] / macs, "log channels32": np.log(amount["channels32 macs"] / macs + _TINY),
        "log concat": np.log(amount["concat elements"] / acted + 0.01), "log add": np.log(amount["add elements"] / acted + 0.01),
        "log root macs": np.log(amount["root macs"] + _TINY), "map400 share": amount["map400 macs"] / macs,
        "map256 share": amount["map256 macs"] / macs, "log tile8": np.log(amount["tile8 macs"] / macs + _TINY),
        "log tile8 elements": np.log(amount["tile8 elements"] / (amount["elements"] + _TINY) + _TINY),
        "log positions128": np.log(amount["positions128 macs"] / macs + _TINY), "slice share": amount["slice elements"] / acted,
        "log intensity": np.log(macs / (amount["elements"] + _TINY)), "log silu calls": np.log(amount["silu calls"] + 1),
        "small silu share": amount["small silu elements"] / acted, "wide map share": amount["wide map macs"] / macs,
        "log root silu": np.log(amount["root silu elements"] + 0.3),
    }  # fmt: skip
    return np.stack([(columns[name] - middle) / spread for name, middle, spread in _TRAITS], axis=1)


_TINY = 1e-6  # keeps logs finite for a workload of one operator


def kinds(workload: Workload) -> frozenset[str]:
    """What must have been measured before a network can be priced: 'conv2d k3 s2', 'conv2d k3 depthwise', 'maxpool', 'silu'."""
    acts = {act for act in workload.activation_elements if act != "none"}
    return frozenset({_kind(op) for op in workload.ops if op.op not in _FREE} | acts)


def _kind(op: OpCost) -> str:
    if op.op not in WEIGHTED:
        return op.op
    grouped = "" if op.groups == 1 else " depthwise" if op.groups == op.c_in else " grouped"
    return f"{op.op} k{op.kernel}{f' s{op.stride}' if op.stride > 1 else ''}{grouped}"
