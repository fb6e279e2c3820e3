"""`edgenas bench accuracy`: what trainings, bit-widths and searched networks reach, over seeds, with the time it takes said first."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from nas.bench.accuracy.activations import ACTIVATIONS
from nas.bench.accuracy.bits import BITS
from nas.bench.accuracy.core import Bench, Cell, Figures, Plan, Table, run
from nas.bench.accuracy.joint import JOINT
from nas.bench.accuracy.qat import QAT, WAYS_TABLE
from nas.bench.accuracy.training import TRAINING
from nas.bench.engines import BenchError

_EVERY: tuple[Table, ...] = (TRAINING, QAT, WAYS_TABLE, BITS, ACTIVATIONS, JOINT)
TABLES: Mapping[str, Table] = MappingProxyType({table.name: table for table in _EVERY})


def named(names: Sequence[str]) -> list[Table]:
    """The tables of these names, all where none is given."""
    if strange := [name for name in names if name not in TABLES]:
        raise BenchError(f"no table '{strange[0]}'; tables: {', '.join(TABLES)}")
    return [TABLES[name] for name in names or TABLES]


__all__ = ["TABLES", "Bench", "Cell", "Figures", "Plan", "Table", "named", "run"]
