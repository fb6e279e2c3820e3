"""A search space held to what a device can price: its precisions, its activation functions, its operators."""

from __future__ import annotations

import numpy as np

from hwmodels.device import Device
from hwmodels.errors import DeviceError
from hwmodels.laws import NetworkTable
from hwmodels.workload import workload
from searchspaces.rewrite import deployed
from searchspaces.space import Arch, Space
from searchspaces.yolo import with_precisions

_DRAWS = 8  # networks of an option that are looked at
_CLASSES = 20


def priced(space: Space, device: Device) -> Space:
    """The space without the options that the device cannot price; raises DeviceError where no option of a gene is left.

    Options are judged one gene at a time, all others drawn at random from what is left: one that every network with it is refused for
    goes.  A network that is refused for a combination fails alone, when it is asked for.
    """
    space = with_precisions(space, device.precisions)
    if device.networks is None:
        return space
    acts = {c.name: [act for act in c.options if act in device.activations] for c in space.choices if _is_act(c.name)}
    if barred := [name for name, left in acts.items() if not left]:
        raise DeviceError(f"{device.name} was measured with {', '.join(device.activations)}, of which the gene {barred[0]} has none")
    space = space.limited(acts)
    rng = np.random.default_rng(0)
    for choice in space.choices:
        if len(choice.options) > 1 and all(isinstance(option, str) for option in choice.options) and not _is_act(choice.name):
            left = [option for option in choice.options if _any_priced(space.limited({choice.name: [option]}), device.networks, rng)]
            if not left:
                raise DeviceError(f"{device.name} can price no network of the space '{space.name}', whatever its {choice.name}")
            space = space.limited({choice.name: left})
    return space


def _is_act(gene: str) -> bool:
    return gene.endswith(".act")


def _any_priced(space: Space, table: NetworkTable, rng: np.random.Generator) -> bool:
    return any(_is_priced(space, space.sample(rng), table) for _ in range(_DRAWS))


def _is_priced(space: Space, arch: Arch, table: NetworkTable) -> bool:
    try:
        table.check(workload(deployed(space.build(arch, _CLASSES))))
    except DeviceError:
        return False
    return True
