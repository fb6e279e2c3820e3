"""`edgenas study generalization`: does quantization regularize?  The same training in float and at several bit-widths, over seeds.

    study = run(StudySettings(bits=("fp", "8", "4"), seeds=5, genes=genes), Path("runs/generalization"))
    verdict(study)

QReg, arXiv:2206.12372; QGen, arXiv:2404.11769.  Measurements are what this gives; whether a paper's claim holds is up to them.
"""

from nas.generalization.core import BITS, FLOAT, Cell, GeneralizationError, Point, Study, StudySettings, genes_of
from nas.generalization.summary import Interval, against_float, as_json, by_bits, interval, shown, verdict
from nas.generalization.trainings import run

__all__ = [
    "BITS",
    "FLOAT",
    "Cell",
    "GeneralizationError",
    "Interval",
    "Point",
    "Study",
    "StudySettings",
    "against_float",
    "as_json",
    "by_bits",
    "genes_of",
    "interval",
    "run",
    "shown",
    "verdict",
]
