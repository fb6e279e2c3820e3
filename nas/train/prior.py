"""A head that starts from what is usual: few objects, and boxes of a few cells."""

import math

import torch
from torch import Tensor, nn

from nas.train.boxes import STRIDES
from nas.train.errors import TrainError

_OBJECTS_PER_LEVEL = 5.0  # positives expected on a level of an image before anything is learned
_BIN_SLOPE = 0.7  # fall of the box logits per bin: a side of 1 stride, so a box of 2; equal logits would give 15


@torch.enable_grad()
def set_head_prior(model: nn.Module, classes: int, size: int, strides: tuple[int, ...] = STRIDES) -> None:
    """Set the biases that the raw maps end in, for training from scratch; not for a model that has learned something.

    Class scores start at 5 objects among all cells of a level (the prior of Lin et al. 2017, arXiv:1708.02002, section 4.1, by level),
    sides at 1 stride. The biases are found by their gradient, so no names are needed: the derivative of a map's sum by the
    bias of its last convolution is the number of its cells in every channel. Raises TrainError where a map ends otherwise.
    """
    parameters: list[Tensor] = [p for p in model.parameters() if p.ndim == 1 and p.requires_grad]
    was_training = model.training
    device = next(model.parameters()).device
    maps = model.eval()(torch.zeros(1, 3, size, size, device=device))
    for level, stride in zip(maps, strides, strict=True):
        bins = (level.shape[1] - classes) // 4
        falling = (-_BIN_SLOPE * torch.arange(bins, dtype=torch.float32, device=device)).repeat(4)
        rare = math.log(_OBJECTS_PER_LEVEL / classes / (size / stride) ** 2)
        _set_bias(level[:, : 4 * bins], parameters, falling, f"box channels at stride {stride}")
        logits = torch.full((classes,), min(rare, 0.0), device=device)
        _set_bias(level[:, 4 * bins :], parameters, logits, f"class channels at stride {stride}")
    model.train(was_training)


def _set_bias(part: Tensor, parameters: list[Tensor], values: Tensor, what: str) -> None:
    """Give the bias that is added last to `part` (1, C, H, W) these values (C,)."""
    cells = float(part.shape[2] * part.shape[3])
    gradients = torch.autograd.grad(part.sum(), parameters, retain_graph=True, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients):
        if gradient is None:
            continue
        hit = (gradient - cells).abs() < 1e-3 * cells
        if int(hit.sum()) == len(values) and bool((gradient[~hit] == 0).all()):
            with torch.no_grad():
                parameter[hit] = values
            return
    raise TrainError(f"the {what} do not end in a convolution with a bias, so no prior can be set")
