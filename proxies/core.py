"""@proxy, Proxy, Score, score(), catalog(): the contract of a signal that needs no training.

A proxy is one small function.  `score` hands it a fresh seeded model, times it, repeats it over seeds, and turns a value that is
no number into a failure with its reason.
"""

from __future__ import annotations

import copy
import inspect
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

import torch

from proxies.errors import ProxyError
from proxies.loss import set_prior
from proxies.probe import Probe
from proxies.walk import channels_last, quantized_start
from searchspaces import SPACES, Arch, Graph
from searchspaces.fakequant import set_mode
from searchspaces.module import GraphModule, to_torch
from searchspaces.quantizers import floated

GROUP = "edgenas.proxies"
SIDE = 96  # of the images that batch-norm statistics are taken from before branches are merged
NEEDS = frozenset({"gradient", "graph", "bits"})


@dataclass(frozen=True)
class Proxy:
    """A proxy of the catalog.  `needs` decides what its function gets as first argument:

    nothing      the float nn.Module in train mode (of one that has fake-quantizers, they are off), no gradients recorded
    "gradient"   the same, gradients recorded; a detector's last biases are those that training starts from
    "bits"       the module with fake-quantizers where bits are below 32, rep branches merged, in train mode
    "graph"      the Graph in training form; no torch module is built
    """

    name: str
    function: Callable[[Any, Probe], float]
    higher_is_better: bool
    needs: frozenset[str]
    source: str

    @property
    def file(self) -> str:
        return inspect.getsourcefile(self.function) or "<unknown file>"

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def __call__(self, model: Any, probe: Probe) -> float:
        return self.function(model, probe)


def proxy(*, higher_is_better: bool, needs: Iterable[str] = (), source: str) -> Callable[[Callable[[Any, Probe], float]], Proxy]:
    """Makes a Proxy of a function (model or graph, probe) -> float, under the function's name.  Registers nothing."""
    wants = frozenset(needs)

    def wrap(function: Callable[[Any, Probe], float]) -> Proxy:
        if unknown := sorted(wants - NEEDS):
            raise ProxyError(f"proxy '{function.__name__}' needs '{unknown[0]}', which is unknown: {', '.join(sorted(NEEDS))}")
        return Proxy(function.__name__, function, higher_is_better, wants, source)

    return wrap


@dataclass(frozen=True)
class Score:
    """What one proxy says of one network: `value` is the mean over seeds, `noise` the standard deviation over them (0 for one
    seed), `seconds` the processor time a seed took.  A failed score has an `error` and no value.
    """

    proxy: str
    value: float | None
    noise: float | None
    seconds: float
    values: tuple[float, ...] = ()
    error: str | None = None

    def number(self) -> float:
        """The value; raises ProxyError with the reason where the score failed."""
        if self.value is None:
            raise ProxyError(self.error)
        return self.value


def score(proxy: Proxy, network: Graph | Arch | GraphModule, probe: Probe, seeds: Iterable[int] = (0,)) -> Score:
    """The proxy's Score of a network, each seed on its own copy.

    A Graph (training form) or an Arch gets start weights from the seed; of a GraphModule, which has weights, copies are taken.
    The probe is resized to the network's input.  A value that is not finite, or any fault inside the proxy, is a failed Score.
    """
    seeds = tuple(seeds)
    if not seeds:
        raise ProxyError(f"{proxy.name}: no seeds given")
    if isinstance(network, Arch):
        if network.space not in SPACES:
            raise ProxyError(f"unknown space '{network.space}'; spaces: {', '.join(SPACES)}")
        network = SPACES[network.space].build(network, probe.classes)
    graph = network.graph if isinstance(network, GraphModule) else network
    seen = replace(probe.at(graph.of("input")[0].shape[-1]), scored=graph)
    values: list[float] = []
    begin = time.process_time()
    for seed in seeds:
        try:
            value = _value(proxy, network, replace(seen, seed=seed))
            if not math.isfinite(value):
                raise ProxyError(f"the value is {value}")
        except Exception as fault:  # a proxy is foreign code: whatever goes wrong in it is this candidate's failure
            reason = f"{proxy.name} (seed {seed}): {fault if isinstance(fault, ProxyError) else f'{type(fault).__name__}: {fault}'}"
            return Score(proxy.name, None, None, (time.process_time() - begin) / (len(values) + 1), tuple(values), reason)
        values.append(value)
    mean = math.fsum(values) / len(values)
    noise = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / max(1, len(values) - 1))
    return Score(proxy.name, mean, noise, (time.process_time() - begin) / len(values), tuple(values))


def _value(proxy: Proxy, network: Graph | GraphModule, probe: Probe) -> float:
    with torch.random.fork_rng(devices=[]), nullcontext() if "gradient" in proxy.needs else torch.no_grad():
        torch.manual_seed(probe.seed)
        if "graph" in proxy.needs:
            return float(proxy(probe.graph, probe))
        if isinstance(network, GraphModule):
            model = copy.deepcopy(network)
            if "bits" not in proxy.needs:
                set_mode(model, "off")
            return float(proxy(model, probe))
        model = quantized_start(network, probe.shrunk(SIDE).images) if "bits" in proxy.needs else to_torch(floated(network))
        if "gradient" not in proxy.needs:
            model = channels_last(model)
        elif model.maps:
            set_prior(model)
        return float(proxy(model.train(), probe))


def catalog(*proxies: Proxy) -> Mapping[str, Proxy]:
    """Name -> Proxy; raises ProxyError where two have one name, naming both files."""
    table: dict[str, Proxy] = {}
    for item in proxies:
        if not isinstance(item, Proxy):
            raise ProxyError(f"{item!r} is no proxy: decorate a function (model, probe) -> float with @proxy")
        if item.name in table:
            raise ProxyError(f"two proxies are named '{item.name}': one in {table[item.name].file}, one in {item.file}")
        table[item.name] = item
    return MappingProxyType(table)


def plugins(points: Iterable[EntryPoint] | None = None) -> tuple[tuple[Proxy, ...], Mapping[str, str]]:
    """The proxies of other distributions (entry point group `edgenas.proxies`), and name -> reason of those that do not load."""
    found: list[Proxy] = []
    broken: dict[str, str] = {}
    for point in entry_points(group=GROUP) if points is None else points:
        try:
            loaded = point.load()
        except Exception as fault:  # one bad plug-in must not take the others away
            broken[point.name] = f"{point.value}: {type(fault).__name__}: {fault}"
            continue
        if isinstance(loaded, Proxy):
            found.append(loaded)
        else:
            broken[point.name] = f"{point.value} is a {type(loaded).__name__}; a function decorated with @proxy is needed"
    return tuple(found), MappingProxyType(broken)


def find(name: str, table: Mapping[str, Proxy], broken: Mapping[str, str] = MappingProxyType({})) -> Proxy:
    """The proxy of that name; raises ProxyError listing the known ones, and why a plug-in of that name did not load."""
    if name in table:
        return table[name]
    if name in broken:
        raise ProxyError(f"the plug-in proxy '{name}' does not load: {broken[name]}")
    raise ProxyError(f"unknown proxy '{name}'; proxies: {', '.join(table)}")
