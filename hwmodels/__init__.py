"""What a network costs on a device: operator costs, memory plan, device files and latency.  No torch."""

from hwmodels.device import Device, devices, load
from hwmodels.errors import DeviceError
from hwmodels.memory import Arena, arena, flash_bytes
from hwmodels.operators import Estimate, OperatorTable
from hwmodels.workload import OpCost, Workload, workload

__all__ = [
    "Arena", "Device", "DeviceError", "Estimate", "OpCost", "OperatorTable", "Workload",
    "arena", "devices", "flash_bytes", "load", "workload",
]  # fmt: skip
