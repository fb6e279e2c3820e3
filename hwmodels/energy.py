"""Energy of one image: what multiplications and memory traffic take (Horowitz 2014, doi:10.1109/ISSCC.2014.6757323), from a device file.

No device that ships has these prices: they want a power meter on the board.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwmodels.errors import DeviceError
from hwmodels.workload import Workload

if TYPE_CHECKING:
    from hwmodels.device import Device


def energy_mj(workload: Workload, device: Device) -> float:
    """Millijoules; raises DeviceError where the device has no price for energy, or none for a precision."""
    if not device.prices_energy:
        raise DeviceError(f"{device.name} has no price for energy: its file needs pj_per_mac (pJ by precision) and pj_per_byte")
    picojoules = 0.0
    for op in workload.ops:
        if op.macs and op.precision not in device.pj_per_mac:
            raise DeviceError(f"{device.name} has no energy for {op.precision} (layer '{op.name}'): add pj_per_mac.{op.precision}")
        picojoules += op.macs * device.pj_per_mac.get(op.precision, 0.0) + op.bytes_moved * device.pj_per_byte
    return picojoules * 1e-9
