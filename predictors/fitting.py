"""From measured networks to a device file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from hwmodels.device import Device
from hwmodels.laws import NetworkTable
from hwmodels.workload import Workload
from predictors.ensemble import FEW, MEMBERS, Ensemble, Numbers
from predictors.rows import Rows, rows, seen_kinds

_DIGITS, _PLACES = 5, 3  # of numbers in a file; decimals of a point's traits, in spreads


def fit_device(
    workloads: Sequence[Workload], ms: Numbers, *, source: str, groups: Numbers | None = None,
    families: Numbers | None = None, relatives: Sequence[Device] = (), asked: Sequence[Workload] = (), **facts: Any,
) -> Device:
    """The device that these networks (deployed) and their times tell of; `facts` are its fields name, board, runtime, precisions.

    `groups` number architectures, so that errors are those of architectures never measured; `families` number kinds of architectures,
    so that the interval holds for kinds never measured.  `relatives` are the devices whose predictions may serve as features,
    `asked` networks such as will be predicted: they bound the interval where few were measured.
    Raises PredictorError for impossible measurements.
    """
    wanted = rows(asked, relatives) if asked else None
    return device_of_rows(rows(workloads, relatives), ms, seen_kinds(workloads), groups, families, wanted, source=source, **facts)


def device_of_rows(
    known: Rows, ms: Numbers, kinds: Sequence[str], groups: Numbers | None = None, families: Numbers | None = None,
    asked: Rows | None = None, *, source: str, **facts: Any,
) -> Device:
    """As `fit_device`, of rows that were counted before.  Of many networks one law is kept, as exact as all and a fifth of the size."""
    few = len(known) <= FEW
    members, known = (tuple(MEMBERS), known) if few else (tuple(MEMBERS)[:1], known.without_kin())
    fitted = Ensemble(members=members).fit_rows(known, ms, kinds, groups, asked)
    table, errors = fitted.table, fitted.errors
    sources = {"networks": source, "errors": "cross-validation, networks of one architecture left out together"}
    if families is not None:
        far = Ensemble(members=members).fit_rows(known, ms, kinds, families, asked)
        if far.table.quantile * far.table.apart > table.quantile * table.apart:
            table = msgspec.structs.replace(table, quantile=far.table.quantile, apart=far.table.apart)
        errors |= {f"{name}_new_family": value for name, value in far.errors.items() if name != "networks"}
        sources["errors"] += "; new_family: whole families left out, for which the interval is calibrated"
    return Device(**facts, networks=_rounded(table), errors=errors, sources=sources)


def _rounded(table: NetworkTable) -> NetworkTable:
    return msgspec.convert(_short(msgspec.to_builtins(table)), NetworkTable)


def _short(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _short(inner, name) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_short(inner, key) for inner in value]
    if isinstance(value, float):
        return round(value, _PLACES) if key == "points" else float(f"{value:.{_DIGITS}g}")
    return value
