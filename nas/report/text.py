"""Results on a terminal: a mapping becomes two columns, a list of mappings a table."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from nas.job import Run

PAPER = 140  # columns where stdout is no terminal


def render(result: Any, console: Console | None = None) -> None:
    """Print a JSON-like result; nested mappings and lists of mappings come as tables of their own."""
    console = console or Console(width=None if sys.stdout.isatty() else PAPER)
    if isinstance(result, Sequence) and not isinstance(result, str):
        console.print(_rows(result) if result else "nothing")
        return
    plain = {key: value for key, value in result.items() if not _nested(value)}
    if plain:
        table = Table(show_header=False, box=None, pad_edge=False)
        for key, value in plain.items():
            table.add_row(f"[bold]{key}[/bold]", _cell(value))
        console.print(table)
    for key, value in result.items():
        if _nested(value):
            console.print(f"\n[bold]{key}[/bold]")
            render(value, console)


def _nested(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Mapping))


def _rows(rows: Sequence[Mapping[str, Any]]) -> Table:
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if any(row.get(name) not in (None, "") for row in rows)]
    table = Table(pad_edge=False)
    for name in names:
        numeric = all(isinstance(row.get(name), int | float | None) for row in rows)
        table.add_column(name.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in names))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.1e}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value))
    return str(value)


def run_summary(run: Run) -> dict[str, Any]:
    """What a finished run found, finalists best first."""
    from nas.halving import epochs_trained

    trials = run.trials
    calibration, best = run.calibration, max((trial["score"] for trial in run.front), default=None)
    expected = None if calibration is None or best is None else calibration(best)
    return {
        "run": str(run.path),
        "device": run.device.name,
        "limits": [{"column": name, "limit": limit} for name, limit in run.settings.limits.items()],
        "candidates": len(trials),
        "scored": sum(trial.spent for trial in trials),
        "front": len(run.front),
        "epochs_trained": ", ".join(f"{count} {kind}" for kind, count in epochs_trained(run).items()),
        "score_of_best_candidate": best,
        "map50_expected_of_it": expected,
        "rungs": [rung_row(s) for s in run.standings],
        "finalists": [finalist_row(f, run.device.is_local) for f in run.finalists],
    }


def rung_row(standing: Any) -> dict[str, Any]:
    """What one candidate reached at one rung of successive halving."""
    s = standing
    return {
        "rung": s.rung, "trial": s.trial, "epochs": s.epochs, "quantized_epochs": s.quantized, "map50": s.map50, "map": s.map,
        "donor": s.start.donor,
    }  # fmt: skip


def finalist_row(finalist: Any, on_device: bool = True) -> dict[str, Any]:
    """One finalist, predicted beside measured; units close the names.  A time of another machine than the device is no check of its
    prediction, so it stands apart.
    """
    v = finalist.verified
    predicted = v.predicted_ms if v is not None and v.predicted_ms else finalist.predicted["latency_ms"]
    row: dict[str, Any] = {"trial": finalist.trial, "met": finalist.met, "predicted_ms": predicted}
    if v is not None:
        error = 100 * (v.predicted_ms / v.latency_ms - 1) if v.predicted_ms else None
        row |= {"measured_ms": v.latency_ms, "error_percent": error} if on_device else {"ms_on_this_machine": v.latency_ms}
        row |= {
            "map50": v.map50, "map": v.map, "ram_kib": v.ram_kib, "size_mb": v.size_mb, "bit_exact": v.bit_exact,
        }  # fmt: skip
    return row | {"layer_bits": finalist.bits_of_layers, "failed": finalist.failed}
