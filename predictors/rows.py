"""Networks as numbers for the predictors of whole networks: amounts, traits, and what other devices would need for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwmodels.device import Device
from hwmodels.laws import Law, NetworkTable, combined
from hwmodels.profile import Matrix, Vector, kinds, profiles, traits
from hwmodels.workload import Workload
from predictors.errors import PredictorError


@dataclass(frozen=True)
class Rows:
    """profile (n, AMOUNTS), seen (n, TRAITS) traits, kin: (n,) log ms on each relative by name."""

    profile: Matrix
    seen: Matrix
    kin: Mapping[str, Vector]

    def __len__(self) -> int:
        return len(self.profile)

    def __getitem__(self, which: np.ndarray) -> Rows:
        return Rows(self.profile[which], self.seen[which], {name: log_ms[which] for name, log_ms in self.kin.items()})

    @property
    def kin_matrix(self) -> Matrix:
        """(n, relatives)."""
        return np.stack(list(self.kin.values()), axis=1) if self.kin else np.zeros((len(self), 0))

    def without_kin(self) -> Rows:
        return Rows(self.profile, self.seen, {})

    def log_ms(self, laws: Sequence[Law]) -> Vector:
        return combined(laws, self.profile, self.seen, self.kin)


def rows(workloads: Sequence[Workload], relatives: Sequence[Device] = ()) -> Rows:
    """Raises PredictorError for a relative that was not fitted to whole networks."""
    return of_profiles(profiles(workloads), relatives)


def of_profiles(profile: Matrix, relatives: Sequence[Device] = ()) -> Rows:
    """As `rows`, of profiles (n, AMOUNTS) that were counted before."""
    return Rows(profile, traits(profile), {device.name: _table(device).log_ms(profile)[0] for device in relatives})


def seen_kinds(workloads: Sequence[Workload]) -> tuple[str, ...]:
    """Sorted operators and activation functions of all of them."""
    return tuple(sorted(frozenset().union(*(kinds(load) for load in workloads))))


def _table(device: Device) -> NetworkTable:
    if device.networks is None:
        raise PredictorError(f"device {device.name} was not fitted to whole networks, so it cannot be a relative of another")
    return device.networks
