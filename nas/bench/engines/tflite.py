"""Writes TensorFlow Lite models by the schema that ships with the interpreter (ai-edge-litert); no TensorFlow is needed.

All tensors are NHWC; int8 tensors are signed, weights per output channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

SCHEMA_VERSION = 3
IDENTIFIER = b"TFL3"


class Writer:
    """Tensors, operators and buffers of a growing model; tensors are known by their index."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema = schema
        self.buffers = [schema.BufferT()]
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: list[Any] = []

    def tensor(self, name: str, shape: Sequence[int], kind: str, scale: Any = None, zero_point: int = 0, data: np.ndarray | None = None,
               axis: int = 0) -> int:  # fmt: skip
        """kind: a name of the schema's TensorType, such as 'INT8'; scale: None, a number, or one for each slice along `axis`."""
        t = self.schema.TensorT()
        t.name, t.shape, t.type, t.buffer = name, list(shape), getattr(self.schema.TensorType, kind), 0
        if scale is not None:
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            t.quantization = self.schema.QuantizationParametersT()
            t.quantization.scale, t.quantization.zeroPoint = scales, np.full(len(scales), zero_point, np.int64)
            t.quantization.quantizedDimension = axis
        if data is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            t.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.tensors.append(t)
        return len(self.tensors) - 1

    def operator(self, name: str, inputs: Sequence[int], outputs: Sequence[int], options: str = "", version: int = 1,
                 **values: Any) -> None:  # fmt: skip
        """name: of the schema's BuiltinOperator; options: of its BuiltinOptions, with its fields as `values`."""
        op = self.schema.OperatorT()
        op.opcodeIndex = self._code(getattr(self.schema.BuiltinOperator, name), version)
        op.inputs, op.outputs = list(inputs), list(outputs)
        if options:
            op.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            op.builtinOptions = getattr(self.schema, options + "T")()
            for field, value in values.items():
                if not hasattr(op.builtinOptions, field):
                    raise AttributeError(f"{options} has no field '{field}'")
                setattr(op.builtinOptions, field, value)
        self.operators.append(op)

    def _code(self, builtin: int, version: int) -> int:
        for k, code in enumerate(self.codes):
            if (code.builtinCode, code.version) == (builtin, version):
                return k
        code = self.schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), version
        self.codes.append(code)
        return len(self.codes) - 1

    def bytes(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        import flatbuffers

        graph, model = self.schema.SubGraphT(), self.schema.ModelT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = self.tensors, self.operators, list(inputs), list(outputs)
        model.version, model.operatorCodes, model.subgraphs, model.buffers = SCHEMA_VERSION, self.codes, [graph], self.buffers
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())

    def padded(self, x: int, name: str, pad: int) -> int:
        """x with `pad` zeros on every side; what follows with VALID padding is symmetric, as torch's, where SAME at stride 2 is not."""
        t = self.tensors[x]
        n, h, w, c = t.shape
        amounts = self.tensor(f"{name}.amounts", (4, 2), "INT32", data=np.array([[0, 0], [pad, pad], [pad, pad], [0, 0]], np.int32))
        y = self.tensor(name, (n, h + 2 * pad, w + 2 * pad, c), "FLOAT32")
        padded = self.tensors[y]
        padded.type, padded.quantization = t.type, t.quantization
        self.operator("PAD", [x, amounts], [y], "PadOptions", version=2 if t.quantization is not None else 1)
        return y

    def conv2d(self, x: int, weight: int, bias: int, y: int, stride: int, pad: int, activation: str = "NONE") -> None:
        """SAME padding where it is symmetric, else a PAD before (the delegate fuses it)."""
        same = self.schema.Padding.SAME
        size, kernel = self.tensors[x].shape[1], self.tensors[weight].shape[1]
        if pad and max((-(-size // stride) - 1) * stride + kernel - size, 0) != 2 * pad:
            x, same = self.padded(x, f"{self.tensors[y].name}.padded", pad), self.schema.Padding.VALID
        self.operator("CONV_2D", [x, weight, bias], [y], "Conv2DOptions", version=3 if self.tensors[weight].quantization is not None else 1,
                      strideH=stride, strideW=stride, padding=same, dilationHFactor=1, dilationWFactor=1,
                      fusedActivationFunction=getattr(self.schema.ActivationFunctionType, activation))  # fmt: skip
