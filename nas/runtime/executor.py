"""Executor: a compiled network on this machine's CPU, through nas.runtime._csrc."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.runtime.artifact import metadata_of
from nas.runtime.detect import Floats, Labels, decode, nms
from nas.runtime.plan import ArtifactError, Metadata, Tensor


@dataclass(frozen=True)
class Memory:
    """Bytes in RAM: the file as loaded, the arena of activations, scratch, and weights repacked for this CPU."""

    file_bytes: int
    arena_bytes: int
    scratch_bytes: int
    prepared_bytes: int

    @property
    def peak_bytes(self) -> int:
        """All of it, held while a run is on."""
        return self.file_bytes + self.arena_bytes + self.scratch_bytes + self.prepared_bytes


@dataclass(frozen=True)
class Timing:
    """One instruction of one run: its name, operator, kernel variant and time in microseconds."""

    name: str
    op: str
    variant: str
    us: float


def engine() -> Any:
    """The compiled module; raises ArtifactError saying how to build it where it is missing."""
    try:
        return importlib.import_module("nas.runtime._csrc")
    except ImportError as error:
        raise ArtifactError(
            f"the engine nas.runtime._csrc is not built ({error}); install a C++20 compiler (Debian: g++, macOS: xcode-select --install) "
            "and run: pip install -e ."
        ) from error


def variants(op: str) -> tuple[str, ...]:
    """Kernel variants of an operator ('conv2d', 'conv2d_f32', 'add', ..) that this CPU can run, fastest first."""
    try:
        return tuple(engine().variants(op))
    except ValueError as error:
        raise ArtifactError(str(error)) from error


def isa() -> str:
    """Instruction sets in use, such as 'avx512 avx2' or 'portable'; the environment variable EDGENAS_ISA lowers them."""
    return str(engine().isa())


class Executor:
    """A loaded network. `variant` names a kernel variant to prefer where it fits; the default is the one that usually is fastest.
    `layers`, where given, names one for each instruction, '' for no wish (nas.runtime.tune).

    `threads` (1 to 256) share the larger layers and give the same bytes as one; beyond the cores of the machine they only wait
    for each other. In a child of os.fork() an executor of its parent still works, alone.

    An image is (H, W, 3) uint8 RGB of exactly metadata.input_size; letterboxing is the caller's. A network with a float
    input gets it times metadata.preprocessing['scale']. Calls from several threads take turns; the GIL is released while
    a network runs.
    """

    def __init__(self, file: bytes, variant: str = "", threads: int = 1, layers: Sequence[str] = ()) -> None:
        self._engine = engine().Executor(bytes(file), variant, list(layers), threads)
        self.metadata: Metadata = metadata_of(self._engine.metadata)
        self.inputs: tuple[Tensor, ...] = _tensors(self._engine.inputs)
        self.outputs: tuple[Tensor, ...] = _tensors(self._engine.outputs)

    @classmethod
    def load(cls, path: Path | str, variant: str = "", threads: int = 1, tuned: bool = False) -> "Executor":
        """From a `.edge` file; raises ArtifactError naming the file. `tuned`: each layer by the variant that `edgenas compile --tune`
        found fastest for its like on this machine, where it did."""
        try:
            file = Path(path).read_bytes()
            return cls(file, variant, threads, _tuned(file) if tuned else ())
        except OSError as error:
            raise ArtifactError(f"{path}: {error.strerror}") from error
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error}") from error

    def run(self, image: NDArray[Any] | Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs (C, H, W) for an image (H, W, 3) uint8 or for the input tensors themselves as (C, H, W) arrays.

        A detector's outputs are its raw maps box, cls, box, cls, .. in float32; an output of codes is uint8.
        """
        return list(self._engine.run(self._arrays(image)))

    def detect(
        self, image: NDArray[Any], score_threshold: float = 0.001, iou_threshold: float = 0.6, max_detections: int = 300
    ) -> tuple[Floats, Floats, Labels]:
        """boxes_xyxy (D, 4) in pixels of the input, scores (D,) and labels (D,), best first, as nas.runtime.nms.

        A plan without a decode is decoded here by its metadata, with the same result.
        """
        if not self._engine.has_decode:
            return nms(*self.decoded(image), score_threshold, iou_threshold, max_detections)
        return self._engine.detect(self._arrays(image), score_threshold, iou_threshold, max_detections)

    def decoded(self, image: NDArray[Any]) -> tuple[Floats, Floats]:
        """boxes_xyxy (A, 4) and scores (A, classes) before suppression, as nas.runtime.decode."""
        if not self._engine.has_decode:
            m = self.metadata
            if not m.strides or len(self.outputs) != 2 * len(m.strides):
                raise ArtifactError(f"plan: {len(self.outputs)} outputs for strides {m.strides}; it is no detector, so it gives no boxes")
            return decode(self.run(image), m.strides, m.bins, self.outputs[1].shape[0])
        y = self._engine.decoded(self._arrays(image))[:, :, 0]
        return np.ascontiguousarray(y[:4].T), np.ascontiguousarray(y[4:].T)

    def profile(self, image: NDArray[Any] | Sequence[NDArray[Any]]) -> list[Timing]:
        """The time of each instruction in one run, in order, a final decode left out."""
        return [Timing(*row) for row in self._engine.profile(self._arrays(image))]

    def time(self, image: NDArray[Any] | Sequence[NDArray[Any]], runs: int) -> list[float]:
        """Microseconds of each of `runs` runs in a row, timed inside the engine: no call from Python and no copy of tensors counts."""
        return list(self._engine.time(self._arrays(image), runs))

    @property
    def memory(self) -> Memory:
        """Bytes this executor holds."""
        return Memory(**self._engine.memory)

    def _arrays(self, image: NDArray[Any] | Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        arrays = [image] if isinstance(image, np.ndarray) else list(image)
        for k, (array, tensor) in enumerate(zip(arrays, self.inputs)):
            c, h, w = tensor.shape
            if array.ndim != 3 or array.shape not in ((c, h, w), (h, w, c)):
                raise ArtifactError(f"input '{tensor.name}': shape {array.shape} is neither {(c, h, w)} nor {(h, w, c)}")
            if array.shape != (c, h, w):
                arrays[k] = array.transpose(2, 0, 1)
            if tensor.dtype == "f32" and array.dtype == np.uint8:
                arrays[k] = arrays[k] * np.float32(self.metadata.preprocessing["scale"])
        return arrays


def _tensors(rows: list) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, dtype, shape, 0, bits, scale, zero_point) for name, dtype, shape, bits, scale, zero_point in rows)


def _tuned(file: bytes) -> list[str]:
    from nas.runtime import tune  # which reads this module

    return tune.chosen(file, tune.load())
