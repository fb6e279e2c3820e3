"""How well accuracy is learned from a few labels on YOLOBench: learning curve, leave-one-family-out, what each proxy adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import log
from typing import Any

import numpy as np
from scipy.stats import norm, rankdata

from nas.bench.tables import SCRATCH, Tables
from proxies.labelled import Labelled, Network, network
from proxies.learner import learn
from proxies.protocols import DRAWS, Judged, Learner, Setting, families_seen, families_unseen, ridge_learner
from proxies.ranking import Values
from proxies.structure import FEATURES, Feature, Matrix, matrix, structure
from searchspaces import yolobench

LABELS = (5, 10, 20, 30, 60, 100)
DEVICES = ("raspi4-tflite-fp32", "vim3-npu-int16")  # a CPU and an NPU
PLAIN = "counting + ridge"
OURS = "combination"
ADDED_LABELS = 30


@dataclass(frozen=True)
class Point:
    """Mean over draws of `labels` labels: tau over all, and within latency bands by device."""

    learner: str
    families: str  # 'unseen', 'seen' or 'unseen, v6 as one'
    labels: int
    tau: float
    tau_band: Mapping[str, float]

    @staticmethod
    def of(learner: str, families: str, labels: int, judged: Judged) -> Point:
        return Point(learner, families, labels, judged.tau, judged.tau_band)


@dataclass(frozen=True)
class Known:
    """The 968 networks trained on VOC from scratch.  `x` is (networks, FEATURES), `plain` the counting features of the published
    comparison: log MACs, log activation elements, log params, log resolution, depth, log width, number of convs.
    """

    labelled: Labelled
    setting: Setting
    x: Matrix
    plain: Matrix

    def learner(self, extra: Mapping[Feature, Values] | None = None) -> Learner:
        """The combination learner, on further columns (networks,) too where given."""
        extra = extra or {}
        x, y, features = np.column_stack([self.x, *extra.values()]), self.setting.accuracy, (*FEATURES, *extra)
        return lambda known, asked: learn(x[known], y[known], x, features)(x[asked])


def known(tables: Tables) -> Known:
    """About ten seconds: every network is built and counted."""
    rows = tables.known(tables.map50_95[SCRATCH])
    networks = tuple(network(tables.names[i], tables.folder) for i in rows)
    latencies = {device: times[rows] for device, times in tables.latency_ms.items()}
    labelled = Labelled(networks, tables.map50_95[SCRATCH][rows], latencies)
    x = matrix(structure(item.build()) for item in networks)
    setting = Setting(labelled.accuracy, [item.family for item in networks], {device: latencies[device] for device in DEVICES})
    return Known(labelled, setting, x, _plain(networks, x))


def _plain(networks: Sequence[Network], x: Matrix) -> Matrix:
    scales = [yolobench.parse(item.name) for item in networks]
    columns = {feature.name: x[:, i] for i, feature in enumerate(FEATURES)}
    return np.column_stack([
        columns["log_macs"], columns["log_activation_elements"], columns["log_params"], columns["log_resolution"],
        [scale.depth for scale in scales], [log(scale.width) for scale in scales], np.exp(columns["log_convs"]),
    ])  # fmt: skip


def curve(table: Known, labels: Sequence[int] = LABELS, draws: int = DRAWS) -> list[Point]:
    """Both protocols of proxies.protocols, for the combination and for the plain way beside it; and families unseen once more with
    yolo6s, 6m and 6l left out together, which share a backbone.
    """
    learners = {OURS: table.learner(), PLAIN: ridge_learner(table.plain, table.setting.accuracy)}
    merged = replace(table.setting, families=["yolo6" if f.startswith("yolo6") else f for f in table.setting.families])
    found = []
    for families, protocol, setting, counts in (
        ("unseen", families_unseen, table.setting, labels), ("seen", families_seen, table.setting, labels),
        ("unseen, v6 as one", families_unseen, merged, (ADDED_LABELS,)),
    ):  # fmt: skip
        for name, learner in learners.items():
            found += [Point.of(name, families, n, protocol(learner, setting, n, draws)) for n in counts]
    return found


@dataclass(frozen=True)
class Added:
    """What a proxy brings as one more column of the combination at ADDED_LABELS labels: differences of tau, by protocol; and the
    tau of its architectures' values with the architectures' mean accuracy.
    """

    proxy: str
    tau_of_architectures: float
    unseen: Judged
    seen: Judged


def added(table: Known, values: Mapping[str, tuple[bool, Mapping[str, float]]], draws: int = DRAWS) -> list[Added]:
    """values: proxy -> (higher is better, architecture -> value at one small resolution).  A column holds the normal scores of the
    architectures' ranks, because values of proxies are spread over orders of magnitude.
    """
    groups = [item.group for item in table.labelled.networks]
    names = sorted(set(groups))
    base = (families_unseen(table.learner(), table.setting, ADDED_LABELS, draws),
            families_seen(table.learner(), table.setting, ADDED_LABELS, draws))  # fmt: skip
    mean = np.array([table.setting.accuracy[[group == name for group in groups]].mean() for name in names])
    found = []
    for proxy, (rises, by_group) in values.items():
        score = np.array([by_group[name] for name in names])
        column = dict(zip(names, norm.ppf((rankdata(score) - 0.5) / len(names))))
        extra = {Feature(proxy, rises, scale_free=True): np.array([column[group] for group in groups])}
        learner = table.learner(extra)
        both = (families_unseen(learner, table.setting, ADDED_LABELS, draws), families_seen(learner, table.setting, ADDED_LABELS, draws))
        i, j = np.triu_indices(len(names), 1)
        tau = float((np.sign(score[i] - score[j]) * np.sign(mean[i] - mean[j])).mean()) * (1 if rises else -1)
        found.append(Added(proxy, tau, *(_less(a, b) for a, b in zip(both, base))))
    return sorted(found, key=lambda row: -row.unseen.tau)


def _less(a: Judged, b: Judged) -> Judged:
    return Judged(a.tau - b.tau, {device: a.tau_band[device] - b.tau_band[device] for device in a.tau_band})


def curve_text(points: Sequence[Point]) -> str:
    lines = ["accuracy learned from a few labels, VOC from scratch: tau over all / within 1.5x latency bands on "
             + " / ".join(DEVICES), f"{'families':18}{'labels':>7}   {OURS:22}{PLAIN}"]  # fmt: skip
    for families in dict.fromkeys(p.families for p in points):
        for labels in sorted({p.labels for p in points if p.families == families}):
            cells = {p.learner: p for p in points if (p.families, p.labels) == (families, labels)}
            shown = [f"{cells[name].tau:.3f} {' '.join(f'{t:.3f}' for t in cells[name].tau_band.values())}" for name in (OURS, PLAIN)]
            lines.append(f"{families:18}{labels:7d}   {shown[0]:22}{shown[1]}")
    return "\n".join(lines)


def added_text(rows: Sequence[Added]) -> str:
    lines = [f"what a proxy adds to counting in the combination, {ADDED_LABELS} labels: difference of tau over all / within bands",
             f"{'proxy':22}{'archs':>7}   {'families unseen':24}families seen"]  # fmt: skip
    for row in rows:
        shown = [f"{j.tau:+.3f} {' '.join(f'{t:+.3f}' for t in j.tau_band.values())}" for j in (row.unseen, row.seen)]
        lines.append(f"{row.proxy:22}{row.tau_of_architectures:7.2f}   {shown[0]:24}{shown[1]}")
    return "\n".join(lines)


def as_json(rows: Sequence[Point] | Sequence[Added]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]
