"""The frame of `edgenas bench accuracy`: tables of trainings, each a list of cells that are kept one by one.

A cell is one training or one measurement of a table, kept as OUT/<table>/<cell>.json as soon as it is known; a benchmark that was
killed goes on with what is not there yet, and several processes with one OUT share the cells between them.  The estimate that is printed
before the start comes from a few training steps on this machine and the work that each cell says it holds; minutes of timing nets are not
in it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas.bench.engines import BenchError
from nas.data import Dataset
from nas.data import load as load_data
from nas.locks import alone
from nas.model import write_whole
from nas.progress import Progress, Silent, Task

Figures = Mapping[str, Any]  # of one cell: what is kept as JSON
_STEPS, _BATCH = 4, 4  # of training, timed for the estimate
_POLL = 1.0  # s between two looks at what other processes do


@dataclass(frozen=True)
class Plan:
    """What every table is asked for.  `epochs` of a float training; what starts from its weights takes a share of them.  `size`: side of
    the images in pixels, where a table does not search it."""

    data: str
    epochs: int
    seeds: int
    accelerator: str
    out: Path
    size: int = 160

    def dataset(self) -> Dataset:
        return load_data(self.data)

    def shared(self, name: str) -> Path:
        """A folder that tables share, such as for the float models that several of them start from."""
        return self.out / "shared" / name


@dataclass(frozen=True)
class Cell:
    """`key` is its name in the table and of its file.  `work`: images of float training times the network's GMACs, `quantized` the same of
    quantized training.  `run` gets a folder of its own for checkpoints; what it leaves there it may go on from.  It starts
    when the cells named in `after` are known.
    """

    key: str
    work: float
    run: Callable[[Path], Figures]
    quantized: float = 0.0
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """`cells` in the order in which they run.  `text` shows the cells that are known, key -> figures, as aligned lines under a heading."""

    name: str
    summary: str
    cells: Callable[[Plan, Dataset], Sequence[Cell]]
    text: Callable[[Mapping[str, Figures]], str]


@dataclass(frozen=True)
class Bench:
    """The figures of each table by cell, and their texts."""

    plan: Plan
    about: Mapping[str, Any]
    cells: Mapping[str, Mapping[str, Figures]]
    tables: tuple[Table, ...]

    def json(self) -> dict[str, Any]:
        return {"plan": {**asdict(self.plan), "out": str(self.plan.out)}, **self.about, "tables": self.cells}

    def text(self) -> str:
        plan = self.plan
        head = (f"{plan.data} at {plan.size} px, {plan.epochs} epochs, {plan.seeds} seeds; {self.about['cpu']}, "
                f"commit {self.about['commit']}")  # fmt: skip
        return "\n\n".join([head, *(table.text(self.cells[table.name]) for table in self.tables)])


def run(tables: Sequence[Table], plan: Plan, progress: Progress | None = None) -> Bench:
    """Every cell that is not known yet, table by table; one that another process is at is left to it.

    Raises BenchError where `plan.out` holds a benchmark of another plan.
    """
    from nas.provenance import commit, cpu_name, versions

    progress = progress or Silent()
    _claim(plan)
    dataset = plan.dataset()
    todo = {table: [c for c in table.cells(plan, dataset) if not _file(plan, table, c.key).exists()] for table in tables}
    if any(todo.values()):
        pace, quantized_pace = (seconds_per_work(plan.accelerator, precision) for precision in ("", "w4a4"))
        for table, cells in todo.items():
            seconds = sum(pace * cell.work + quantized_pace * cell.quantized for cell in cells)
            progress.say(f"{table.name}: {len(cells)} cells to do, about {_span(seconds)}")
    left = [(table, cell) for table, cells in todo.items() for cell in cells]
    with progress.task("cells", len(left)) as task:
        while left:
            busy = [(table, cell) for table, cell in left if not _done(plan, table, cell, task)]
            if len(busy) == len(left):
                time.sleep(_POLL)
            left = busy
    about = {"cpu": cpu_name(), "commit": commit() or "unknown", "versions": versions()}
    return Bench(plan, about, {table.name: known(plan, dataset, table) for table in tables}, tuple(tables))


def _done(plan: Plan, table: Table, cell: Cell, task: Task) -> bool:
    """Whether a cell is known, now or since long; not where it has to wait for another one or another process is at it."""
    file = _file(plan, table, cell.key)
    if not all(_file(plan, table, key).exists() for key in cell.after):
        return False
    with alone(file.with_suffix(".lock"), wait=False) as mine:
        if not mine:
            return False
        if not file.exists():
            start = time.process_time()
            figures = dict(cell.run(file.with_suffix("")))
            figures |= {"cpu_seconds": time.process_time() - start}
            write_whole(file, json.dumps(figures, indent=1).encode())
        file.with_suffix(".lock").unlink(missing_ok=True)  # who holds it next finds the file
    task.advance(1, f"{table.name} {cell.key}")
    return True


def known(plan: Plan, dataset: Dataset, table: Table) -> dict[str, Figures]:
    """Cell -> figures, of the cells of a table that were run, in the table's order."""
    files = {cell.key: _file(plan, table, cell.key) for cell in table.cells(plan, dataset)}
    return {key: json.loads(file.read_text()) for key, file in files.items() if file.exists()}


