"""Signals without training: how good a network may get, told from its graph or from its start weights.

`PROXIES` is the table of them all: those of BUILT_IN, and those of other distributions by the entry point group `edgenas.proxies`.
`BROKEN_PLUGINS` says of each that does not load why.
"""

from collections.abc import Mapping
from typing import Any

from proxies.activation import nwot, nwot_conv, swap
from proxies.az_nas import az_complexity, az_expressivity, az_nas_rank, az_progressivity, az_trainability
from proxies.core import Proxy, Score, catalog, find, plugins, proxy, score
from proxies.counting import activation_elements, macs, params, resolution
from proxies.entropy import entropy, meco
from proxies.errors import ProxyError
from proxies.gradient import fisher, grad_norm, grasp, jacob_cov, l2_norm, plain, snip, synflow, zico
from proxies.probe import Probe, noise_probe, probe
from proxies.sensitivity import quant_noise

BUILT_IN = catalog(
    nwot_conv, nwot, swap, meco, entropy,
    zico, synflow, snip, grasp, fisher, grad_norm, plain, jacob_cov, l2_norm,
    az_expressivity, az_progressivity, az_trainability, az_complexity,
    quant_noise, macs, params, activation_elements, resolution,
)  # fmt: skip
PROXIES: Mapping[str, Proxy]
BROKEN_PLUGINS: Mapping[str, str]


def __getattr__(name: str) -> Any:
    """Joins the plug-ins at first use, not at import: a plug-in's own module imports this package."""
    if name not in ("PROXIES", "BROKEN_PLUGINS"):
        raise AttributeError(f"module 'proxies' has no attribute '{name}'")
    installed, broken = plugins()
    globals().update(PROXIES=catalog(*BUILT_IN.values(), *installed), BROKEN_PLUGINS=broken)
    return globals()[name]


__all__ = [
    "BROKEN_PLUGINS", "BUILT_IN", "PROXIES", "Probe", "Proxy", "ProxyError", "Score", "az_nas_rank", "catalog", "find", "noise_probe",
    "plugins", "probe", "proxy", "score",
]  # fmt: skip
