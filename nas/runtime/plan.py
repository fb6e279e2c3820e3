"""The nouns of the runtime: a Plan is what the compiler produces, an artifact stores and the executor runs.

Memory of a tensor of shape (C, H, W) at byte `offset` of the arena:
  u8    codes in groups of four channels, "C4": [ceil(C/4)][H][W][4]; the padding lanes of the last group hold any code
        in 0 .. 2^bits - 1 and meet weights of zero
  f32   planar: [C][H][W]
A code q stands for scale * (q - zero_point). A vector of K values is a tensor (K, 1, 1).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64                                                  # bytes, of arena offsets; pieces of a concat may lie closer
ACTIVATIONS = ("none", "relu", "relu6", "leaky_relu", "hardswish", "silu", "sigmoid", "gelu")
OPS = (
    "conv2d", "conv_transpose2d", "linear", "add", "mul", "concat", "slice", "upsample", "maxpool", "global_avgpool",
    "requantize", "quantize", "dequantize", "activation", "softmax", "matmul", "layernorm", "decode",
)  # fmt: skip
EPILOGUES = ("linear", "table", "threshold", "float")
PREPROCESSING: Mapping[str, str | float] = MappingProxyType({"resize": "letterbox", "color": "RGB", "scale": 1 / 255})


class ArtifactError(ValueError):
    """A plan or a file that cannot run: names the part, what was found and what would work."""


@dataclass(frozen=True)
class Tensor:
    """One activation: where it lies in the arena and what its codes mean. dtype is 'u8' (bits 1..8) or 'f32' (bits 32)."""

    name: str
    dtype: str
    shape: tuple[int, int, int]
    offset: int = 0
    bits: int = 8
    scale: float = 1.0
    zero_point: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes in the arena, padding lanes included."""
        c, h, w = self.shape
        return -(-c // 4) * 4 * h * w if self.dtype == "u8" else 4 * c * h * w


@dataclass(frozen=True, eq=False)
class Requant:
    """How an integer accumulator becomes an output, per channel c. Arrays have C entries, or 1 outside of conv2d.

    linear     code = clip((acc * multiplier[c] + bias[c]) >> shift, lo, hi)                 in int64
    table      code = table[clip((acc * multiplier[c] + bias[c]) >> shift, 0, L - 1)]        L = 2^k <= 4096
    threshold  code = number of k with sign[c] * acc >= thresholds[c, k], ascending in k     2^bits - 1 of them
    float      y = float32(acc) * scale[c] + offset[c], rounded twice; the output is an f32 tensor
    """

    kind: str
    shift: int = 0
    lo: int = 0
    hi: int = 255
    multiplier: NDArray[np.int32] | None = None         # (C,)
    bias: NDArray[np.int64] | None = None               # (C,), |bias| < 2^62
    table: NDArray[np.uint8] | None = None              # (L,)
    thresholds: NDArray[np.int32] | None = None         # (C, levels - 1)
    sign: NDArray[np.int8] | None = None                # (C,) of -1, +1
    scale: NDArray[np.float32] | None = None            # (C,)
    offset: NDArray[np.float32] | None = None           # (C,)


@dataclass(frozen=True, eq=False)
class Instruction:
    """One step. inputs and outputs are tensor ids, params maps a role ('weight', 'bias', ..) to a name in Plan.weights.

    op                attrs                                             params           inputs -> output
    conv2d            kernel stride padding groups, wbits | activation  weight (bias)    x -> y
    conv_transpose2d  wbits | activation; kernel 2, stride 2            weight (bias)    x -> y
    linear            wbits | activation                                weight (bias)    x, any (C, H, W), read in that order -> (K, 1, 1)
    add               multiplier_a multiplier_b (u8, |m| < 2^22)                         a, b (same shape or (C, 1, 1)) -> y
    mul                                                                                  a, b (same shape or (C, 1, 1)) -> y
    concat            (channels)                                                         x, .. -> y
    slice             start stop (channels)                                              x -> y
    upsample          factor (nearest)                                                   x -> y
    maxpool           kernel stride padding                                              x -> y
    global_avgpool                                                                       x -> (C, 1, 1)
    requantize                                                          table (256,) or a requant      codes -> codes
    quantize          the output's scale, zero_point and bits say how                    f32 -> codes
    dequantize        the input's scale and zero_point say how                           codes -> f32
    activation        kind                                                               f32 -> f32
    softmax           axis 0..2                                                          f32 -> f32
    matmul            transpose_b 0|1                                                    (C, M, K), (C, K, N) or (C, N, K) -> (C, M, N)
    layernorm         axis 0..2, eps                                    gamma beta       f32 -> f32
    decode            bins classes strides (tuple)                                       box, cls, .. -> (4 + classes, A, 1)

    The accumulator that `requant` takes: conv2d, conv_transpose2d, linear  sum w * (q - z);  mul  (qa - za) * (qb - zb);
    add  multiplier_a * (qa - za) + multiplier_b * (qb - zb);  global_avgpool  sum (q - z);  requantize  q - z.
    Quantized weights are int8 codes (C_out, C_in / groups, k, k), linear (K_out, K_in), of attrs['wbits'] bits: -2^(b-1) ..
    2^(b-1) - 1, at 8 bits -127 .. 127, at 1 bit -1 and +1. An f32 conv or linear has float32 weight and bias, and an
    attrs['activation'] out of ACTIVATIONS; leaky_relu has slope 0.1, gelu is x * Phi(x).
    """

    op: str
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    attrs: Mapping[str, int | float | str | tuple[int, ...]] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    requant: Requant | None = None


@dataclass(frozen=True)
class Metadata:
    """What a caller needs to use the network: names of the classes, (H, W) of its input, the head and where it came from."""

    classes: tuple[str, ...] = ()
    input_size: tuple[int, int] = (0, 0)
    strides: tuple[int, ...] = ()
    bins: int = 16
    preprocessing: Mapping[str, str | float] = field(default_factory=lambda: dict(PREPROCESSING))
    provenance: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Plan:
    """A network ready to run: `inputs` and `outputs` are tensor ids; a detector's outputs are its raw maps box, cls, box, cls, ..

    The executor copies the outputs out at the end of a run, so nothing but a `decode` may follow them in their memory.
    """

    tensors: tuple[Tensor, ...]
    instructions: tuple[Instruction, ...]
    weights: Mapping[str, NDArray[np.generic]]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    arena_bytes: int
    metadata: Metadata = field(default_factory=Metadata)
