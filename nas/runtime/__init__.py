"""Runs compiled networks: the plan, its file, the numpy reference and the executor. Needs numpy alone."""

from nas.runtime.artifact import read, write
from nas.runtime.detect import decode, nms
from nas.runtime.executor import Executor
from nas.runtime.plan import ALIGNMENT, ArtifactError, Instruction, Metadata, Plan, Requant, Tensor
from nas.runtime.verify import verify

__all__ = [
    "ALIGNMENT", "ArtifactError", "Executor", "Instruction", "Metadata", "Plan", "Requant", "Tensor",
    "decode", "nms", "read", "verify", "write",
]  # fmt: skip
