"""Quantization-aware training: from a trained float net to the same net at the bit-widths of its genes."""

from nas.quant.qat import QatSettings, fake_quantized, quantize

__all__ = ["QatSettings", "fake_quantized", "quantize"]
