"""A small space with a condition, its evaluation, and tasks that NNI's processes import; as a script, an experiment that can be killed."""

import os
import sys
import time
from pathlib import Path

from nas.objectives import Evaluation, Objective
from searchspaces.space import Choice, Space


def _no_graph(arch, classes):
    raise AssertionError("these tests build no graph")


SPACE = Space(
    name="toy",
    choices=(
        Choice("width", (8, 16, 24, 32, 48, 64)),
        Choice("scale", (0.25, 0.5, 1.0)),
        Choice("neck", ("pan", "fpn")),
        Choice("pan.depth", (1, 2, 3), when=("neck", ("pan",))),
        *(Choice(f"bits{i}", (2, 4, 8)) for i in range(3)),
    ),
    build=_no_graph,
)
OBJECTIVES = (Objective("latency_ms", "ms", limit=3.0), Objective("score", "", "max", "expensive"))


def cheap(arch):
    return {"latency_ms": arch["width"] * arch["scale"] / 16 + arch["pan.depth"] / 10 + sum(arch[f"bits{i}"] for i in range(3)) / 24}


def expensive(arch):
    if arch["width"] == 24 and arch["bits0"] == 2:
        raise RuntimeError("this one cannot be scored")
    return {"score": (arch["width"] * arch["scale"]) ** 0.5 + arch["pan.depth"] + sum(arch[f"bits{i}"] ** 0.5 for i in range(3))}


EVALUATION = Evaluation(OBJECTIVES, cheap, expensive)


def task():
    return SPACE, EVALUATION


def endless(folder):
    """Trials that leave their process id and never end."""

    def hang(arch):
        Path(folder, "trial.pid").write_text(str(os.getpid()))
        time.sleep(600)
        return {"score": 0.0}

    return SPACE, Evaluation((Objective("latency_ms", "ms"), OBJECTIVES[1]), cheap, hang)


if __name__ == "__main__":
    from nas.nni_experiment import run_experiment

    run_experiment("nni_toys:endless", sys.argv[1], argument=sys.argv[1], on_start=lambda url: print(url, flush=True))
