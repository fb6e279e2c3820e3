"""Random networks and machines whose times are known."""

import numpy as np
import pytest

from hwmodels import workload
from hwmodels.profile import AMOUNTS
from predictors import rows
from predictors.rows import seen_kinds
from searchspaces import YOLO
from searchspaces.rewrite import deployed
from searchspaces.yolo import with_precisions

COSTS = {
    "network": 0.8, "conv calls": 0.02, "k1 macs": 0.011, "k3 macs": 0.006, "silu elements": 1.5, "concat elements": 0.9, "weights": 0.4,
}  # fmt: skip
AMOUNT = {name: i for i, name in enumerate(AMOUNTS)}


@pytest.fixture(scope="session")
def loads():
    """120 float networks with SiLU and ReLU."""
    space = with_precisions(YOLO, ["fp32"])
    space = space.limited({c.name: ["silu", "relu"] for c in space.choices if c.name.endswith(".act")})
    rng = np.random.default_rng(0)
    return [workload(deployed(space.build(space.sample(rng), 20))) for _ in range(120)]


@pytest.fixture(scope="session")
def known(loads):
    return rows(loads)


@pytest.fixture(scope="session")
def kinds(loads):
    return seen_kinds(loads)


@pytest.fixture(scope="session")
def machine_ms(known):
    """(120,): sums of costs, 10 % more where maps are tiny, and 2 % of noise."""
    ms = sum(cost * known.profile[:, AMOUNT[name]] for name, cost in COSTS.items())
    tiny = known.profile[:, AMOUNT["map256 macs"]] / known.profile[:, AMOUNT["macs"]]
    return ms * (1 + 0.1 * (tiny > 0.3)) * np.random.default_rng(1).normal(1, 0.02, len(ms))
