"""Mixed activation functions: which activation at which site of a trained net, within a latency (ActNAS, arXiv:2410.10887).

Every site takes every candidate, one at a time.  What that does is told by two measures: how far the trained net's head maps move, and
the change of NWOT at start weights, which the paper goes by.  What it costs is taken from compiled nets of one activation each, operator by
operator (nas.quant.costs).  An exact integer program chooses, and the whole is measured.  How well costs add up is a result of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwmodels.device import Device
from hwmodels.memory import arena
from nas.deploy.local import find_device
from nas.finalist import calibration_batches
from nas.model import save
from nas.progress import Progress
from nas.quant.allocate import Table, drawn
from nas.quant.costs import LATENCY, latency, latency_costs, settled
from nas.quant.errors import QuantError
from nas.quant.precisions import at_precision
from nas.quant.sensitivity import head_distance, head_maps
from nas.scoring import probe_of
from nas.steps import float_detector
from proxies import PROXIES, Probe, score
from searchspaces import Graph, Weights
from searchspaces.module import to_torch
from searchspaces.ops import ACTIVATIONS
from searchspaces.quantizers import floated, quantized
from searchspaces.rewrite import deployed

GATE = "sigmoid"  # squeeze-and-excitation and the like: a factor, no activation to be chosen
SEEDS = 3  # of NWOT
MEASURES = ("loss", "nwot")
Sites = Mapping[str, tuple[str, ...]]  # site -> its activation nodes
Tick = Callable[[], None]


@dataclass(frozen=True)
class Scores:
    """What a candidate at one site does, others left as they are: site -> candidate -> value.

    loss    distance of the trained net's head maps from those before (nas.train's distillation loss), 0 where nothing changes
    nwot    change of NWOT at start weights, mean over seeds
    noise   standard error of that mean, from the changes seed by seed
    floor   standard deviation of the unchanged net's NWOT over the seeds
    """

    loss: Table
    nwot: Table
    noise: Table
    floor: float

    def minds(self, measure: str) -> Table:
        """What an allocation minimizes, by 'loss' or 'nwot'."""
        return self.loss if measure == "loss" else {site: {kind: -v for kind, v in row.items()} for site, row in self.nwot.items()}


@dataclass(frozen=True)
class Mix:
    """Site -> activation, with what the whole net then costs."""

    kinds: dict[str, str]
    costs: dict[str, float]


@dataclass(frozen=True)
class Additivity:
    """Sums of the sites' costs beside measured wholes, ms: `r2` of the sums as they are, `mape` in percent."""

    predicted: tuple[float, ...]
    measured: tuple[float, ...]

    @property
    def r2(self) -> float:
        truth, error = np.array(self.measured), np.subtract(self.measured, self.predicted)
        return float(1 - (error**2).sum() / max(((truth - truth.mean()) ** 2).sum(), 1e-30))

    @property
    def mape(self) -> float:
        return float(100 * np.mean(np.abs(np.subtract(self.measured, self.predicted)) / self.measured))


def sites(graph: Graph, per: str = "layer") -> dict[str, tuple[str, ...]]:
    """The activations that may be chosen: one site a 'layer', or one a 'part' of the net (stem, stage1, .., as the genes have it)."""
    if per not in ("layer", "part"):
        raise QuantError(f"no sites per '{per}'; layer and part are known")
    found: dict[str, tuple[str, ...]] = {}
    for node in graph.of("activation"):
        if node["kind"] != GATE:
            site = node.name if per == "layer" else node.name.partition(".")[0]
            found[site] = (*found.get(site, ()), node.name)
    if not found:
        raise QuantError("this net has no activation to choose")
    return found


def replaced(graph: Graph, places: Sites, kinds: Mapping[str, str]) -> Graph:
    """The graph with these activations (site -> kind); every other node is as it was."""
    if strange := [kind for kind in kinds.values() if kind not in ACTIVATIONS or kind == GATE]:
        raise QuantError(f"no activation '{strange[0]}' to choose; activations: {', '.join(k for k in ACTIVATIONS if k != GATE)}")
    return graph.edited({name: graph[name].having(kind=kind) for site, kind in kinds.items() for name in places[site]})


def kinds_of(graph: Graph, places: Sites) -> dict[str, str]:
    """Site -> its activations as they are, with commas where a part has several."""
    return {site: ", ".join(dict.fromkeys(graph[name]["kind"] for name in names)) for site, names in places.items()}


def operators(graph: Graph, places: Sites) -> dict[str, list[str]]:
    """Site -> the operators of the deploy form in which its activations are computed."""
    net = deployed(quantized(graph))

    def carrier(name: str) -> str:
        while name not in net:
            (name,) = graph[name].inputs
        return name

    return {site: [carrier(name) for name in names] for site, names in places.items()}


