"""Conversion: a Graph while it grows out of a Trace, as the rows of nas.importer.operators see it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from nas.importer.errors import ImporterError
from nas.importer.trace import Array, Call, Trace, Value
from searchspaces.graph import Builder, Node, Ref
from searchspaces.ops import WEIGHTED

Operand = Ref | Array  # a tensor that depends on the image, or a constant


class Conversion:
    """`values` are the tensors of the trace so far, `arrays` the weights of the nodes added so far."""

    def __init__(self, trace: Trace, bits: tuple[int, int]) -> None:
        self.trace, self.g, self.bits = trace, Builder(), bits
        self.arrays: dict[str, Array] = {}
        self.values: dict[str, Operand] = dict(trace.constants)
        self.where: dict[Ref, str] = {}
        self.affines: set[Ref] = set()  # nodes that are arithmetic with constants
        self._names = Counter[str]()

    def ref(self, call: Call, role: str) -> Ref:
        """An argument that depends on the image."""
        value = self.values[call.args[role]]
        if not isinstance(value, str):
            raise ImporterError(f"{call.where}: '{role}' is a constant; it must depend on the image")
        return value

    def constant(self, call: Call, role: str) -> Array | None:
        """A constant argument, None where it is left out."""
        name = call.args.get(role)
        if name is None:
            return None
        value = self.values[name] if isinstance(name, Value) else np.float32(name)
        if isinstance(value, str):
            raise ImporterError(f"{call.where}: '{role}' depends on the image; a constant works")
        return np.asarray(value)

    def node(self, ref: Ref) -> Node:
        return next(node for node in reversed(self.g.nodes) if node.name == ref)

    def shape(self, ref: Ref) -> tuple[int, ...]:
        return self.g.shapes[ref]

    def add(self, call: Call, op: str, *inputs: Ref, name: str = "", arrays: Mapping[str, Array] | None = None, **attrs: Any) -> Ref:
        """A node with its arrays, named after the module of `call`, and after `name` or itself where that is no layer of torch."""
        stem = call.path
        if not stem or not call.kind.startswith("torch.nn.modules."):
            stem = f"{stem}.{name or op}" if stem else name or op
        count = self._names[stem]
        self._names[stem] += 1
        ref = f"{stem}_{count}" if count else stem
        if ref in self.g.shapes:
            return self.add(call, op, *inputs, name=name, arrays=arrays, **attrs)
        weights, activations = self.bits
        attrs["abits"] = activations
        if op in WEIGHTED:
            attrs["wbits"] = weights
        self.where[ref] = call.where
        for role, array in (arrays or {}).items():
            self.arrays[f"{ref}.{role}"] = np.array(array, np.float32, order="C")
        return self.g.append(ref, op, inputs, attrs)

    def affine(self, call: Call, x: Ref, gain: Array, shift: Array) -> Ref:
        """x * gain + shift, per channel (C,): a depthwise 1x1 conv, or a batch-norm of a vector, which the end merges where it can."""
        channels = len(gain)
        if len(self.shape(x)) == 3:
            arrays = {"weight": np.reshape(gain, (channels, 1, 1, 1)), "bias": shift}
            attrs = {"channels": channels, "kernel": 1, "stride": 1, "padding": 0, "groups": channels, "bias": True}
            ref = self.add(call, "conv2d", x, name=call.op, arrays=arrays, **attrs)
        else:
            arrays = {"gamma": gain, "beta": shift, "mean": np.zeros(channels), "var": np.ones(channels)}
            ref = self.add(call, "batchnorm", x, name=call.op, arrays=arrays, eps=0.0)
        self.affines.add(ref)
        return ref
