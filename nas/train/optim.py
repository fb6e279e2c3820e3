"""AdamW with its parameter groups, the learning-rate schedule and the moving average of the weights."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nas.train.errors import TrainError

ParamGroups = Callable[[nn.Module], list[dict[str, Any]]]

_STEP_NAMES = ("scale", "zero_point")  # a quantizer's step has a right size, so decay must not pull on it


def param_groups(model: nn.Module, weight_decay: float, step_lr_scale: float = 1.0) -> list[dict[str, Any]]:
    """AdamW groups: weights with decay; norms, biases and other 1-d parameters without; quantizer steps without, at their own rate.

    A group's `lr_scale` multiplies the scheduled rate.
    """
    weights, plain, steps = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.endswith(_STEP_NAMES):
            steps.append(parameter)
        elif parameter.ndim <= 1:
            plain.append(parameter)
        else:
            weights.append(parameter)
    groups = (
        {"params": weights, "weight_decay": weight_decay, "lr_scale": 1.0},
        {"params": plain, "weight_decay": 0.0, "lr_scale": 1.0},
        {"params": steps, "weight_decay": 0.0, "lr_scale": step_lr_scale},
    )
    return [group for group in groups if group["params"]]


def adamw(groups: list[dict[str, Any]], lr: float) -> torch.optim.AdamW:
    """AdamW over these groups. Raises TrainError where there is nothing to train."""
    if not groups:
        raise TrainError("the model has no parameter with requires_grad, so there is nothing to train")
    for group in groups:
        group.setdefault("lr_scale", 1.0)
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999), fused=True)


def lr_factor(step: int, steps: int, warmup_steps: int, final: float) -> float:
    """Share of the peak rate at a step: linear from 0 over the warm-up, then half a cosine down to `final`."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


class Ema:
    """Exponential moving average of weights and batch-norm statistics, held as a copy of the model.

    The decay at update u is min(decay, (1 + u) / (ramp + u)), so that the average follows closely while the weights still move fast.
    """

    def __init__(self, model: nn.Module, decay: float, ramp: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.ramp = decay, ramp
        self.updates = 0
        self._pairs: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._counters: list[tuple[Tensor, Tensor]] = []
        mine = self.model.state_dict()
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self._pairs[0].append(mine[name])
                self._pairs[1].append(value)
            else:
                self._counters.append((mine[name], value))

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (self.ramp + self.updates))
        torch._foreach_lerp_(self._pairs[0], self._pairs[1], 1 - decay)
        for mine, value in self._counters:
            mine.copy_(value)
