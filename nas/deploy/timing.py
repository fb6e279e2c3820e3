"""How long a call takes: warm-up, repetition until the median is sure, and a marker that tells when the machine itself slowed down."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

_WARMUP_S = 0.03
_SETTLED = 0.01  # half width of the median's 95 % interval, relative to the median
BURSTS, MOST_BURSTS = 3, 9  # a shared machine is slow for a second at a time: so many bursts have to agree, of so many
BURST_PAUSE_S = 0.5
_AGREED = 1.1  # the slowest of bursts that agree, to the quickest
NEAR = 2.0  # a limit that is missed by less than this factor may be kept when the host is less busy
RETRIES, RETRY_PAUSE_S = 4, 5.0
DRIFT = 1.25  # a marker that takes this much longer at its end than at its best says the machine was throttled or shared
_MARKER = np.linspace(0.0, 1.0, 20_000)


@dataclass(frozen=True)
class Timing:
    """Milliseconds of single calls.  `samples_ms` are those that count, in order; `throttled` says the machine slowed down meanwhile."""

    median_ms: float
    q1_ms: float
    q3_ms: float
    samples_ms: tuple[float, ...]
    throttled: bool

    @property
    def iqr_ms(self) -> float:
        return self.q3_ms - self.q1_ms


def time_calls(call: Callable[[], object], *, max_seconds: float = 2.0, min_runs: int = 20, max_runs: int = 2000) -> Timing:
    """Median and quartiles of single calls on one thread.  Stops once the median is known to 1 %, or when the time is spent.

    Calls during which the system gave the CPU to another process count only where fewer than `min_runs` were left alone.
    """
    start = time.perf_counter()
    while time.perf_counter() - start < min(_WARMUP_S, max_seconds / 4):
        call()
    every: list[float] = []
    alone: list[float] = []
    markers = [_marker()]
    deadline = time.perf_counter() + max_seconds
    while len(every) < max_runs:
        taken, before = interruptions(), time.perf_counter()
        call()
        every.append((time.perf_counter() - before) * 1e3)
        if interruptions() == taken:
            alone.append(every[-1])
        if len(every) % min_runs == 0:
            markers.append(_marker())
            if _settled(alone):
                break
        if len(every) >= min_runs and time.perf_counter() > deadline:
            break
    samples = alone if len(alone) >= min_runs else every
    return _timing(samples, float(np.median(markers[1:] or markers)) > DRIFT * min(markers))


def interruptions() -> int:
    """How often the system has taken a CPU from this process so far; a time during which it did says little."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def in_bursts(burst: Callable[[], Timing], pause_s: float = BURST_PAUSE_S) -> Timing:
    """One Timing of BURSTS bursts, `pause_s` apart, whose medians agree; of more bursts the quickest that do.

    Where none agree after MOST_BURSTS it is that of all of them, and `throttled`: the machine is busy.
    """
    bursts: list[Timing] = []
    while len(bursts) < MOST_BURSTS:
        time.sleep(pause_s if bursts else 0.0)
        bursts.append(burst())
        ordered = sorted(bursts, key=lambda timing: timing.median_ms)
        for first in range(len(ordered) - BURSTS + 1):
            agreed = ordered[first : first + BURSTS]
            if agreed[-1].median_ms <= _AGREED * agreed[0].median_ms:
                return _together(agreed, any(timing.throttled for timing in agreed))
    return _together(bursts, True)


def within(limit_ms: float, timed: Callable[[], Timing], retries: int = RETRIES, pause_s: float = RETRY_PAUSE_S) -> Timing:
    """A timing that keeps the limit; where it is missed by a little, the quickest of up to so many more.

    What else runs on a machine, or beside it on its host, only ever adds to a latency, and does so for minutes.
    """
    best = timed()
    for _ in range(retries):
        if not limit_ms < best.median_ms <= NEAR * limit_ms:
            break
        time.sleep(pause_s)
        best = min(best, timed(), key=lambda timing: timing.median_ms)
    return best


def _together(bursts: Sequence[Timing], throttled: bool) -> Timing:
    return _timing([ms for burst in bursts for ms in burst.samples_ms], throttled)


def _timing(samples: Sequence[float], throttled: bool) -> Timing:
    q1, median, q3 = np.percentile(samples, [25, 50, 75])
    return Timing(float(median), float(q1), float(q3), tuple(samples), throttled)


def _settled(samples: list[float]) -> bool:
    """Whether the median's 95 % interval, from order statistics, is within 1 % of it."""
    ordered, n = np.sort(samples), len(samples)
    if n < 60:
        return False
    reach = int(0.98 * n**0.5) + 1
    low, high = ordered[max(0, n // 2 - reach)], ordered[min(n - 1, n // 2 + reach)]
    return bool((high - low) / 2 <= _SETTLED * ordered[n // 2])


def _marker() -> float:
    """Seconds of a fixed piece of work, the best of three."""
    best = float("inf")
    for _ in range(3):
        before = time.perf_counter()
        float(np.sqrt(_MARKER).sum())
        best = min(best, time.perf_counter() - before)
    return best
