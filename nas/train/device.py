"""Where training runs and in which float type."""

from typing import Literal

import torch

from nas.train.errors import TrainError

Accelerator = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16"]

_CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16")  # elsewhere a CPU emulates bf16, slower than fp32


def pick_device(accelerator: Accelerator) -> torch.device:
    """The device; `auto` takes CUDA, then MPS, then the CPU. Raises TrainError where the one asked for is absent."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        return torch.device(next(name for name, found in present.items() if found))
    if not present[accelerator]:
        found = ", ".join(name for name, ok in present.items() if ok)
        raise TrainError(f"accelerator '{accelerator}' is not available to this torch ({torch.__version__}); available: {found}, auto")
    return torch.device(accelerator)


def compute_type(device: torch.device, precision: Precision) -> torch.dtype:
    """The type of convolutions under autocast; the loss and the weights stay float32."""
    if precision == "auto":
        return torch.bfloat16 if _has_fast_bf16(device) else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return any(found.get(name, False) for name in _CPU_BF16)
    return False