def _file(plan: Plan, table: Table, key: str) -> Path:
    return plan.out / table.name / f"{key}.json"


def _claim(plan: Plan) -> None:
    """Write the plan beside its results, or see that it is the one that stands there; more seeds may be added."""
    path, said = plan.out / "plan.json", {"data": plan.data, "size": plan.size, "epochs": plan.epochs}
    if not path.exists():
        write_whole(path, json.dumps(said).encode())
    elif (found := json.loads(path.read_text())) != said:
        kept = f"{found.get('data')} at {found.get('size')} px with {found.get('epochs')} epochs"
        raise BenchError(f"{plan.out} holds a benchmark of {kept}; give another --out, or the same plan")


def seconds_per_work(accelerator: str, precision: str = "") -> float:
    """Wall seconds that an image x GMAC of training takes on this machine, by a few steps of a YOLOv8n at 160 px: of float training, or of
    quantized training at a precision with the float net as its teacher, both in the type of floats that the recipe takes."""
    import torch

    from nas.bench.networks import CLASSES, yolov8n
    from nas.quant import fake_quantized
    from nas.train import compute_type, detection_loss, distillation_loss, pick_device
    from nas.train.assign import Targets
    from searchspaces.module import to_torch
    from searchspaces.quantizers import floated

    device = pick_device(accelerator)  # type: ignore[arg-type]
    graph = yolov8n(160, "silu", precision or "w8a8")
    images = torch.rand(_BATCH, 3, 160, 160).to(memory_format=torch.channels_last)
    teacher = to_torch(floated(graph)).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    net = fake_quantized(graph, teacher.weights(), [images]).to(device, memory_format=torch.channels_last) if precision else teacher  # type: ignore[call-overload]
    images = images.to(device)
    boxes = torch.tensor([[20.0, 20.0, 90.0, 90.0]], device=device).repeat(_BATCH, 1)
    targets = Targets(boxes, torch.zeros(_BATCH, dtype=torch.int64, device=device), torch.arange(_BATCH, device=device))
    low = not precision and compute_type(device, "auto") is torch.bfloat16
    net.train()
    spent = []
    for _ in range(_STEPS):
        start = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=low):
            maps = net(images)
        loss = detection_loss(maps, targets, len(CLASSES)).total
        if precision:
            with torch.no_grad():
                taught = teacher(images)
            loss = loss + distillation_loss(maps, taught, len(CLASSES))
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent.append(time.perf_counter() - start)
    return min(spent) / (_BATCH * gmacs(graph))


def gmacs(graph: Any) -> float:
    from hwmodels.workload import workload
    from searchspaces.rewrite import deployed

    return workload(deployed(graph)).macs / 1e9


def _span(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
