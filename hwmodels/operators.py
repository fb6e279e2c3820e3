"""Operator costs: how the time of an operator is described, and a fitted table that prices it.

The time of a network is the sum over its operators, and that of an operator a sum over its features, each with a cost of its own
per (kind of operator, precision).  Who fits the costs does not matter here; predictors.operator_sums does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from hwmodels.errors import DeviceError
from hwmodels.layout import AFTER_MAPS
from hwmodels.workload import OpCost, Workload
from searchspaces.ops import FLOAT_BITS, NARROW_BITS, WEIGHTED

LANES, LOOKUP_LANES, BLOCK = 16, 64, 8  # a vector kernel computes so many positions by so many output channels; it pads to them
_LOOKUP_BITS = 2  # up to here products can be looked up, above it they are multiplied
_COARSE_BITS = 2  # clips count thresholds up to here, curves up to NARROW_BITS


@dataclass(frozen=True)
class Estimate:
    """Milliseconds of one run; measured times fall between low and high in about nine cases of ten."""

    mean_ms: float
    low_ms: float
    high_ms: float


def kind(op: OpCost) -> str:
    """What is priced together: 'conv2d.k3 w4a8', 'maxpool.k5 codes'.  Depthwise and grouped convs are kinds of their own."""
    if op.op not in WEIGHTED:
        window = f".k{op.kernel}" if op.op == "maxpool" else ""
        return f"{op.op}{window} {'fp32' if op.precision == 'fp32' else 'codes'}"
    grouped = "" if op.groups == 1 else ".depthwise" if op.groups == op.c_in else ".grouped"
    return f"{op.op}.k{op.kernel}{'s2' if op.stride == 2 else ''}{grouped} {op.precision}"


def features(op: OpCost) -> Iterator[tuple[str, float]]:
    """(feature, amount) of one operator: calls, work in whole vectors, elements written by epilogue, bytes read and moved.

    A vector kernel runs over the positions of the padded image in one line, so a row costs `kernel // 2` positions more than it
    has, and the last vector and the last block of channels are computed whole.
    """
    name = kind(op)
    if op.op not in _COPIED:
        yield f"{name} calls", 1.0
    if op.op not in WEIGHTED:
        yield f"{name} bytes", float(op.bytes_moved)
        if op.op in _BY_ROWS:
            yield f"{name} rows", float(op.c_out * op.h_out)
        return
    positions = op.h_out * (op.w_out + op.kernel // 2)
    lanes = LOOKUP_LANES if _looks_up(op) else LANES
    elements = -(-op.c_out // BLOCK) * BLOCK * -(-positions // lanes) * lanes
    yield f"{name} macs", float(op.macs)
    yield f"{name} padded macs", op.macs / op.elements * elements
    yield f"{_family(op)} {_epilogue(op)} elements", float(elements)
    if op.kernel > 1 or op.stride > 1:
        yield f"{_family(op)} copied{'.s2' if op.stride == 2 else ''} bytes", float(op.bytes_in)


_BY_ROWS = frozenset({"maxpool", "upsample"})  # short rows cost these as much as long ones
_COPIED = frozenset({"input", *AFTER_MAPS})  # the image is copied in and the raw maps out, as part of one call


def _family(op: OpCost) -> str:
    """Operators that share the code around the multiplications."""
    if op.precision == "fp32":
        return f"{op.op} fp32"
    return f"{op.op} {'lookup' if _looks_up(op) else 'dense'}"


def _looks_up(op: OpCost) -> bool:
    if op.precision == "fp32":
        return False
    weights, codes = op.precision[1:].split("a")
    return max(int(weights), int(codes)) <= _LOOKUP_BITS


def _epilogue(op: OpCost) -> str:
    """How sums become outputs: the cost depends on the activation and on how wide the codes are."""
    widths = {"coarse": _COARSE_BITS, "narrow": NARROW_BITS, "wide": FLOAT_BITS - 1, "float": FLOAT_BITS}
    width = next(name for name, bits in widths.items() if op.bits_out <= bits)
    return f"{op.activation or 'none'} {width}"


class OperatorTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fitted costs.  `cost` is ms per unit of each feature; `error_factor`: 90 % of nets lie within mean / f .. mean * f."""

    cost: Mapping[str, float]
    error_factor: float

    def predict(self, workload: Workload) -> Estimate:
        """The sum over all operators; raises DeviceError for one whose like was never measured."""
        mean = sum(self.price(op) for op in workload.ops)
        return Estimate(mean, mean / self.error_factor, mean * self.error_factor)

    def price(self, op: OpCost) -> float:
        """Milliseconds of one operator."""
        total = 0.0
        for feature, amount in features(op):
            if feature not in self.cost:
                what = f"operator '{op.name}' ({kind(op)}) was never measured on this device: no cost for '{feature}'"
                raise DeviceError(f"{what}; measured: {', '.join(self.kinds(op.op)) or f'no {op.op} at all'}")
            total += self.cost[feature] * amount
        return total

    def kinds(self, op: str) -> list[str]:
        """The kinds of an operator that were measured."""
        measured = [feature.removesuffix(" calls") for feature in self.cost if feature.endswith(" calls")]
        return sorted(name for name in measured if name.startswith((f"{op} ", f"{op}.")))
