"""A small space and evaluations of it that other processes can import; as a script, one search that can be killed and resumed."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from nas.objectives import Evaluation, Objective
from nas.search.loop import run
from nas.search.searchers import searcher
from nas.study import Study
from searchspaces.space import Arch, Choice, Space


def _no_graph(arch, classes):
    raise AssertionError("these tests build no graph")


SPACE = Space(
    name="toy",
    choices=(
        *(Choice(f"width{i}", (8, 16, 24, 32, 48, 64)) for i in range(6)),
        Choice("neck", ("pan", "fpn")),
        Choice("pan.depth", (1, 2, 3), when=("neck", ("pan",))),
        *(Choice(f"bits{i}", (2, 4, 8)) for i in range(3)),
    ),
    build=_no_graph,
)


def cheap(arch: Arch) -> dict[str, float]:
    widths = [arch[f"width{i}"] for i in range(6)]
    bits = [arch[f"bits{i}"] for i in range(3)]
    return {"latency_ms": sum(w * w for w in widths) / 1000 + arch["pan.depth"] / 10, "size_mb": sum(widths) * sum(bits) / 2000}


def expensive(arch: Arch) -> dict[str, float]:
    if arch["width0"] == 24 and arch["bits0"] == 2:
        raise RuntimeError("this one cannot be scored")
    if arch["width1"] == 48 and arch["bits1"] == 2:
        return {"score": float("nan"), "pid": os.getpid()}
    return {"score": gain(arch), "pid": os.getpid()}


def gain(arch: Arch) -> float:
    """Between 40 and 150."""
    wide = sum(arch[f"width{i}"] ** 0.5 * (i + 1) for i in range(6)) + 3 * sum(arch[f"bits{i}"] ** 0.5 for i in range(3))
    return wide + (2.0 if arch["neck"] == "pan" else 0.0) - arch["pan.depth"] ** 2 / 8


def belief(archs, columns):
    """Wider is better: a rough guess of the score, on another scale."""
    return np.array([sum(arch[f"width{i}"] for i in range(6)) / 100 - row["size_mb"] for arch, row in zip(archs, columns)])


def slow(arch: Arch) -> dict[str, float]:
    time.sleep(0.02)
    return expensive(arch)


def deadly(arch: Arch) -> dict[str, float]:
    if arch["width2"] == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return expensive(arch)


def broken_start() -> None:
    os._exit(3)


def objectives(latency: float | None = 6.0, size: float | None = None) -> tuple[Objective, ...]:
    return (
        Objective("latency_ms", "ms", limit=latency),
        Objective("size_mb", "MB", limit=size, optimized=False),
        Objective("score", "", "max", "expensive"),
        Objective("pid", "", cost="expensive", optimized=False, deterministic=False),
    )


def evaluation(expensive=expensive, **limits) -> Evaluation:
    return Evaluation(objectives(**limits), cheap, expensive)


def search(path: Path, *, budget: int = 60, workers: int = 1, seed: int = 7, name: str = "nsga2", judge: Evaluation | None = None,
           **settings) -> str:
    """Start or resume a study; its fingerprint."""
    judge = judge or evaluation()
    with Study.open(path, writable=True) if path.exists() else Study.create(path, SPACE.name, {"seed": seed}, {}) as study:
        seeker = searcher(name, SPACE, judge.objectives, seed, cheap=judge.cheap, belief=belief)
        run(study, seeker, judge, budget, workers=workers, **settings)
        return study.fingerprint()


if __name__ == "__main__":
    search(Path(sys.argv[1]), budget=int(sys.argv[2]), workers=int(sys.argv[3]), judge=evaluation(slow),
           on_trial=lambda trial: print(trial.number, int(trial.volatile.get("pid", 0)), flush=True))
