"""Evaluates archs in this process or in a pool of spawned ones; a dead worker costs the one trial that killed it.

Every evaluation comes back as a Result, whatever happened to it. Which process evaluated what has no influence on the results, provided
the caller's `initializer` makes processes alike (torch threads); it also runs in this process where there is no pool.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import wait as wait_for
from types import TracebackType

from nas.objectives import Evaluation
from nas.search.core import SearchError
from searchspaces.space import Arch

_DIED = "the worker process died twice on this one (out of memory, or a crash in native code)"


@dataclass(frozen=True)
class Result:
    """Columns of one evaluation, or the reason why there are none."""

    columns: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0


class Workers:
    """A context manager around the processes. `evaluated` yields (key, Result) as they finish."""

    def __init__(self, evaluation: Evaluation, count: int = 1, initializer: Callable[[], None] | None = None) -> None:
        if count < 1:
            raise SearchError(f"{count} workers: want one at least")
        self._evaluation = evaluation
        self._count = count
        self._initializer = initializer
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        if self._count > 1:
            try:
                pickle.dumps((self._evaluation, self._initializer))
            except (pickle.PicklingError, TypeError, AttributeError) as error:
                raise SearchError(f"the evaluation cannot be sent to other processes ({error}): define it in a module, "
                                  "or use 1 worker") from error
            self._start()
        elif self._initializer:
            self._initializer()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def evaluated(self, cost: str, archs: Iterable[tuple[int, Arch]]) -> Iterator[tuple[int, Result]]:
        """Evaluate the columns of one cost. At most `count` run at a time, so those that run when a worker dies are the suspects."""
        if self._pool is None:
            for key, arch in archs:
                yield key, attempt(self._evaluation, cost, arch)
            return
        waiting, running = deque(archs), dict[Future[Result], tuple[int, Arch]]()
        while waiting or running:
            broken = not self._fill(cost, waiting, running)
            suspects = []
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                item = running.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    suspects.append(item)
                else:
                    yield item[0], future.result()
            if suspects or broken:
                suspects += running.values()
                running.clear()
                self._restart()
                yield from self._alone(cost, sorted(suspects, key=lambda item: item[0]))

    def _fill(self, cost: str, waiting: deque[tuple[int, Arch]], running: dict[Future[Result], tuple[int, Arch]]) -> bool:
        """Submit until `count` are running. False where the pool broke while it was idle or since the last result."""
        assert self._pool is not None
        while waiting and len(running) < self._count:
            try:
                running[self._pool.submit(_evaluate, cost, waiting[0][1])] = waiting[0]
            except BrokenProcessPool:
                return False
            waiting.popleft()
        return True

    def _alone(self, cost: str, suspects: Iterable[tuple[int, Arch]]) -> Iterator[tuple[int, Result]]:
        """Retry one at a time: the one that kills its worker again did it, the others were bystanders."""
        for key, arch in suspects:
            assert self._pool is not None
            start = time.perf_counter()
            try:
                yield key, self._pool.submit(_evaluate, cost, arch).result()
            except BrokenProcessPool:
                self._restart()
                yield key, Result(error=_DIED, seconds=time.perf_counter() - start)

    def _start(self) -> None:
        self._pool = ProcessPoolExecutor(self._count, multiprocessing.get_context("spawn"), _set_up, (self._evaluation, self._initializer))
        try:
            self._pool.submit(os.getpid).result()
        except BrokenProcessPool as error:
            self._stop()
            raise SearchError("the worker processes end before they start: see their messages above; a script that searches with "
                              "several workers needs its calls under `if __name__ == '__main__':`") from error

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _restart(self) -> None:
        self._stop()
        self._start()


def attempt(evaluation: Evaluation, cost: str, arch: Arch) -> Result:
    """One evaluation in this process; whatever it raises becomes the reason of a failure."""
    start = time.perf_counter()
    try:
        columns = evaluation.columns(arch, cost)
    except Exception as error:
        return Result(error=f"{type(error).__name__}: {error}", seconds=time.perf_counter() - start)
    return Result(columns, seconds=time.perf_counter() - start)


_of_this_worker: Evaluation | None = None


def _set_up(evaluation: Evaluation, initializer: Callable[[], None] | None) -> None:
    """Runs first in every worker. Ctrl-C is the coordinator's to handle, and a worker does not outlive it."""
    global _of_this_worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    if initializer:
        initializer()
    _of_this_worker = evaluation


def _end_with(sentinel: int) -> None:
    wait_for([sentinel])
    os._exit(1)


def _evaluate(cost: str, arch: Arch) -> Result:
    assert _of_this_worker is not None
    return attempt(_of_this_worker, cost, arch)
