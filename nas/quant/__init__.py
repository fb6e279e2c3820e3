"""Quantization: from a trained float net to the same net at the bit-widths of its genes, or at the bits that a limit leaves it."""

from nas.quant.errors import QuantError
from nas.quant.precisions import at_precision, mixed
from nas.quant.qat import QatSettings, fake_quantized, quantize, reestimate_norms, rungs, without_steps

__all__ = [
    "QatSettings",
    "QuantError",
    "at_precision",
    "fake_quantized",
    "mixed",
    "quantize",
    "reestimate_norms",
    "rungs",
    "without_steps",
]
