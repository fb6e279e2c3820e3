"""Contenders that take turns: batches of runs, the interrupted ones left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nas.deploy.timing import interruptions

Timed = Callable[[int], float]  # mean microseconds of that many runs
ROUNDS = 15
BATCH_S = 1e-3
TRIES = 8  # interrupted batches for each that is wanted, before they count too


def alternate(contenders: Sequence[Timed], seconds: float) -> list[np.ndarray]:
    """Microseconds of a run in each batch of each contender, ROUNDS batches or more over `seconds`.

    They take turns, so that a machine that changes speed changes it for all.
    """
    running = [_Contender(timed) for timed in contenders]
    while any(not one.done(seconds) for one in running):
        for one in running:
            if not one.done(seconds):
                one.batch()
    return [one.samples() for one in running]


class _Contender:
    """The batches of one contender so far."""

    def __init__(self, timed: Timed) -> None:
        self.timed = timed
        timed(1)
        self.runs = max(int(BATCH_S * 1e6 / timed(2)), 1)
        self.whole: list[float] = []
        self.interrupted: list[float] = []

    def batch(self) -> None:
        self.timed(self.runs)  # its weights and values are in the caches again
        before = interruptions()
        us = self.timed(self.runs)
        (self.whole if interruptions() == before else self.interrupted).append(us)

    def done(self, seconds: float) -> bool:
        used = sum(self.whole) * self.runs / 1e6
        return (len(self.whole) >= ROUNDS and used >= seconds) or len(self.interrupted) > TRIES * ROUNDS

    def samples(self) -> np.ndarray:
        return np.array(self.whole if len(self.whole) >= ROUNDS else self.whole + self.interrupted)
