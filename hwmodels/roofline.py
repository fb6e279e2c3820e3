"""Roofline: the least time that the hardware of a device needs for an operator (Williams et al. 2009, doi:10.1145/1498765.1498785)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwmodels.errors import DeviceError
from hwmodels.layout import AFTER_MAPS
from hwmodels.workload import OpCost

if TYPE_CHECKING:
    from hwmodels.device import Device

# Operators whose arithmetic hides behind their memory traffic.
MEMORY_BOUND = frozenset({
    "input", "batchnorm", "activation", "add", "mul", "scale", "concat", "slice", "flatten", "upsample", "maxpool", "global_avgpool",
    "quantize", *AFTER_MAPS,
})  # fmt: skip


def latency_ms(op: OpCost, device: Device) -> float:
    """The slower of the multiply units and the memory bus; raises DeviceError for what cannot be priced, never zero."""
    memory_ms = op.bytes_moved / (device.dram_gb_s * 1e6)
    if not op.macs:
        if op.op not in MEMORY_BOUND:
            raise DeviceError(f"{device.name} has no rate for the operator {op.op} (layer '{op.name}')")
        return memory_ms
    rate = device.macs_per_cycle.get(op.precision)
    if rate is None:
        rates = ", ".join(device.macs_per_cycle)
        raise DeviceError(f"{device.name} has no rate for {op.precision} (layer '{op.name}'); rates: {rates}")
    compute_ms = op.macs / (rate * device.cores * device.clock_ghz * 1e6)
    return max(compute_ms, memory_ms)
