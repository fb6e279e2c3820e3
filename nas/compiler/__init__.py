"""From a trained network to a Plan: passes on the Graph, integer arithmetic, arena offsets; and ONNX export. Needs no torch."""

from nas.compiler.errors import CompilerError
from nas.compiler.interpret import interpret
from nas.compiler.lower import lower
from nas.compiler.pipeline import PIPELINE, Sizes, compile, run_passes, save, sizes

__all__ = ["PIPELINE", "CompilerError", "Sizes", "compile", "interpret", "lower", "run_passes", "save", "sizes"]
