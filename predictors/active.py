"""Which networks to measure next, before or after the first ones are known: those from which all others follow best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwmodels.profile import TRAITS
from predictors.errors import PredictorError
from predictors.gp import Kernel
from predictors.rows import Rows

# A wide belief, so that the choice stays good where the device is unlike any other: exponents of 5 % a spread, a residual of 60 %.
BELIEF = Kernel(np.full(len(TRAITS), np.log(0.05)), np.full(len(TRAITS), np.log(4.0)), np.log(0.6), np.log(0.5), np.log(0.02))


def choose(wanted: Rows, count: int, measured: Sequence[int] = (), candidates: Sequence[int] | None = None) -> list[int]:
    """`count` of the candidates (row numbers of `wanted`, by default all), in the order in which to measure them.

    Each next one takes away most of the variance that a Gaussian process expects over all of `wanted`, given what is `measured`
    (Krause et al. 2008, jmlr.org/papers/v9/krause08a.html, with the sum of variances in place of mutual information).  No time is
    looked at.  Raises PredictorError where there are too few candidates.
    """
    open_ = np.setdiff1d(np.arange(len(wanted)) if candidates is None else np.asarray(candidates), np.asarray(measured, dtype=np.int64))
    if len(open_) < count:
        raise PredictorError(f"{count} networks to measure out of {len(open_)} candidates that were not measured before")
    z = wanted.kin_matrix
    z = z - z.mean(axis=0)
    place = np.concatenate([open_, np.asarray(measured, dtype=np.int64)])
    covariance = BELIEF.between(wanted.seen, z, wanted.seen[place], z[place])  # (n, places)
    noise, chosen = np.exp(2 * BELIEF.noise), []
    known = list(range(len(open_), len(place)))
    for step in range(len(known) + count):
        own = covariance[place, np.arange(len(place))]
        best = known[step] if step < len(known) else int(np.argmax((covariance[:, : len(open_)] ** 2).sum(0) / (own[: len(open_)] + noise)))
        if step >= len(known):
            chosen.append(int(place[best]))
        gain = covariance[:, best] / (own[best] + noise)
        covariance = covariance - np.outer(gain, covariance[place[best]])
    return chosen
