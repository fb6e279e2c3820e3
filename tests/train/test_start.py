"""Start weights from files: what fits is taken, by name or by order and shape, and the rest is said."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from nas.train import TrainError, start_from
from nas.train.start import read_arrays
from searchspaces import Builder
from searchspaces.blocks import conv_bn_act
from searchspaces.module import to_torch


def net(head=6):
    g = Builder()
    x = conv_bn_act(g, g.input(3, 16, 16), 4, 3, stride=2, act="relu")
    x = conv_bn_act(g, x, 8, 3, act="relu")
    return g.graph(g.conv2d(x, head, 1, bias=True))


class Other(nn.Module):
    """The same network under other names, with one layer more."""

    def __init__(self):
        super().__init__()
        convs = nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.Conv2d(4, 8, 3, 1, 1, bias=False)
        self.body = nn.Sequential(convs[0], nn.BatchNorm2d(4), convs[1], nn.BatchNorm2d(8))
        self.extra = nn.Conv2d(8, 16, 1)
        self.head = nn.Conv2d(8, 6, 1)


@pytest.fixture
def ours():
    torch.manual_seed(0)
    return net(), to_torch(net()).weights()


def test_arrays_find_their_place_by_name_and_strange_shapes_stay(tmp_path, ours):
    graph, weights = ours
    torch.manual_seed(1)
    trained = to_torch(net(head=5)).weights().arrays()
    save_file(trained, tmp_path / "a.safetensors")
    found = start_from(tmp_path / "a.safetensors", graph, weights)
    assert found.by == "name" and set(found.kept) == {"conv2d2.weight", "conv2d2.bias"} == set(found.unused)
    for name, array in found.weights.arrays().items():
        np.testing.assert_array_equal(array, weights.arrays()[name] if name in found.kept else trained[name])


@pytest.mark.parametrize("nested", [False, True])
def test_a_torch_state_dict_is_matched_by_order_and_shape(tmp_path, ours, nested):
    graph, weights = ours
    other = Other()
    with torch.no_grad():
        other.body[1].running_mean.fill_(3.0)
    torch.save({"model": other.state_dict(), "epoch": 3} if nested else other.state_dict(), tmp_path / "b.pt")
    found = start_from(tmp_path / "b.pt", graph, weights)
    assert found.by == "order and shape" and not found.kept and set(found.unused) == {"extra.weight", "extra.bias"}
    np.testing.assert_array_equal(found.weights["batchnorm", "mean"], np.full(4, 3.0))
    np.testing.assert_array_equal(found.weights["conv2d2", "weight"], other.head.weight.detach().numpy())
    assert "12 of 12 arrays by order and shape; not used: extra.weight, extra.bias" in found.text()


class Evil:
    def __reduce__(self):
        return print, ("owned",)


def test_files_that_are_no_weights_are_refused(tmp_path, ours, capsys):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"weight": Evil()}, protocol=2))
    torch.save({"weight": torch.full((2, 2), torch.nan)}, tmp_path / "nan.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"weight": torch.zeros(9, 9)}, tmp_path / "strange.pt")
    (tmp_path / "text.safetensors").write_text("hello")
    for name, message in (("evil.pt", "neither"), ("nan.pt", "'weight' holds values"), ("list.pt", "no state dict"),
                          ("text.safetensors", "neither"), ("none.pt", "no start weights")):  # fmt: skip
        with pytest.raises(TrainError, match=message):
            read_arrays(tmp_path / name)
    with pytest.raises(TrainError, match="none of its 1 arrays fits"):
        start_from(tmp_path / "strange.pt", *ours)
    assert capsys.readouterr().out == ""
