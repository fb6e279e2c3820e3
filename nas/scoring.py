"""Proxies on a user's own data and tables: list, score, report.  Each returns what the command line shows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.data import Dataset, load, read_image
from nas.progress import Progress
from nas.steps import read_genes, space_named
from proxies import BROKEN_PLUGINS, PROXIES, Probe, Proxy, find, probe, score
from proxies.probe import IMAGES

if TYPE_CHECKING:
    from proxies.report import ProxyReport

_SIDE = 480  # px: larger than any probe that is cut from these images


def probe_of(dataset: Dataset, side: int = _SIDE) -> Probe:
    """The first training images that hold objects, with their boxes, stretched to side x side."""
    import cv2

    shown = [sample for sample in dataset.train if len(sample.boxes_xyxy)][:IMAGES] or list(dataset.train[:IMAGES])
    images = [read_image(sample) for sample in shown]
    boxes = [sample.boxes_xyxy / np.tile(image.shape[1::-1], 2) for sample, image in zip(shown, images)]
    squares = [cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) for image in images]
    return probe(squares, side, classes=len(dataset.classes), boxes_xyxy=boxes, labels=[sample.labels for sample in shown])


def list_proxies() -> list[dict[str, Any]]:
    rows = [{"proxy": p.name, "higher_is_better": p.higher_is_better, "summary": p.summary, "source": p.source} for p in PROXIES.values()]
    return rows + [{"proxy": name, "summary": f"not loaded: {reason}"} for name, reason in BROKEN_PLUGINS.items()]


def score_proxies(genes: Path | None, data: str, names: str, seeds: int) -> list[dict[str, Any]]:
    space = space_named("yolo")
    arch = read_genes(genes, space) if genes else space.sample(np.random.default_rng(0))
    dataset = load(data)
    look = probe_of(dataset, int(arch["resolution"]))
    graph = space.build(arch, len(dataset.classes))
    rows = []
    for item in _chosen(names):
        found = score(item, graph, look, seeds=range(seeds))
        rows.append({"proxy": item.name, "value": found.value, "noise": found.noise, "seconds": found.seconds, "error": found.error or ""})
    return rows


def report_proxies(table: Path, accuracy: str, names: str, models: int, data: str, key: str, classes: int, seed: int,
                   progress: Progress) -> ProxyReport:  # fmt: skip
    """How well proxies rank the networks of a labelled table; see proxies.report.  `data`: '' takes the embedded images."""
    from proxies.labelled import load as load_table
    from proxies.report import BASELINES, report

    labelled, chosen = load_table(table, accuracy, key=key, classes=classes), _chosen(names)
    seen = probe_of(load(data)) if data else None
    count = min(models, len(labelled)) if models else len(labelled)
    with progress.task("proxies", count * len({item.name for item in (*chosen, *BASELINES)})) as task:
        return report(labelled, chosen, models=models or None, samples=seen, seed=seed, table=table.name, accuracy=accuracy,
                      tick=lambda note: task.advance(1, note))  # fmt: skip


def _chosen(names: str) -> Iterable[Proxy]:
    return [find(name.strip(), PROXIES, BROKEN_PLUGINS) for name in names.split(",")] if names else PROXIES.values()
