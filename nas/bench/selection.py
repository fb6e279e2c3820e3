"""The number a user feels: mAP lost when the toolkit picks a network under a latency budget, against the true best.

The pick is made with no training at all: candidates are ranked by an accuracy score that saw no label of their family, those whose
predicted latency exceeds the budget are left out, and the best are measured one after another until one is within the budget, as
`edgenas search` verifies its finalists.  Beside it stands what is lost where candidates whose interval reaches the budget are tried too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hwmodels.workload import workload
from nas.bench.combination import Known
from nas.bench.tables import Tables
from proxies.learner import fit_monotone
from proxies.protocols import unseen_predictions
from proxies.ranking import Values
from proxies.yolobench import RIDGE, SLOPES
from searchspaces import yolobench
from searchspaces.ops import WEIGHTED

DATA = "voc"  # fine-tuned: 572 networks
SHARES = tuple(np.linspace(0.05, 0.95, 19).tolist())  # budgets are these quantiles of a device's latencies
DRAWS = 10  # of the networks that the latency predictor measures
# (device, seed) -> predicted ms of all networks of the tables: the mean, and the lower end of the interval
Predictor = Callable[[str, int], tuple[Values, Values]]


@dataclass(frozen=True)
class Selected:
    """Points of mAP50-95 lost on one device, mean and worst over budgets (and draws of the predictor).

    measured      networks measured a pick until one was within the budget
    unsure_loss, unsure_measured      means where networks are tried whose interval reaches the budget
    known         mean loss by score, where every latency is known; the published baselines among them
    budgets_ms    and, for each, the loss and the networks picked in the first draw and the true best ones
    """

    device: str
    mean_loss: float
    max_loss: float
    measured: float
    unsure_loss: float
    unsure_measured: float
    known: Mapping[str, float]
    budgets_ms: tuple[float, ...]
    losses: tuple[float, ...]
    picked: tuple[str, ...]
    best: tuple[str, ...]


def unseen_score(known: Known) -> Values:
    """(968,) accuracy score of each network, by the form that the search ships, fitted on the scratch labels of the *other* families."""
    y = known.setting.accuracy
    return unseen_predictions(lambda a, b: fit_monotone(known.x[a], y[a], known.x, slopes=SLOPES, ridge=RIDGE)(known.x[b]), known.setting)


def baselines(tables: Tables, names: Sequence[str]) -> dict[str, Values]:
    """The published ones count the training form, branches of re-parameterizable blocks included."""
    loads = [workload(yolobench.build(name)) for name in names]
    at = {name: i for i, name in enumerate(tables.names)}
    return {
        "macs, training form": np.array([float(load.macs) for load in loads]),
        "activation elements, training form": np.array([float(sum(op.elements for op in load.ops if op.op in WEIGHTED)) for load in loads]),
        "COCO mAP": tables.map50_95["coco"][[at[name] for name in names]],
    }


def selection(tables: Tables, known: Known, predicted: Predictor, devices: Sequence[str], draws: int = DRAWS) -> list[Selected]:
    """One row a device, on the networks of DATA that were timed there."""
    at = {item.name: i for i, item in enumerate(known.labelled.networks)}
    rows = tables.known(tables.map50_95[DATA])
    rows = rows[[tables.names[i] in at for i in rows]]
    names = [tables.names[i] for i in rows]
    score = unseen_score(known)[[at[name] for name in names]]
    others = baselines(tables, names)
    found = []
    for device in devices:
        timed = np.isfinite(tables.latency_ms[device][rows])
        here = rows[timed]
        scores = {"score, families unseen": score[timed], **{name: values[timed] for name, values in others.items()}}
        guesses = [(mean[here], low[here]) for mean, low in (predicted(device, draw) for draw in range(draws))]
        kept = [name for name, is_timed in zip(names, timed) if is_timed]
        found.append(_selected(device, kept, tables.map50_95[DATA][here], tables.latency_ms[device][here], scores, guesses))
    return found


def _selected(device: str, names: Sequence[str], accuracy: Values, latency: Values, scores: Mapping[str, Values],
              guesses: Sequence[tuple[Values, Values]]) -> Selected:  # fmt: skip
    budgets = np.quantile(latency, SHARES)
    best = np.array([int(np.argmax(np.where(latency <= budget, accuracy, -1))) for budget in budgets])

    def picks(score: Values, predicted: Sequence[Values]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(draws, budgets) each: network taken, networks measured, points lost."""
        found = np.array([[pick(score, ms, latency, budget) for budget in budgets] for ms in predicted])
        return found[:, :, 0], found[:, :, 1], 100 * (accuracy[best] - accuracy[found[:, :, 0]])

    ours = next(iter(scores.values()))
    taken, measured, losses = picks(ours, [mean for mean, _ in guesses])
    _, unsure_measured, unsure_losses = picks(ours, [low for _, low in guesses])
    known = {name: float(picks(score, [latency])[2].mean()) for name, score in scores.items()}
    return Selected(device, float(losses.mean()), float(losses.max()), float(measured.mean()), float(unsure_losses.mean()),
                    float(unsure_measured.mean()), known, tuple(budgets.tolist()), tuple(losses.mean(0).tolist()),
                    tuple(names[i] for i in taken[0]), tuple(names[i] for i in best))  # fmt: skip


def pick(score: Values, predicted_ms: Values, measured_ms: Values, budget_ms: float) -> tuple[int, int]:
    """(position, networks measured): best score first among those predicted within the budget, then the others, fastest first, until
    a measurement is within the budget.  The budget must be one that some network meets.
    """
    within = predicted_ms <= budget_ms
    order = np.concatenate([np.flatnonzero(within)[np.argsort(-score[within], kind="stable")],
                            np.flatnonzero(~within)[np.argsort(predicted_ms[~within], kind="stable")]])  # fmt: skip
    first = int(np.flatnonzero(measured_ms[order] <= budget_ms)[0])
    return int(order[first]), first + 1


def text(rows: Sequence[Selected]) -> str:
    names = list(rows[0].known)
    lines = [
        f"mAP50-95 points lost by the pick, {DATA} fine-tuned, {len(SHARES)} budgets, {DRAWS} draws of the 20-shot predictor, no training:",
        "score fitted on scratch labels of other families, best first among those predicted within the budget, measured until one is;",
        "'unsure': networks whose predicted interval reaches the budget are measured too.  Then, with every latency known, by:",
        "; ".join(f"({i}) {name}" for i, name in enumerate(names, 1)),
        f"{'device':22}{'mean':>7}{'worst':>7}{'measured':>10}{'unsure':>9}{'measured':>10}   "
        + "".join(f"{f'({i})':>7}" for i in range(1, len(names) + 1)),
    ]
    for row in rows:
        cells = f"{row.mean_loss:7.2f}{row.max_loss:7.2f}{row.measured:10.1f}{row.unsure_loss:9.2f}{row.unsure_measured:10.1f}"
        lines.append(f"{row.device:22}{cells}   " + "".join(f"{row.known[name]:7.2f}" for name in names))
    return "\n".join(lines)


def as_json(rows: Sequence[Selected]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]
