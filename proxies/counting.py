"""Proxies that count: no torch model, no images.  They are the baselines that every other proxy has to beat."""

from __future__ import annotations

from hwmodels.workload import Counts, Workload, counts
from proxies.core import proxy
from proxies.probe import Probe
from searchspaces import Graph
from searchspaces.rewrite import merge_rep

_SOURCE = "counted on the graph with rep branches merged; as a baseline: arXiv:2307.13901"


def counted(graph: Graph) -> Counts:
    """The counts of a graph in training form, rep branches merged: what the proxies here and the accuracy score count on."""
    return counts(merge_rep(graph)[0])


def counted_deployed(load: Workload, saved: int) -> Counts:
    """The same of a network that was built in deploy form: its workload, and what its searchspaces.deploy.DeployBuilder `saved`."""
    return Counts(load.macs, load.params + saved, load.activation_elements)


@proxy(higher_is_better=True, needs={"graph"}, source=_SOURCE)
def macs(graph: Graph, probe: Probe) -> float:
    """Multiply-accumulates of convs, transposed convs and linears."""
    return float(counted(graph).macs)


@proxy(higher_is_better=True, needs={"graph"}, source=_SOURCE)
def params(graph: Graph, probe: Probe) -> float:
    """Learned numbers, batch-norm included."""
    return float(counted(graph).params)


@proxy(higher_is_better=True, needs={"graph"}, source=_SOURCE)
def activation_elements(graph: Graph, probe: Probe) -> float:
    """Outputs of weighted operators for one image, whatever activation follows them."""
    return float(sum(counted(graph).activation_elements.values()))


@proxy(higher_is_better=True, needs={"graph"}, source=_SOURCE)
def resolution(graph: Graph, probe: Probe) -> float:
    """Side of the input image in pixels: hard to beat among networks of one latency."""
    return float(graph.of("input")[0].shape[-1])
