"""Fits the architecture term of the accuracy score on YOLOBench (Lazarevich et al. 2023, arXiv:2307.13901): VOC from scratch.

All 968 networks of all families.  The tables are not part of the package; `python -m proxies.yolobench
PATH/VOC_scratch_100epochs.csv` refits architecture.json.  `edgenas bench yolobench` judges it.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from proxies.labelled import Labelled, load
from proxies.learner import Monotone, fit_monotone
from proxies.structure import matrix, structure

RIDGE = 0.003  # less than with a few tens of labels; .001 to .01 rank families left out alike
# In YOLOBench only YOLOv6 has ReLU, so that a fit takes for ReLU's what is YOLOv6's (.136).  What smooth activations are worth was measured
# (table `training` of `edgenas bench accuracy`): YOLOv8n on BCCD, 160 px, 60 epochs, three seeds: .545 mAP with SiLU, .532 with ReLU.
SLOPES = {"smooth_share": 0.05}
_DIGITS = 5


def fit(labelled: Labelled) -> Monotone:
    """The term, rounded as it is stored."""
    x = matrix(structure(network.build()) for network in labelled.networks)
    source = (f"non-negative concave additive fit, ridge {RIDGE}, on {len(labelled)} networks of YOLOBench (arXiv:2307.13901), "
              f"VOC from scratch, mAP50-95, slopes given: {SLOPES}; python -m proxies.yolobench")
    found = fit_monotone(x, labelled.accuracy, slopes=SLOPES, ridge=RIDGE, source=source)
    numbers: dict[str, Any] = {name: _rounded(getattr(found, name)) for name in ("mean", "std", "low", "high", "knots", "weights")}
    return replace(found, **numbers, intercept=round(found.intercept, _DIGITS))


def _rounded(values: object) -> tuple:
    table = np.round(np.asarray(values, dtype=np.float64), _DIGITS).tolist()
    return tuple(tuple(row) if isinstance(row, list) else row for row in table)


def main(table: str) -> None:
    stored = Path(__file__).with_name("architecture.json")
    found = fit(load(Path(table), latencies=()))
    stored.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    print(f"{stored}: {found.source}")


if __name__ == "__main__":
    main(sys.argv[1])
