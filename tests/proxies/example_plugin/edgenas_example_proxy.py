"""A proxy of its own distribution: edgenas finds it by the entry point group `edgenas.proxies`."""

from torch import nn

from proxies import Probe, proxy


@proxy(higher_is_better=True, needs={"gradient"}, source="an example of a plug-in")
def grad_peak(model: nn.Module, probe: Probe) -> float:
    """Largest gradient of any weight after one detection loss."""
    probe.loss(model).backward()
    return max(w.grad.abs().max().item() for w in model.parameters() if w.grad is not None)
