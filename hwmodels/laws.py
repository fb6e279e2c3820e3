"""The time of whole networks on a runtime that is not ours: a few fitted laws, averaged, and how far they can be trusted.

Who fits a law does not matter here; predictors.ensemble does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from math import isfinite
from typing import Any

import msgspec
import numpy as np

from hwmodels.errors import DeviceError
from hwmodels.operators import Estimate
from hwmodels.profile import AMOUNTS, TRAITS, Matrix, Vector, kinds, profiles, traits
from hwmodels.workload import Workload
from searchspaces.ops import ACTIVATIONS


class Tree(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of depth d: at level i all rows ask whether trait i lies above threshold i; the d answers, the first most significant, number
    one of 2^d `leaves`.
    """

    traits: tuple[str, ...]
    thresholds: tuple[float, ...]
    leaves: tuple[float, ...]

    def log_ms(self, seen: Matrix) -> Vector:
        leaf = np.zeros(len(seen), dtype=np.int64)
        for name, threshold in zip(self.traits, self.thresholds):
            leaf = 2 * leaf + (seen[:, _TRAIT[name]] > threshold)
        return np.array(self.leaves)[leaf]


class Law(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True, dict=True):
    """log ms = log(sum of costs x amounts + sum of shares x relatives' ms)  (this term only where there are any)
               + constant + sum of slopes x traits + sum of kin x relatives' log ms
               + sum over points of weight x matern52(distance from the point, each trait in its scale)
               + sum over trees

    costs       ms per unit of an amount (hwmodels.profile.AMOUNTS)
    shares, kin by name of another device
    scales      of the traits (TRAITS), by name, in spreads
    points      (points, traits in the order of `scales`); weights (points,) in logs
    """

    weight: float
    costs: dict[str, float] = {}
    shares: dict[str, float] = {}
    constant: float = 0.0
    slopes: dict[str, float] = {}
    kin: dict[str, float] = {}
    scales: dict[str, float] = {}
    points: tuple[tuple[float, ...], ...] = ()
    weights: tuple[float, ...] = ()
    trees: tuple[Tree, ...] = ()

    def log_ms(self, profile: Matrix, seen: Matrix, kin: Mapping[str, Vector]) -> Vector:
        """(n,) of profile (n, AMOUNTS), traits `seen` (n, TRAITS) and the relatives' log ms, each (n,)."""
        total = np.full(len(profile), self.constant)
        if self.costs or self.shares:
            core = _weighted(self.costs, _AMOUNT, profile)
            for name, share in self.shares.items():
                core = core + share * np.exp(kin[name])
            total += np.log(np.maximum(core, 1e-9))
        total += _weighted(self.slopes, _TRAIT, seen)
        for name, exponent in self.kin.items():
            total += exponent * kin[name]
        for tree in self.trees:
            total += tree.log_ms(seen)
        return total + self._near(seen) @ self._weights if self.weights else total

    def _near(self, seen: Matrix) -> Matrix:
        """(n, points) correlations, Matern 5/2."""
        here = seen[:, self._columns] / self._scales
        squares = (here**2).sum(1)[:, None] + self._squares - 2 * here @ self._scaled.T
        root = np.sqrt(5 * np.maximum(squares, 0.0))
        return (1 + root + root**2 / 3) * np.exp(-root)

    @cached_property
    def _columns(self) -> list[int]:
        return [_TRAIT[name] for name in self.scales]

    @cached_property
    def _scales(self) -> Vector:
        return np.array(list(self.scales.values()))

    @cached_property
    def _scaled(self) -> Matrix:
        return np.array(self.points).reshape(len(self.points), len(self.scales)) / self._scales

    @cached_property
    def _squares(self) -> Vector:
        return (self._scaled**2).sum(1)

    @cached_property
    def _weights(self) -> Vector:
        return np.array(self.weights)


class NetworkTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A fitted device: the average of its laws in logs, and an interval that widens away from what was measured.

    kinds       operators and activation functions that were measured (hwmodels.profile.kinds); any other is refused
    laws        weights add up to 1; the points of the first are measured networks
    apart       how far from one another those are, typically, in spreads of all traits together
    quantile    90 % of networks lie within this many doubts of the mean, in logs, by cross-validation
    """

    kinds: tuple[str, ...]
    laws: tuple[Law, ...]
    apart: float
    quantile: float

    @property
    def relatives(self) -> tuple[str, ...]:
        """Names of the devices whose predictions this one builds on."""
        return tuple(dict.fromkeys(name for law in self.laws for name in (*law.shares, *law.kin)))

    @property
    def activations(self) -> tuple[str, ...]:
        return tuple(kind for kind in self.kinds if kind in ACTIVATIONS)

    def predict(self, workload: Workload) -> Estimate:
        """Raises DeviceError for an operator or activation function that no measured network had."""
        self.check(workload)
        profile = profiles([workload])
        mean, doubt = self.log_ms(profile)
        reach = self.quantile * doubt[0]
        return Estimate(*(float(np.exp(mean[0] + off)) for off in (0.0, -reach, reach)))

    def check(self, workload: Workload) -> None:
        if strange := sorted(kinds(workload) - set(self.kinds)):
            raise DeviceError(f"'{strange[0]}' was in no network that was measured on this device; those had {', '.join(self.kinds)}")

    def log_ms(self, profile: Matrix) -> tuple[Vector, Vector]:
        """(n,) means and (n,) doubts, in logs, of profile (n, AMOUNTS)."""
        seen = traits(profile)
        kin = {name: _relative(name).log_ms(profile)[0] for name in self.relatives}
        return combined(self.laws, profile, seen, kin), self.doubt(seen)

    def doubt(self, seen: Matrix) -> Vector:
        """(n,): it grows with the distance to the nearest measured network, beyond what lies between those.

        Left-out errors were seen to grow in about this proportion from architectures to whole families that were never measured.
        """
        return np.hypot(self.apart, nearest(self.laws[0], seen))


def nearest(law: Law, seen: Matrix) -> Vector:
    """(n,) distances to the nearest point of a law, in spreads of all its traits together."""
    points = np.array(law.points)
    here = seen[:, [_TRAIT[name] for name in law.scales]]
    squares = (here**2).sum(1)[:, None] + (points**2).sum(1) - 2 * here @ points.T
    return np.sqrt(np.maximum(squares.min(axis=1), 0.0))


def combined(laws: Sequence[Law], profile: Matrix, seen: Matrix, kin: Mapping[str, Vector]) -> Vector:
    return sum((law.weight * law.log_ms(profile, seen, kin) for law in laws), np.zeros(len(profile)))


def fault(table: NetworkTable) -> str:
    """What is wrong with a table that was read from a file, '' where nothing is."""
    names = [name for law in table.laws for name in (*law.costs, *law.slopes, *law.scales)]
    if unknown := [name for name in names if name not in _AMOUNT and name not in _TRAIT]:
        return f"'{unknown[0]}' is no amount and no trait of a network that this version knows"
    if not table.laws or not table.laws[0].points:
        return "the first law has no points"
    if any(len(law.points) != len(law.weights) or any(len(point) != len(law.scales) for point in law.points) for law in table.laws):
        return "a law's points, weights and scales do not match"
    if not all(isfinite(number) for number in _numbers(msgspec.to_builtins(table))):
        return "a number of its laws is not finite"
    if min(table.quantile, table.apart) <= 0 or any(scale <= 0 for law in table.laws for scale in law.scales.values()):
        return "apart, quantile and scales must be above 0"
    return ""


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(inner)
    elif isinstance(value, float):
        yield value


_AMOUNT = {name: i for i, name in enumerate(AMOUNTS)}
_TRAIT = {name: i for i, name in enumerate(TRAITS)}


def _weighted(weights: Mapping[str, float], column: Mapping[str, int], values: Matrix) -> Vector:
    return values[:, [column[name] for name in weights]] @ np.array(list(weights.values())) if weights else np.zeros(len(values))


@cache
def _relative(name: str) -> NetworkTable:
    """The table of a device that ships with the toolkit."""
    from hwmodels.device import load

    table = load(name).networks
    if table is None:
        raise DeviceError(f"device {name} has no law of whole networks, so no other device can build on it")
    return table
