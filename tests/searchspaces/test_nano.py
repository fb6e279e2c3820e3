"""Published nano detectors in the joint spaces."""

import pytest

from searchspaces import SPACES
from searchspaces.nano import FACTORS, SIDES, nano, scaled
from searchspaces.yolo import STAGES


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_scaled_networks_differ_are_of_one_precision_and_the_nano_one_is_among_them(space):
    found = list(scaled(space, "c2f", "silu", "w4a4"))
    assert 3 * len(SIDES) < len(set(found)) == len(found) <= len(SIDES) * len(FACTORS)
    assert all(arch == space.arch(arch.genes) for arch in found)
    assert {node["wbits"] for node in space.build(found[-1], 3) if "wbits" in node.attrs} == {4, 8}  # the stem and the last 1x1 have 8
    original = nano("c2f", 160, "silu", "w4a4").genes
    assert any(all(arch[gene] == option for gene, option in original.items()) for arch in found)


def test_other_widths_are_as_near_as_the_space_has_them():
    half = next(arch for arch in scaled(SPACES["yolo"], "c3", "silu", "w2a2") if arch["resolution"] == 96)
    assert [half[f"stage{s}.width"] for s in STAGES] == [16, 32, 64, 128] and half["stem.width"] == 8
