"""What a run found, for people: on a terminal (`text`), as one HTML page (`page`) and as a picture of the front (`front_png`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.job import Run

__all__ = ["ReportError", "write_report"]


class ReportError(ValueError):
    """A report that cannot be made or written."""


def write_report(run: Run, out: str | Path | None = None) -> Path:
    """Write the page, by default report.html in the run, and front.png beside it; the page's path.

    Any state of a run will do: one that is still searching, that has no finalist yet, or in which nothing met the limits.
    """
    from nas.report.page import write

    return write(run, None if out is None else Path(out))
