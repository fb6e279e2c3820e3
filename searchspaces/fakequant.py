"""Fake-quantizers with learned steps: torch modules that round in the forward pass and learn the step in the backward one.

LSQ (Esser et al. 2020, arXiv:1902.08153) with the zero point of LSQ+ (Bhalgat et al. 2020, arXiv:2004.09576).  Steps are learned
as logarithms, which keeps them positive and makes one learning rate fit all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_SAMPLES = 32768  # values a batch that a step is fitted to
_CLIPS = torch.linspace(0.2, 1.0, 33)  # fractions of the seen range that are tried
_EDGE = 1e-6  # steps by which the range is wider for gradients, so that its two ends are inside


class _Round(torch.autograd.Function):
    """s * (clip(round(x / s + z), low, high) - z) with LSQ's gradients.  s, z broadcast against x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Tensor, z: Tensor, low: int, high: int) -> Tensor:
        v = (x / s).add_(z)
        out = v.round().clamp_(low, high).sub_(z).mul_(s)
        ctx.save_for_backward(v, out, s, z)
        ctx.low, ctx.high = low, high
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """In as few passes as torch has for it: a third of the time of a training step goes through here otherwise."""
        grad = grads[0]
        v, out, s, z = ctx.saved_tensors
        gain = (grad.numel() / s.numel() * max(ctx.high, -ctx.low)) ** -0.5
        inside = torch.ops.aten.hardtanh_backward(grad, v, ctx.low - _EDGE, ctx.high + _EDGE)  # grad there, 0 where clipped
        clipped = grad - inside
        grad_z = -clipped.sum_to_size(z.shape) * s * gain if ctx.needs_input_grad[2] else None
        # d(output)/ds: round(v) - v inside, where x/s falls out of it, and output / s where clipped
        grad_s = v.round().sub_(v).mul_(inside).sum_to_size(s.shape) + clipped.mul_(out).sum_to_size(s.shape) / s
        return inside, grad_s * gain, grad_z, None, None


class ActivationQuantizer(nn.Module):
    """Per-tensor codes 0..2^bits-1: real = scale * (code - zero_point).  Shared by the tensors of one group.

    `mode` is 'on', 'off' (float passes through) or 'observe' (float passes through, values are kept for `fit`).
    """

    def __init__(self, bits: int, asymmetric: bool, scale: float | None = None) -> None:
        super().__init__()
        self.bits, self.high, self.asymmetric, self.fixed = bits, 2**bits - 1, asymmetric, scale is not None
        self.mode = "on"
        self.log_scale = nn.Parameter(torch.tensor(scale or 1.0).log(), requires_grad=not self.fixed)
        self.zero_point = nn.Parameter(torch.zeros(()), requires_grad=asymmetric)
        self._seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "observe" and not self.fixed:
            flat = x.detach().float().flatten()
            step = max(1, flat.numel() // _SAMPLES)
            self._seen.append(torch.cat([flat[:: step], torch.stack([flat.min(), flat.max()])]))
        if self.mode != "on":
            return x
        zero = self.zero_point.clamp(0, self.high)
        zero = zero + (zero.round() - zero).detach()
        return _Round.apply(x.float(), self.log_scale.exp(), zero, 0, self.high)

    @torch.no_grad()
    def fit(self) -> None:
        """Set the step (and zero point) to those of least squared error over the observed values; then forget them."""
        if self.fixed or not self._seen:
            return
        x = torch.cat(self._seen)
        self._seen = []
        low = min(float(x.min()), 0.0) if self.asymmetric else 0.0
        high = max(float(x.max()), 1e-6)
        errors: list[float] = []
        candidates: list[tuple[float, int]] = []
        for clip in _CLIPS.tolist():
            scale = max((high - low) * clip / self.high, 1e-8)
            zero = min(round(-low * clip / scale), self.high)
            q = (x / scale + zero).round_().clamp_(0, self.high)
            errors.append(float((((q - zero) * scale) - x).square_().mean()))
            candidates.append((scale, zero))
        scale, zero = candidates[errors.index(min(errors))]
        self.log_scale.fill_(scale).log_()
        self.zero_point.fill_(float(zero))

    def codes(self) -> tuple[float, int]:
        """(scale, zero_point) as the compiler takes them."""
        return float(self.log_scale.detach().exp()), round(float(self.zero_point.detach().clamp(0, self.high)))


class WeightQuantizer(nn.Module):
    """Per-channel signed codes: real = scale[c] * code; one bit is {-1, +1}, eight bits leave -128 out."""

    def __init__(self, bits: int, channels: int, axis: int = 0) -> None:
        super().__init__()
        self.bits, self.axis, self.mode = bits, axis, "on"
        self.high: int = 1 if bits == 1 else 2 ** (bits - 1) - 1
        self.low: int = -self.high if bits in (1, 8) else -self.high - 1
        self.log_scale = nn.Parameter(torch.zeros(channels))

    def _shape(self, w: Tensor) -> list[int]:
        return [-1 if axis == self.axis else 1 for axis in range(w.dim())]

    def forward(self, w: Tensor) -> Tensor:
        if self.mode != "on":
            return w
        scale = self.log_scale.exp().view(self._shape(w))
        if self.bits == 1:
            sign = torch.where(w >= 0, 1.0, -1.0)
            straight = w.clamp(-scale.detach(), scale.detach())
            return straight + (sign * scale - straight).detach() + (sign * scale - (sign * scale).detach())
        return _Round.apply(w, scale, torch.zeros((), device=w.device), self.low, self.high)

    @torch.no_grad()
    def fit(self, w: Tensor) -> None:
        """Set each channel's step to that of least squared error; one bit has it in closed form, the mean magnitude."""
        rows = w.detach().transpose(0, self.axis).flatten(1)
        if self.bits == 1:
            self.log_scale.copy_(rows.abs().mean(1).clamp_min(1e-8).log())
            return
        best = torch.full((rows.shape[0],), float("inf"))
        widest = (rows.abs().amax(1) / self.high).clamp_min(1e-8)
        for clip in _CLIPS.tolist():
            scale = (widest * clip)[:, None]
            error = (rows.div(scale).round_().clamp_(self.low, self.high) * scale - rows).square_().mean(1)
            better = error < best
            best = torch.where(better, error, best)
            self.log_scale.copy_(torch.where(better, scale[:, 0].log(), self.log_scale))


def quantizers(model: nn.Module) -> list[ActivationQuantizer | WeightQuantizer]:
    return [m for m in model.modules() if isinstance(m, ActivationQuantizer | WeightQuantizer)]


def set_mode(model: nn.Module, mode: str) -> None:
    """'on', 'off' or 'observe' for every fake-quantizer of a model."""
    for quantizer in quantizers(model):
        quantizer.mode = mode
