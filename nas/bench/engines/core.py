"""What every peer of the kernel benchmark is: a row with a function from repeated layers to something that can be called and timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from nas.bench.layers import Repeated

Call = Callable[[], object]


class BenchError(ValueError):
    """A measurement that cannot be made: names the peer or layer, what was found and what would work."""


def installed(package: str) -> str:
    """The version of a distribution, '' where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@dataclass(frozen=True)
class Peer:
    """One engine at one precision.  `layer` makes a call that runs the graph once on one thread count, tensors already in place."""

    name: str
    package: str                                        # the distribution that must be installed
    precision: str                                      # int8 or fp32
    layer: Callable[[Repeated, int], Call]              # (graph, threads)
    winograd: bool = False                              # 3x3 convolutions with fewer products than ours
    avx2: bool = False                                  # obeys nas.bench.process.AVX2_ONLY
    note: str = ""

    @property
    def version(self) -> str:
        """'' where it is not installed."""
        return installed(self.package)
