"""Table `activations`: what mixed activations gain, and whether what chooses them knows what training makes of them (ActNAS).

One float net of SiLUs a seed.  Each part of it takes each activation, alone: what the proxies say, and what a short training then gives.
At each precision the parts' activations are chosen for half of the time that SiLU costs above the fastest mix, and trained beside SiLU and
ReLU everywhere and a random mix that is as fast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hwmodels.device import LOCAL
from nas.activations import SEEDS, Scores, additivity, choose, operators, replaced, scored, sites, total
from nas.bench.accuracy.core import Cell, Figures, Plan, Table, gmacs, known
from nas.bench.accuracy.models import float_cell, float_model, judged, network, recipe
from nas.bench.accuracy.ranks import spearman
from nas.bench.accuracy.shown import mean_and_spread
from nas.data import Dataset
from nas.deploy.local import find_device
from nas.finalist import calibration_batches, train_float, train_quantized
from nas.model import Model
from nas.quant import at_precision
from nas.quant.allocate import Table as Amounts
from nas.quant.allocate import drawn
from nas.quant.costs import LATENCY, latency, latency_costs
from nas.scoring import probe_of
from searchspaces.module import to_torch
from searchspaces.quantizers import floated, quantized
from searchspaces.yolo import ACTS

USUAL = "silu"
AT = ("w8a8", "w2a2")
NETS = ("silu", "relu", "mix", "random")
CHECKED = 20  # random mixes whose predicted latency is measured
_TRIES = 2000  # random mixes among which the one as fast as the chosen mix is looked for
_PER = "part"


def short(plan: Plan) -> int:
    """Epochs after a change of activations, in float."""
    return max(1, plan.epochs // 10)


def quantized_epochs(plan: Plan) -> int:
    return max(1, plan.epochs // 4)


def cells(plan: Plan, dataset: Dataset) -> list[Cell]:
    graph = network(plan, len(dataset.classes))
    parts, epoch = list(sites(graph, _PER)), gmacs(graph) * len(dataset.train)
    found: list[Cell] = []
    for seed in range(plan.seeds):
        found.append(float_cell(plan, dataset, seed))
        found.append(Cell(f"scores-s{seed}", gmacs(graph) * 100 * len(parts), partial(_scores, plan, dataset, seed)))
        changes = [("none", USUAL), *((part, kind) for part in parts for kind in ACTS if kind != USUAL)]
        for part, kind in changes:
            found.append(Cell(f"{part}-{kind}-s{seed}", epoch * short(plan), partial(_changed, plan, dataset, seed, part, kind)))
        for precision in AT:
            if seed == 0:
                found.append(Cell(f"costs-{precision}", 0.0, partial(_costs, plan, dataset, precision)))
            found.append(Cell(f"mixes-{precision}-s{seed}", 0.0, partial(_mixes, plan, dataset, precision, seed),
                              after=(f"costs-{precision}", f"scores-s{seed}")))  # fmt: skip
            work, low = epoch * short(plan), epoch * quantized_epochs(plan)
            found += [Cell(f"{net}-{precision}-s{seed}", work, partial(_trained, plan, dataset, precision, net, seed), low,
                           after=(f"mixes-{precision}-s{seed}",)) for net in NETS]  # fmt: skip
    return found


def _scores(plan: Plan, dataset: Dataset, seed: int, folder: Path) -> Figures:
    model = float_model(plan, dataset, seed)
    images = list(calibration_batches(dataset, model.size, 2))
    return asdict(scored(model.graph, model.weights, sites(model.graph, _PER), ACTS, images, len(dataset.classes),
                         probe_of(dataset, model.size), range(SEEDS)))  # fmt: skip


def _changed(plan: Plan, dataset: Dataset, seed: int, part: str, kind: str, folder: Path) -> Figures:
    """One part with one other activation (none for what training on gives by itself), trained shortly."""
    model = float_model(plan, dataset, seed)
    net = _onward(plan, dataset, model, {part: kind} if part != "none" else {}, seed, folder)
    return judged(to_torch(floated(net.graph), net.weights), dataset, net.size, plan.accelerator)


def _onward(plan: Plan, dataset: Dataset, model: Model, kinds: Mapping[str, str], seed: int, folder: Path) -> Model:
    graph = replaced(model.graph, sites(model.graph, _PER), kinds)
    settings = recipe(plan, seed, short(plan)).for_qat(model.size, dataset)
    return train_float(graph, dataset, settings, folder / "float", lambda stage, record: None, lambda random: model.weights)[0]


def _costs(plan: Plan, dataset: Dataset, precision: str, folder: Path) -> Figures:
    """What each activation costs in each part, and how well that adds up."""
    at = _At(plan, dataset, precision, 0)
    nets = {kind: replaced(at.model.graph, at.places, dict.fromkeys(at.places, kind)) for kind in ACTS}
    costs = latency_costs(nets, operators(at.model.graph, at.places), at.model.weights, at.images, at.device)
    sums = additivity(at.model.graph, at.model.weights, at.places, costs, at.images, at.device, CHECKED)
    return {"costs": costs, "predicted": sums.predicted, "measured": sums.measured, "r2": sums.r2, "mape": sums.mape}


def _mixes(plan: Plan, dataset: Dataset, precision: str, seed: int, folder: Path) -> Figures:
    """net -> {'kinds', 'ms'}, and the limit that the mix was chosen for."""
    at, done = _At(plan, dataset, precision, seed), known(plan, dataset, ACTIVATIONS)
    costs: Amounts = done[f"costs-{precision}"]["costs"]
    scores = Scores(**{name: done[f"scores-s{seed}"][name] for name in Scores.__dataclass_fields__})
    uniform = {kind: dict.fromkeys(at.places, kind) for kind in ("silu", "relu")}
    limit = (total(costs, uniform[USUAL]) + sum(min(row.values()) for row in costs.values())) / 2
    mix = choose(at.model.graph, at.model.weights, at.places, scores.minds("loss"), costs, at.images, at.device, limit)
    kinds = {**uniform, "mix": mix.kinds, "random": _as_fast(costs, mix.kinds, seed)}
    found: dict[str, Any] = {net: {"kinds": chosen, "ms": mix.costs[LATENCY] if net == "mix" else at.ms(chosen)}
                             for net, chosen in kinds.items()}  # fmt: skip
    return {"limit": limit, "nets": found}


def _as_fast(costs: Amounts, kinds: Mapping[str, str], seed: int) -> dict[str, str]:
    """A random mix that is to take as long, and is another one."""
    rng, wanted = np.random.default_rng(seed), total(costs, kinds)
    tried: Iterator[dict[str, str]] = (drawn({site: list(row) for site, row in costs.items()}, rng) for _ in range(_TRIES))
    return min((other for other in tried if other != kinds), key=lambda other: abs(total(costs, other) - wanted))


def _trained(plan: Plan, dataset: Dataset, precision: str, net: str, seed: int, folder: Path) -> Figures:
    """Trained on in float, then at its bits."""
    at = _At(plan, dataset, precision, seed)
    found = known(plan, dataset, ACTIVATIONS)[f"mixes-{precision}-s{seed}"]["nets"][net]
    begun = _onward(plan, dataset, at.model, found["kinds"], seed, folder)
    settings = recipe(plan, seed, quantized_epochs(plan))
    done, _ = train_quantized(
        begun, dataset, settings.for_qat(begun.size, dataset), settings.qat, folder / "quantized", lambda stage, record: None
    )
    return {**judged(to_torch(quantized(done.graph), done.weights), dataset, done.size, plan.accelerator), "ms": found["ms"]}


class _At:
    """The float net of a seed with the bits of a precision on its graph, and where it is timed."""

    def __init__(self, plan: Plan, dataset: Dataset, precision: str, seed: int) -> None:
        model = float_model(plan, dataset, seed)
        self.model = replace(model, graph=at_precision(model.graph, precision))
        self.places = sites(model.graph, _PER)
        self.images = list(calibration_batches(dataset, model.size, 1))
        self.device = find_device(LOCAL)

    def ms(self, kinds: Mapping[str, str]) -> float:
        return latency(replaced(self.model.graph, self.places, kinds), self.model.weights, self.images, self.device)[0]


def text(done: Mapping[str, Figures]) -> str:
    lines = ["activations   chosen for each part of a net trained with SiLU; every net trained on equally long"]
    for precision in AT:
        lines += _latencies(done, precision) + _accuracies(done, precision)
    return "\n".join(lines + _validity(done))


def _latencies(done: Mapping[str, Figures], precision: str) -> list[str]:
    found = done.get(f"costs-{precision}")
    if found is None:
        return []
    everywhere = ", ".join(f"{kind} {total(found['costs'], dict.fromkeys(found['costs'], kind)):.3f}" for kind in ACTS)
    spread = f"{min(found['measured']):.3f} to {max(found['measured']):.3f} ms"
    return [f"{precision}   ms with one activation everywhere: {everywhere}",
            f"       {CHECKED} random mixes of {spread}, predicted from their parts: R2 {found['r2']:.3f}, "
            f"mean error {found['mape']:.1f} %"]  # fmt: skip


def _accuracies(done: Mapping[str, Figures], precision: str) -> list[str]:
    rows = []
    for net in NETS:
        cells = [cell for key, cell in done.items() if key.startswith(f"{net}-{precision}-s")]
        if cells:
            ms = float(np.mean([cell["ms"] for cell in cells]))
            scores = [mean_and_spread([cell[name] for cell in cells]) for name in ("map50", "map")]
            rows.append(f"       {net:<9}{ms:8.3f}" + "".join(f"{score:>16}" for score in scores) + f"{len(cells):4}")
    return [f"       {'net':<9}{'ms':>8}{'mAP50':>16}{'mAP':>16}{'n':>4}", *rows] if rows else []


def _validity(done: Mapping[str, Figures]) -> list[str]:
    """Of what each measure says of one changed part, with what training makes of it."""
    changes = [(seed, scores, part, kind, done[f"{part}-{kind}-s{seed}"])
               for seed, scores in ((key.removeprefix("scores-s"), cell) for key, cell in done.items() if key.startswith("scores-"))
               for part, row in scores["loss"].items() for kind in row
               if f"{part}-{kind}-s{seed}" in done and f"none-{USUAL}-s{seed}" in done]  # fmt: skip
    if len(changes) < 2:
        return []
    plain = {seed: done[f"none-{USUAL}-s{seed}"] for seed, *_ in changes}
    gains = {"mAP": [cell["map"] - plain[seed]["map"] for seed, _, _, _, cell in changes],
             "loss": [plain[seed]["loss"] - cell["loss"] for seed, _, _, _, cell in changes]}  # fmt: skip
    said = {"nwot": [scores["nwot"][part][kind] for _, scores, part, kind, _ in changes],
            "loss": [-scores["loss"][part][kind] for _, scores, part, kind, _ in changes]}  # fmt: skip
    noise = float(np.mean([scores["noise"][part][kind] for _, scores, part, kind, _ in changes]))
    floor = float(np.mean([scores["floor"] for _, scores, *_ in changes]))
    lines = [f"{len(changes)} changes of one part, trained: mAP {min(gains['mAP']):+.3f} to {max(gains['mAP']):+.3f}; Spearman with what "
             "that gained"]  # fmt: skip
    for measure, values in said.items():
        rhos = [f"{name} {spearman(values, gain, [seed for seed, *_ in changes]).text()}" for name, gain in gains.items()]
        lines.append(f"       {measure:<9}{', '.join(rhos)}")
    nwot = f"change of NWOT {min(said['nwot']):+.2f} to {max(said['nwot']):+.2f} with a standard error of {noise:.2f}"
    return [*lines, f"       {nwot}; the unchanged net's varies by {floor:.2f} over seeds"]


ACTIVATIONS = Table("activations", "mixed activations: what they gain, whether costs add up, whether the proxies know", cells, text)
