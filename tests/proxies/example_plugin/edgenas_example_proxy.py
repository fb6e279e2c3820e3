"""A proxy of its own distribution: edgenas finds it by the entry point group `edgenas.proxies`."""

from torch import nn

from proxies import Probe, proxy


@proxy(higher_is_better=True, needs={"gradient"}, source="Abdelfattah et al. 2021, arXiv:2101.08134")
def grad_norm(model: nn.Module, probe: Probe) -> float:
    """Sum of the L2 norms of the weight gradients after one detection loss."""
    probe.loss(model).backward()
    return sum(w.grad.norm().item() for w in model.parameters() if w.grad is not None)
