"""What a candidate is judged by: objectives with units and limits, and the functions that fill their columns.

Every column of a trial is declared as an Objective. Most are both wanted and limited ("latency_ms, smaller is better, at most 6"),
some are only limited (`optimized=False`), and some only recorded (`optimized=False` and no limit).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from searchspaces.space import Arch

Columns = Mapping[str, float]

_BYTES = {"B": 1.0, "kB": 1e3, "KB": 1e3, "KiB": 2.0**10, "MB": 1e6, "MiB": 2.0**20, "GB": 1e9, "GiB": 2.0**30}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
# kind of limit -> (units a user may write, the unit of the column, two of them to show in an error)
QUANTITIES: dict[str, tuple[dict[str, float], str, tuple[str, ...]]] = {
    "latency": (_SECONDS, "ms", ("us", "ms", "s")),
    "ram": (_BYTES, "KiB", ("KiB", "MiB", "kB", "MB")),
    "flash": (_BYTES, "KiB", ("KiB", "MiB", "kB", "MB")),
    "size": (_BYTES, "MB", ("kB", "MB", "KiB", "MiB")),
}


class ObjectiveError(ValueError):
    """An objective, a limit or a column that makes no sense: the message says what would."""


@dataclass(frozen=True)
class Objective:
    """One column of a trial. `limit` bounds it from above where smaller is better, else from below.

    `cost`: a "cheap" column (counted or predicted from the graph) is known before any "expensive" one (proxies, training) is spent.
    `deterministic`: the same on every run with one seed; seconds spent are not.
    """

    name: str                                       # its unit closes it: "latency_ms"
    unit: str
    direction: Literal["min", "max"] = "min"
    cost: Literal["cheap", "expensive"] = "cheap"
    limit: float | None = None
    optimized: bool = True
    deterministic: bool = True

    def __post_init__(self) -> None:
        if self.direction not in ("min", "max") or self.cost not in ("cheap", "expensive"):
            raise ObjectiveError(f"{self.name}: direction '{self.direction}' and cost '{self.cost}': want min or max, cheap or expensive")
        if self.limit is not None and not math.isfinite(self.limit):
            raise ObjectiveError(f"{self.name}: the limit {self.limit} is not a number that can be met")
        if not self.deterministic and (self.optimized or self.limit is not None):
            raise ObjectiveError(f"{self.name} differs from run to run, so it can be recorded, but neither optimized nor limited")

    def excess(self, value: float) -> float:
        """By how much `value` misses the limit, relative to it; 0 where it meets it, absolute where the limit is 0."""
        if self.limit is None:
            return 0.0
        miss = value - self.limit if self.direction == "min" else self.limit - value
        return max(0.0, miss / (abs(self.limit) or 1.0))


@dataclass(frozen=True)
class Evaluation:
    """The objectives and the functions behind their columns; picklable where the functions are (module level, or methods of such).

    `cheap(arch)` returns the columns whose cost is "cheap", `expensive(arch)` the others. Both may raise or return NaN: that fails
    the one trial, with its reason.
    """

    objectives: tuple[Objective, ...]
    cheap: Callable[[Arch], Columns]
    expensive: Callable[[Arch], Columns] | None = None

    def __post_init__(self) -> None:
        names = [objective.name for objective in self.objectives]
        if len(set(names)) < len(names):
            raise ObjectiveError(f"two objectives of one name among {', '.join(names)}")
        if not any(objective.optimized for objective in self.objectives):
            raise ObjectiveError("nothing to optimize: give one objective at least")
        costly = [objective.name for objective in self.objectives if objective.cost == "expensive"]
        if bool(costly) != (self.expensive is not None):
            raise ObjectiveError(f"expensive columns ({', '.join(costly) or 'none'}) and an expensive function go together")

    def columns(self, arch: Arch, cost: str) -> dict[str, float]:
        """The columns of one cost, checked. Raises ObjectiveError for one that is missing, undeclared or not finite."""
        evaluate = self.cheap if cost == "cheap" else self.expensive
        found = {} if evaluate is None else {name: float(value) for name, value in evaluate(arch).items()}
        wanted = [objective.name for objective in self.objectives if objective.cost == cost]
        for name in wanted:
            if name not in found:
                raise ObjectiveError(f"the {cost} evaluation gave no '{name}'")
            if not math.isfinite(found[name]):
                raise ObjectiveError(f"{name} is {found[name]}")
        if extra := sorted(set(found) - set(wanted)):
            raise ObjectiveError(f"the {cost} evaluation gave '{extra[0]}', which is no {cost} objective; those are {', '.join(wanted)}")
        return found


def violations(columns: Columns, objectives: Sequence[Objective]) -> dict[str, float]:
    """Relative excess of each limit that is missed; a column that is not known yet misses nothing."""
    missed = {}
    for objective in objectives:
        if objective.limit is not None and objective.name in columns:
            excess = objective.excess(columns[objective.name])
            if excess > 0:
                missed[objective.name] = excess
    return missed


def describe_misses(columns: Columns, objectives: Sequence[Objective]) -> str:
    """'latency_ms is 7.3 ms, 1.3 ms (22 %) above the limit of 6 ms; ...' for every limit that is missed, the worst first."""
    missed = violations(columns, objectives)
    texts = []
    for objective in sorted((o for o in objectives if o.name in missed), key=lambda o: -missed[o.name]):
        value, limit = columns[objective.name], objective.limit or 0.0
        side = "above" if objective.direction == "min" else "below"
        unit = f" {objective.unit}" if objective.unit else ""
        share = f" ({100 * missed[objective.name]:.3g} %)" if limit else ""
        texts.append(f"{objective.name} is {value:.4g}{unit}, {abs(value - limit):.3g}{unit}{share} {side} the limit of {limit:.4g}{unit}")
    return "; ".join(texts)


def limited(objectives: Sequence[Objective], limits: Mapping[str, float]) -> tuple[Objective, ...]:
    """The objectives with the limits of the named columns set. Raises ObjectiveError for a column that is not among them."""
    if unknown := sorted(set(limits) - {objective.name for objective in objectives}):
        raise ObjectiveError(f"no column '{unknown[0]}' to limit; columns: {', '.join(o.name for o in objectives)}")
    return tuple(replace(o, limit=limits[o.name]) if o.name in limits else o for o in objectives)


def optimized(objectives: Sequence[Objective], names: Sequence[str]) -> tuple[Objective, ...]:
    """The objectives, of which the named columns are optimized and no others; a name may go without its unit ('latency').

    Raises ObjectiveError for a name that is not among them, one that comes twice, and where none is given.
    """
    known = {alias: o.name for o in objectives if o.deterministic for alias in (o.name, o.name.removesuffix(f"_{o.unit.lower()}"))}
    if unknown := [name for name in names if name not in known]:
        raise ObjectiveError(f"no column '{unknown[0]}' to optimize; columns: {', '.join(o.name for o in objectives if o.deterministic)}")
    wanted = [known[name] for name in names]
    if not wanted or len(set(wanted)) < len(wanted):
        raise ObjectiveError(f"objectives '{','.join(names)}': name at least one column, each once")
    return tuple(replace(o, optimized=o.name in wanted) for o in objectives)


def parse_quantity(text: str, kind: str) -> float:
    """'6ms' or '0.006s' -> 6.0. `kind` "latency" gives ms, "ram" and "flash" KiB, "size" MB (1e6 bytes).

    Raises ObjectiveError for a number without unit, a unit of something else, and anything that is not above zero.
    """
    if kind not in QUANTITIES:
        raise ObjectiveError(f"no kind of limit '{kind}'; there are {', '.join(QUANTITIES)}")
    units, own, shown = QUANTITIES[kind]
    match = re.fullmatch(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-zµ]*)\s*", text)
    if match is None:
        raise ObjectiveError(f"{kind} '{text}' is no number with a unit: write for example {_examples('6', shown)}")
    number, unit = match[1], match[2].replace("µs", "us")
    if not unit:
        raise ObjectiveError(f"{kind} '{text}' has no unit: write {_examples(number, shown)}")
    scale = units.get(unit) or {name.lower(): value for name, value in units.items()}.get(unit)
    if scale is None:
        raise ObjectiveError(f"{kind} '{text}': no unit '{unit}' here; write {_examples(number, shown)}")
    value = float(number) * scale / units[own]
    if not 0 < value < math.inf:
        raise ObjectiveError(f"{kind} '{text}': a limit is above zero")
    return value


def _examples(number: str, units: tuple[str, ...]) -> str:
    texts = [f"{number}{unit}" for unit in units]
    return f"{', '.join(texts[:-1])} or {texts[-1]}"
