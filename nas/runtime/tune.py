"""Which kernel variant is fastest for a layer on this machine, measured and kept.

The table is a matter of the machine, never of an artifact: {"cpu", "isa", "engine", "layers": {layer: variant}} in JSON below
EDGENAS_CACHE or ~/.cache/edgenas. A table of another machine or engine, or one that cannot be read, is left aside with a warning.
"""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas.runtime.artifact import read
from nas.runtime.executor import Executor, isa, variants
from nas.runtime.machine import identity
from nas.runtime.plan import ArtifactError, Instruction, Plan

TUNED = ("conv2d", "conv_transpose2d")
LEAST_GAIN = 1.03  # smaller differences are noise


@dataclass(frozen=True)
class Choice:
    """One layer: the variant that is chosen without a measurement, the fastest one measured, and their times in microseconds."""

    layer: str
    key: str
    usual: str
    usual_us: float
    fastest: str
    fastest_us: float


def key_of(plan: Plan, i: Instruction) -> str:
    """What two layers share that cost the same: shapes, window, bits and epilogue."""
    x, y = plan.tensors[i.inputs[0]], plan.tensors[i.outputs[0]]
    window = " ".join(f"{name}{i.attrs[name]}" for name in ("kernel", "stride", "padding", "groups") if name in i.attrs)
    bits = "f32" if x.dtype == "f32" else f"w{i.attrs['wbits']}a{x.bits}"
    epilogue = i.requant.kind if i.requant is not None else i.attrs.get("activation", "none")
    return f"{i.op} {'x'.join(map(str, x.shape))}-{'x'.join(map(str, y.shape))} {window} {bits} {epilogue}"


def tune(file: bytes, rounds: int = 15) -> list[Choice]:
    """Times every variant of every convolution inside the network, by turns, and takes the least of each: one thread."""
    plan = read(file)
    names = sorted({*variants("conv2d"), *variants("conv2d_f32")} - {"reference"})
    executors = {name: Executor(file, name) for name in ("", *names)}
    inputs = [np.full(plan.tensors[t].shape, 1, np.float32 if plan.tensors[t].dtype == "f32" else np.uint8) for t in plan.inputs]
    profiles = {name: [executor.profile(inputs) for _ in range(2)][1:] for name, executor in executors.items()}
    for _ in range(rounds):
        for name, executor in executors.items():
            profiles[name].append(executor.profile(inputs))
    found: dict[str, Choice] = {}
    for k, i in enumerate(plan.instructions):
        if i.op not in TUNED:
            continue
        times = {rows[0][k].variant: min(row[k].us for row in rows) for rows in profiles.values()}
        usual = profiles[""][0][k].variant
        best = min(times, key=lambda name: times[name])
        if times[usual] < LEAST_GAIN * times[best]:
            best = usual
        choice = Choice(i.name, key_of(plan, i), usual, times[usual], best, times[best])
        found.setdefault(choice.key, choice)
    return list(found.values())


def table_path() -> Path:
    """Where the table of this machine lies; instruction sets lowered by EDGENAS_ISA have their own."""
    cache = Path(os.environ.get("EDGENAS_CACHE") or Path.home() / ".cache" / "edgenas")
    return cache / f"kernels-{isa().replace(' ', '-')}.json"


def keep(choices: Sequence[Choice]) -> Path:
    """Adds choices to the table of this machine; the usual variant is kept too, so that it is known to be measured."""
    path = table_path()
    table = {**identity(), "layers": {**load(), **{choice.key: choice.fastest for choice in choices}}}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror or error}; set EDGENAS_CACHE to another folder") from None
    return path


def load() -> dict[str, str]:
    """Layer -> variant as measured on this machine; empty where nothing was, or where the table cannot be used."""
    path = table_path()
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        _check(table)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        warnings.warn(f"{path} is left aside: {error}; edgenas compile --tune measures again", stacklevel=2)
        return {}
    return dict(table["layers"])


def chosen(file: bytes, table: Mapping[str, str]) -> list[str]:
    """The variant of each instruction by a table, '' where it has none."""
    plan = read(file)
    return [table.get(key_of(plan, i), "") if i.op in TUNED else "" for i in plan.instructions]


def _check(table: object) -> None:
    here = identity()
    if not isinstance(table, dict) or set(table) != {*here, "layers"} or not isinstance(table["layers"], dict):
        raise ValueError(f"it holds no table with {', '.join(here)} and layers")
    for name, value in here.items():
        if table[name] != value:
            raise ValueError(f"it was measured with {name} {table[name]!r}, here is {value!r}")
    known = {*variants("conv2d"), *variants("conv2d_f32")}
    for layer, variant in table["layers"].items():
        if not isinstance(variant, str) or variant not in known:
            raise ValueError(f"layer '{layer}' has variant {variant!r}; known here: {', '.join(sorted(known))}")