def scored(
    graph: Graph, weights: Weights, places: Sites, candidates: Sequence[str], images: Sequence[Tensor], classes: int, probe: Probe,
    seeds: Sequence[int] = range(SEEDS), tick: Tick = lambda: None,
) -> Scores:  # fmt: skip
    """Every candidate at every site, one at a time.  images: batches (N, 3, H, W) in 0..1; weights are float ones, branches merged."""
    bare = floated(graph)
    maps, before = head_maps(to_torch(bare, weights), images), _nwot(bare, probe, seeds)

    def effect(site: str, kind: str) -> tuple[float, float, float]:
        tick()
        other = replaced(bare, places, {site: kind})
        if other == bare:
            return 0.0, 0.0, 0.0
        with torch.no_grad():
            moved = float(head_distance(to_torch(other, weights).eval(), images, maps, classes))
        changes = _nwot(other, probe, seeds) - before
        return moved, float(changes.mean()), _spread(changes) / len(changes) ** 0.5

    effects = {site: {kind: effect(site, kind) for kind in candidates} for site in places}
    losses, means, noises = [{site: {kind: values[k] for kind, values in row.items()} for site, row in effects.items()} for k in range(3)]
    return Scores(losses, means, noises, _spread(before))


def _nwot(graph: Graph, probe: Probe, seeds: Sequence[int]) -> np.ndarray:
    """(seeds,) NWOT of a net at its start weights of each seed."""
    found = score(PROXIES["nwot"], graph, probe, seeds)
    found.number()
    return np.array(found.values)


def _spread(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def choose(
    graph: Graph, weights: Weights, places: Sites, minds: Table, costs: Table, images: Sequence[Tensor], device: Device, limit_ms: float
) -> Mix:
    """The least minded activations whose whole net, measured, stays within `limit_ms`.  Raises NothingFits with the least possible."""

    def whole(kinds: Mapping[str, str]) -> dict[str, float]:
        return {LATENCY: latency(replaced(graph, places, kinds), weights, images, device)[0]}

    return Mix(*settled(minds, {LATENCY: costs}, {LATENCY: limit_ms}, whole))


def total(table: Mapping[str, Mapping[str, float]], kinds: Mapping[str, str]) -> float:
    """The sum of a table's amounts over the sites."""
    return sum(table[site][kind] for site, kind in kinds.items())


def additivity(
    graph: Graph, weights: Weights, places: Sites, costs: Table, images: Sequence[Tensor], device: Device, mixes: int, seed: int = 0,
    tick: Tick = lambda: None,
) -> Additivity:  # fmt: skip
    """How well the sites' costs add up: `mixes` random assignments, predicted and measured."""
    rng = np.random.default_rng(seed)
    predicted, measured = [], []
    for _ in range(mixes):
        kinds = drawn({site: list(row) for site, row in costs.items()}, rng)
        predicted.append(total(costs, kinds))
        measured.append(latency(replaced(graph, places, kinds), weights, images, device)[0])
        tick()
    return Additivity(tuple(predicted), tuple(measured))


def ram_kib(graph: Graph) -> float:
    """KiB of the arena that the compiled net has, which is the planned one."""
    return arena(deployed(quantized(graph))).peak_bytes / 1024


def mix_file(
    model: Path, out: Path, data: str, limit_ms: float, device: str, candidates: Sequence[str], precision: str, per: str, measure: str,
    check: int, seed: int, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """The step on files: a float model with the chosen activations, which have yet to be trained, and the table of what was chosen."""
    if measure not in MEASURES:
        raise QuantError(f"no measure of sensitivity '{measure}' of activations; measures: {', '.join(MEASURES)}")
    trained, dataset = float_detector(model, data)
    graph = at_precision(trained.graph, precision) if precision else trained.graph
    places, images = sites(graph, per), list(calibration_batches(dataset, trained.size, 2))
    nets = {kind: replaced(graph, places, dict.fromkeys(places, kind)) for kind in candidates}
    board, count = find_device(device, progress), len(places) * len(nets)
    with progress.task("activations", count) as task:
        scores = scored(graph, trained.weights, places, candidates, images, len(dataset.classes), probe_of(dataset, trained.size),
                        range(seed, seed + SEEDS), lambda: task.advance(1))  # fmt: skip
    costs = latency_costs(nets, operators(graph, places), trained.weights, images, board)
    mix = choose(graph, trained.weights, places, scores.minds(measure), costs, images, board, limit_ms)
    result: dict[str, Any] = {"model": str(out), **mix.costs, "predicted_ms": total(costs, mix.kinds),
                              "before_ms": latency(graph, trained.weights, images, board)[0], "nwot_floor": scores.floor}  # fmt: skip
    if check:
        with progress.task("check", check) as task:
            sums = additivity(graph, trained.weights, places, costs, images, board, check, seed, lambda: task.advance(1))
        result["additivity"] = {"random_mixes": check, "r2": sums.r2, "mape_percent": sums.mape}
    save(replace(trained, graph=replaced(trained.graph, places, mix.kinds)), out)
    everywhere = [{"activation": kind, "latency_ms": total(costs, dict.fromkeys(places, kind)), "ram_kib": ram_kib(net)}
                  for kind, net in nets.items()]  # fmt: skip
    return {**result, "everywhere": everywhere, "sites": _rows(kinds_of(graph, places), mix.kinds, costs, scores)}


def _rows(was: Mapping[str, str], kinds: Mapping[str, str], costs: Table, scores: Scores) -> list[dict[str, Any]]:
    """What was chosen at each site; no gain where what was there is no candidate."""
    return [
        {"site": site, "before": was[site], "activation": kind,
         "gain_ms": costs[site][was[site]] - costs[site][kind] if was[site] in costs[site] else None,
         "loss": scores.loss[site][kind], "nwot": scores.nwot[site][kind], "noise": scores.noise[site][kind]}
        for site, kind in kinds.items()
    ]  # fmt: skip
