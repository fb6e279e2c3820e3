"""edgenas: searches, trains, quantizes, compiles and verifies object detectors for edge devices.

    import nas
    run = nas.search(data="data/bccd", device="local", max_latency_ms=6, out="runs/bccd")
    run.front, run.finalists, run.export("knee", "onnx")

Each part is loaded on first use, so that `import nas.runtime` needs numpy alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nas.search  # noqa: F401 - bound before the function below: the first import of a sub-package sets the name

if TYPE_CHECKING:
    from nas.job import Run
    from searchspaces import Graph, Weights

__all__ = ["import_module", "open_run", "resume", "search"]


def search(
    data: str,
    *,
    out: str,
    device: str = "local",
    max_latency_ms: float | None = None,
    max_ram_kib: float | None = None,
    max_flash_kib: float | None = None,
    max_size_mb: float | None = None,
    progress: Any = None,
    **settings: Any,
) -> Run:
    """The main job: search, train, quantize, compile, verify.  Other keywords are fields of nas.job.SearchSettings.

    Raises a ValueError that says what was wrong and what would work; nas.search.loop.Infeasible or nas.job.NothingFits where
    nothing meets the limits.
    """
    from nas.job import SearchSettings
    from nas.job import search as run_job

    limits = {"latency_ms": max_latency_ms, "ram_kib": max_ram_kib, "flash_kib": max_flash_kib, "size_mb": max_size_mb}
    given = {name: float(value) for name, value in limits.items() if value is not None}
    return run_job(SearchSettings(data=str(data), device=device, limits=given, **settings), out, progress)


def resume(path: str, progress: Any = None) -> Run:
    """Go on with a run that was cut off; one that is complete comes back as it is."""
    from nas.job import resume as resume_job

    return resume_job(path, progress)


def open_run(path: str) -> Run:
    """Read a run without going on with it."""
    from nas.job import Run as Opened

    return Opened.open(path)


def import_module(module: Any, example: Any, **settings: Any) -> tuple[Graph, Weights]:
    """A user's own torch module in eval mode as a Graph and its float weights; keywords and errors are nas.importer.import_module's."""
    from nas.importer import import_module as convert

    return convert(module, example, **settings)


def __getattr__(name: str) -> Any:
    if name in ("Run", "Finalist", "SearchSettings"):
        from nas import job

        return getattr(job, name)
    raise AttributeError(f"module 'nas' has no attribute '{name}'")
