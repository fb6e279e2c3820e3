"""How long work tells where it is: a task with an ETA on a terminal, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Task(Protocol):
    def advance(self, steps: int, note: str = "") -> None: ...


class Progress(Protocol):
    def task(self, name: str, total: int, done: int = 0) -> AbstractContextManager[Task]: ...

    def say(self, text: str) -> None: ...


class Silent:
    """For callers from Python: nothing is printed."""

    @contextmanager
    def task(self, name: str, total: int, done: int = 0) -> Iterator[Task]:
        yield self

    def advance(self, steps: int, note: str = "") -> None:
        pass

    def say(self, text: str) -> None:
        pass


class Terminal:
    """Bars on stderr, so that stdout holds results alone."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)

    @contextmanager
    def task(self, name: str, total: int, done: int = 0) -> Iterator[Task]:
        columns = (
            TextColumn("{task.description:<16}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Bars(*columns, console=self.console) as bars:
            yield _Bar(bars, name, total, done)

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False)


class _Bar:
    def __init__(self, bars: Bars, name: str, total: int, done: int) -> None:
        self._bars = bars
        self._id = bars.add_task(name, total=total, completed=done, note="")

    def advance(self, steps: int, note: str = "") -> None:
        if note.strip():
            self._bars.update(self._id, advance=steps, note=note)
        else:
            self._bars.advance(self._id, steps)
