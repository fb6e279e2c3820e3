"""Signals without training: how good a network may get, told from its graph or from its start weights.

`PROXIES` is the table of them all: those of BUILT_IN, and those of other distributions by the entry point group `edgenas.proxies`.
`BROKEN_PLUGINS` says of each that does not load why.
"""

from collections.abc import Mapping
from typing import Any

from proxies.activation import nwot
from proxies.core import Proxy, Score, catalog, find, plugins, proxy, score
from proxies.counting import activation_elements, macs, params, resolution
from proxies.errors import ProxyError
from proxies.probe import Probe, probe
from proxies.sensitivity import quant_noise

BUILT_IN = catalog(nwot, quant_noise, macs, params, activation_elements, resolution)
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
    "BROKEN_PLUGINS", "BUILT_IN", "PROXIES", "Probe", "Proxy", "ProxyError", "Score", "catalog", "find", "plugins", "probe",
    "proxy", "score",
]  # fmt: skip
