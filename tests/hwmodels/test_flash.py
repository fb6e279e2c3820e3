import numpy as np
import pytest

from hwmodels import flash_bytes
from hwmodels.calibrate import random_weights
from nas.compiler.lower import lower
from nas.runtime import artifact
from searchspaces import YOLO, Weights
from searchspaces.quantizers import quantized
from searchspaces.rewrite import deployed
from searchspaces.yolo import with_precisions


def with_scales_of_their_own(weights: Weights, rng: np.random.Generator) -> Weights:
    """As after training, where no two quantizers agree, and so no two activation tables."""
    return Weights({name: a * rng.uniform(0.5, 2) if name.startswith("quant.") and name.endswith("scale") else a
                    for name, a in weights.arrays().items()})  # fmt: skip


@pytest.mark.parametrize("precisions", [("w8a8", "w4a4", "w2a2", "w1a1", "w2a8"), ("w2a2",), ("fp32",)], ids="-".join)
def test_flash_is_the_size_of_the_artifact_within_three_percent(precisions):
    space = with_precisions(YOLO, precisions).limited({"resolution": [96]})
    for seed in range(3):
        rng = np.random.default_rng(seed)
        graph = deployed(quantized(space.build(space.sample(rng), 4)))
        plan = lower(graph, with_scales_of_their_own(random_weights(graph, seed), rng), classes=["a", "b", "c", "d"])
        assert flash_bytes(graph) == pytest.approx(len(artifact.write(plan)), rel=0.03)


def test_a_lower_bit_width_shrinks_the_weights_in_proportion():
    sizes = {}
    for precision in ("w8a8", "w4a8", "w2a8"):
        space = with_precisions(YOLO, [precision]).limited({"stage4.width": [512], "backbone.block": ["c2f"]})
        sizes[precision] = flash_bytes(deployed(quantized(space.build(space.sample(np.random.default_rng(1)), 4))))
    assert sizes["w2a8"] < sizes["w4a8"] < sizes["w8a8"]
    assert sizes["w8a8"] - sizes["w4a8"] == pytest.approx(2 * (sizes["w4a8"] - sizes["w2a8"]), rel=0.01)
