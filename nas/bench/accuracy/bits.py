"""Table `bits`: do measures of sensitivity tell which bits hurt?  Each against random settings that were tried, beside trivial baselines.

A trained float net is quantized, without training, at random bits for each layer.  The settings come in groups of one size each, so that
two questions can be told apart: whether a measure knows that fewer bits are worse (the size alone knows that), and whether it knows
which of two settings of one size is better, which is what an allocation within a limit asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nas.bench.accuracy.core import Cell, Figures, Plan, Table, gmacs
from nas.bench.accuracy.models import float_cell, float_model, judged, network
from nas.bench.accuracy.ranks import spearman
from nas.data import Dataset
from nas.finalist import calibration_batches
from nas.quant import fake_quantized, mixed
from nas.quant.allocate import Table as Amounts
from nas.quant.allocate import drawn
from nas.quant.precisions import free_layers
from nas.quant.sensitivity import MEASURES, layer_of, rounded
from searchspaces import Graph
from searchspaces.module import GraphModule, to_torch
from searchspaces.ops import OPS
from searchspaces.quantizers import floated
from searchspaces.yolo import PRECISIONS, bits

MEAN_BITS = (3.0, 4.0, 5.0, 6.0)  # of a weight, one group of settings each
SETTINGS = 40
OFFERED = tuple(p for p in PRECISIONS if min(bits(p)) > 1)  # one bit without training is noise everywhere
_NEAR = 0.01  # of a group's size: settings this near are of one size
_BATCHES = 2  # of images for the measures and the steps
_PASSES = 100  # of training an image, that all measures take a layer, about


def cells(plan: Plan, dataset: Dataset) -> list[Cell]:
    found: list[Cell] = []
    graph = network(plan, len(dataset.classes))
    layers, cost = len(free_layers(graph)), gmacs(graph)
    for seed in range(plan.seeds):
        found.append(float_cell(plan, dataset, seed))
        found.append(Cell(f"measures-s{seed}", cost * _PASSES * layers, partial(_measures, plan, dataset, seed)))
        work = cost * 2 * len(dataset.val)
        found += [Cell(f"setting{k:02d}-s{seed}", work, partial(_setting, plan, dataset, seed, k)) for k in range(SETTINGS)]
    return found


def _measures(plan: Plan, dataset: Dataset, seed: int, folder: Path) -> Figures:
    """measure -> {'seconds' of CPU, 'table' layer -> precision -> amount}: the sensitivities, and baselines that add up over layers too."""
    model = float_model(plan, dataset, seed)
    net = to_torch(floated(model.graph), model.weights).eval()
    names = [node.name for node in free_layers(model.graph)]
    images = list(calibration_batches(dataset, model.size, _BATCHES))
    ways: dict[str, Callable[[], Amounts]] = {
        **{name: partial(measure, net, names, OFFERED, images, len(dataset.classes)) for name, measure in MEASURES.items()},
        **{name: partial(baseline, model.graph, net, names) for name, baseline in BASELINES.items()},
    }
    found: dict[str, Any] = {}
    for name, way in ways.items():
        start = time.process_time()
        table = way()
        found[name] = {"seconds": time.process_time() - start, "table": table}
    return {"measures": found}


def _setting(plan: Plan, dataset: Dataset, seed: int, k: int, folder: Path) -> Figures:
    model = float_model(plan, dataset, seed)
    group = MEAN_BITS[k % len(MEAN_BITS)]
    chosen = setting(model.graph, group, np.random.default_rng([seed, k]))
    net = fake_quantized(mixed(model.graph, chosen), model.weights, calibration_batches(dataset, model.size, _BATCHES))
    return {**judged(net, dataset, model.size, plan.accelerator), "group": group, "precisions": chosen}


def setting(graph: Graph, mean_bits: float, rng: np.random.Generator) -> dict[str, str]:
    """A random precision for each free layer, with so many bits a weight on average (to 1 %): drawn, then changed one random layer at a
    time wherever that leads nearer."""
    weights = _weights(graph)
    wanted = mean_bits * sum(weights.values())
    chosen = drawn(dict.fromkeys(weights, OFFERED), rng)

    def off(candidate: Mapping[str, str]) -> float:
        return abs(sum(bits(precision)[0] * weights[name] for name, precision in candidate.items()) - wanted)

    names = list(weights)
    while off(chosen) > _NEAR * wanted:
        changed = {**chosen, names[rng.integers(len(names))]: OFFERED[rng.integers(len(OFFERED))]}
        if off(changed) < off(chosen):
            chosen = changed
    return chosen


def _weights(graph: Graph) -> dict[str, int]:
    """Free layer -> number of its weights."""
    return {node.name: OPS[node.op].counts(graph.in_shapes(node), node.attrs, node.shape)[0] for node in free_layers(graph)}


def _size(graph: Graph, net: GraphModule, names: Sequence[str]) -> Amounts:
    """Bits that are saved: fewer bits, more harm."""
    weights = _weights(graph)
    return {name: {p: -float(bits(p)[0] * weights[name]) for p in OFFERED} for name in names}


def _rounding(graph: Graph, net: GraphModule, names: Sequence[str]) -> Amounts:
    """|Q(w) - w| summed over the weights."""
    return {name: {p: float((rounded(layer.weight, bits(p)[0], layer) - layer.weight.detach()).abs().sum()) for p in OFFERED}
            for name in names for layer in [layer_of(net, name)]}  # fmt: skip


def _operations(graph: Graph, net: GraphModule, names: Sequence[str]) -> Amounts:
    """MACs x bits of weights x bits of codes that are saved."""
    macs = {node.name: OPS[node.op].counts(graph.in_shapes(node), node.attrs, node.shape)[1] for node in free_layers(graph)}
    return {name: {p: -float(macs[name] * bits(p)[0] * bits(p)[1]) for p in OFFERED} for name in names}


BASELINES: Mapping[str, Callable[[Graph, GraphModule, Sequence[str]], Amounts]] = {
    "size": _size, "|Q(w)-w|": _rounding, "MACs x bits": _operations,
}  # fmt: skip


def text(known: Mapping[str, Figures]) -> str:
    """A row a measure; rho is with the harm done, so 1 is a measure that ranks all settings as they turned out."""
    runs = {key.rpartition("-s")[2]: cell["measures"] for key, cell in known.items() if key.startswith("measures-")}
    tried = [(key.rpartition("-s")[2], cell) for key, cell in known.items() if key.startswith("setting")]
    tried = [(seed, cell) for seed, cell in tried if seed in runs]
    if len(tried) < 2:
        return "bits: no settings yet"
    lines = [
        f"bits   {len(tried)} random settings of {len(runs)} float nets, no training after quantization; Spearman with the harm done, 95 %",
        "interval by bootstrap; 'like size': among the settings of one net with equally many bits of weights",
        f"{'measure':<13}{'CPU s':>7}" + "".join(f"{head:>24}" for head in ("loss, all", "loss, like size", "mAP, all", "mAP, like size")),
    ]
    harms = ([cell["loss"] for _, cell in tried], [-cell["map"] for _, cell in tried])
    seeds, sizes = [seed for seed, _ in tried], [(seed, cell["group"]) for seed, cell in tried]
    for name in next(iter(runs.values())):
        sums = [sum(runs[seed][name]["table"][layer][p] for layer, p in cell["precisions"].items()) for seed, cell in tried]
        rhos = [spearman(sums, harm, groups).text() for harm in harms for groups in (seeds, sizes)]
        seconds = float(np.mean([run[name]["seconds"] for run in runs.values()]))
        lines.append(f"{name:<13}{seconds:7.2f}" + "".join(f"{rho:>24}" for rho in rhos))
    for group in MEAN_BITS:
        cells = [cell for _, cell in tried if cell["group"] == group]
        if cells:
            loss, ap = ([cell[key] for cell in cells] for key in ("loss", "map"))
            lines.append(f"{group:g} bits a weight: {len(cells)} settings, loss {min(loss):.2f} to {max(loss):.2f}, mAP {min(ap):.3f} to "
                         f"{max(ap):.3f}")  # fmt: skip
    return "\n".join(lines)


BITS = Table("bits", "whether sensitivities tell which bits hurt, against random settings and trivial baselines", cells, text)
