"""Facts: what a report says of a run, read from its folder once and free of HTML, so that page and picture agree."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from nas.candidates import FRONT
from nas.data import DataError, Dataset
from nas.objectives import Objective, describe_misses, violations
from nas.study import Trial
from nas.train.settings import History

if TYPE_CHECKING:
    from nas.deploy.verify import Verification
    from nas.job import Finalist, Run

STAGES = ("float", "quantized")
LIMIT_FLAGS = {
    "latency_ms": ("--max-latency", "ms"),
    "ram_kib": ("--max-ram", "KiB"),
    "flash_kib": ("--max-flash", "KiB"),
    "size_mb": ("--max-size", "MB"),
}
COLUMN_NAMES = {
    "latency_ms": "latency",
    "latency_low_ms": "latency, low",
    "latency_high_ms": "latency, high",
    "ram_kib": "RAM",
    "flash_kib": "flash",
    "size_mb": "size",
    "macs_m": "MACs",
    "params_m": "params",
    "energy_mj": "energy",
    "score": "score",
    "quant_noise": "quant. SNR",
    "score_seconds": "scored in",
}


@dataclass(frozen=True)
class Facts:
    """One reading of a run.  `trials` by number, `front` fastest first, `finalists` best measured mAP50 first."""

    run: Run
    trials: Sequence[Trial]
    front: Sequence[Trial]
    finalists: Sequence[Finalist]
    objectives: Sequence[Objective]
    provenance: Mapping[str, Any]

    @classmethod
    def of(cls, run: Run) -> Facts:
        return cls(run, run.trials, run.front, run.finalists, run.objectives, run.provenance)

    @property
    def by_score(self) -> bool:
        """Whether the front is that of score and latency, the axes of its plot."""
        return set(self.optimized) == {COLUMN_NAMES[name] for name in FRONT}

    @property
    def optimized(self) -> list[str]:
        return [COLUMN_NAMES.get(o.name, o.name) for o in self.objectives if o.optimized]

    @property
    def limits(self) -> dict[str, float]:
        return dict(self.run.settings.limits)

    @property
    def classes(self) -> list[str]:
        return [str(name) for name in self.provenance.get("classes", [])]

    @property
    def verified(self) -> list[tuple[Finalist, Verification]]:
        """Finalists whose artifact was measured, best mAP50 first among those that met every limit, then the others."""
        return [(f, f.verified) for f in self.finalists if f.verified is not None]

    @property
    def best(self) -> tuple[Finalist, Verification] | None:
        """The verified finalist within every limit that has the highest mAP50."""
        return next(((f, v) for f, v in self.verified if f.met), None)

    @cached_property
    def scored(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == "ok"]

    @property
    def taken(self) -> list[Trial]:
        """The trials that became finalists, fastest first; after successive halving they need not be on the front."""
        chosen = {finalist.trial for finalist in self.finalists}
        return sorted((trial for trial in self.scored if trial.number in chosen), key=lambda trial: trial["latency_ms"])

    @property
    def spent(self) -> int:
        return sum(trial.spent for trial in self.trials)

    @cached_property
    def data(self) -> Dataset | str:
        """The data set, or why it cannot be read here and now."""
        try:
            return self.run.data
        except (DataError, OSError) as fault:
            return str(fault)

    @property
    def data_name(self) -> str:
        return str(self.provenance.get("data", {}).get("name") or self.run.settings.data)

    def missed(self, trial: Trial) -> bool:
        return bool(violations(trial.columns, self.objectives))

    @cached_property
    def near_misses(self) -> list[tuple[Trial, str]]:
        """Where no candidate met every limit: all of them, nearest first, and what each misses."""
        known = [trial for trial in self.trials if trial.columns]
        if any(trial.state == "ok" and not self.missed(trial) for trial in known):
            return []
        known.sort(key=lambda trial: (sum(violations(trial.columns, self.objectives).values()), trial.number))
        return [(trial, describe_misses(trial.columns, self.objectives)) for trial in known]

    def history(self, finalist: Finalist, stage: str) -> History | None:
        """The training history of one stage; None where it is not there or was cut short."""
        try:
            return msgspec.json.decode((self.run.folder(finalist.trial) / f"{stage}.history.json").read_bytes(), type=History)
        except (OSError, msgspec.MsgspecError):
            return None

    @cached_property
    def rank_changes(self) -> dict[int, tuple[int, int]]:
        """Trial number -> (rank by predicted score, rank by measured mAP50) among what was measured; 1 is best."""
        measured = sorted(self.verified, key=lambda pair: -pair[1].map50)
        predicted = sorted(measured, key=lambda pair: -pair[0].predicted.get("score", float("-inf")))
        order = [finalist.trial for finalist, _ in predicted]
        return {finalist.trial: (order.index(finalist.trial) + 1, rank) for rank, (finalist, _) in enumerate(measured, 1)}

    @property
    def state(self) -> str:
        """'searching', 'infeasible', 'finalists' (some are still to be measured), 'nothing fits' or 'done'."""
        from nas.job import TRIES_PER_FINALIST

        settings = self.run.settings
        good = sum(finalist.met for finalist in self.finalists)
        if good >= settings.finalists:
            return "done"
        if not self.front and (self.near_misses or self.spent >= settings.budget):
            return "infeasible"
        if self.finalists:
            tries = [f for f in self.finalists if f.verified or not settings.halving]  # halving passes over others on its rungs
            tried_all = len(tries) >= min(len(self.front), TRIES_PER_FINALIST * settings.finalists)
            return ("done" if good else "nothing fits") if tried_all else "finalists"
        return "searching" if self.spent < settings.budget else "finalists"

    @property
    def command(self) -> str:
        """The command that asks for the same again."""
        s = self.run.settings
        parts = ["edgenas", "search", "--data", s.data, "--device", s.device]
        for name, limit in s.limits.items():
            flag, unit = LIMIT_FLAGS.get(name, (f"--max-{name}", ""))
            parts += [flag, f"{limit:g}{unit}"]
        parts += ["--space", s.space, "--strategy", s.strategy, "--budget", str(s.budget), "--finalists", str(s.finalists)]
        parts += ["--epochs", str(s.recipe.epochs), "--seed", str(s.seed)]
        for flag, value in (("--halving", s.halving), ("--proxy", s.proxy)):
            parts += [flag, str(value)] if value else []
        if s.objectives != FRONT:
            parts += ["--objectives", ",".join(s.objectives)]
        return shlex.join(parts)


def with_unit(name: str, value: float) -> str:
    """'6 ms' for ('latency_ms', 6.0)."""
    unit = LIMIT_FLAGS[name][1] if name in LIMIT_FLAGS else ""
    return f"{value:.4g} {unit}".strip()


def flattened(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as 'recipe.train.lr' -> '0.002', in order."""
    rows: dict[str, str] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            rows |= flattened(value, f"{prefix}{key}.")
        else:
            rows[f"{prefix}{key}"] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return rows
