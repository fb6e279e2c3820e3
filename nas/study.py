"""Study: every trial of a search in one SQLite file, written by one coordinator, readable by anybody at any time.

    meta    name, value JSON            space, settings and provenance, written at creation
    trials  one row a trial, one transaction a row: a killed coordinator loses at most what was being evaluated
    stages  name, payload JSON          what the main job has finished after the search (a finalist trained, compiled, verified)

WAL mode with synchronous=NORMAL: after a kill every finished trial is there; after a power failure the last few may be missing, and the
file is whole. The lock is the operating system's, so that it ends with its process, however that ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from searchspaces.space import Arch

SCHEMA = 1
_APPLICATION = 0x45444745  # "EDGE", in SQLite's header: tells a study from any other SQLite file
_DAMAGED = "the file may be damaged: restore a copy or start a new study"
_TABLES = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE trials (number INTEGER PRIMARY KEY, genes TEXT NOT NULL, state TEXT NOT NULL, spent INTEGER NOT NULL,
       columns TEXT NOT NULL, volatile TEXT NOT NULL, error TEXT, seconds REAL NOT NULL)""",
    "CREATE TABLE stages (name TEXT PRIMARY KEY, payload TEXT NOT NULL) WITHOUT ROWID",
)


class StudyError(ValueError):
    """A study that cannot be read or written; the message names the file and what would work."""


@dataclass(frozen=True)
class Trial:
    """One candidate and what became of it.

    "ok": all columns are there (an expensive one may still miss its limit); "infeasible": a cheap column misses its limit, so nothing
    expensive was spent; "failed": `error` says why. `spent`: it used one unit of the budget.
    """

    number: int
    arch: Arch
    state: Literal["ok", "infeasible", "failed"]
    columns: Mapping[str, float] = field(default_factory=dict)      # deterministic: the same on every run with one seed
    volatile: Mapping[str, float] = field(default_factory=dict)     # the others
    error: str | None = None
    spent: bool = False
    seconds: float = 0.0

    def __getitem__(self, column: str) -> float:
        return self.columns[column] if column in self.columns else self.volatile[column]


class Study:
    """An open study file; use it as a context manager. Made by `Study.create` and `Study.open`."""

    def __init__(self, path: Path, db: sqlite3.Connection, lock: IO[str] | None) -> None:
        self.path = path
        self._db = db
        self._lock = lock
        with _explained(path, _DAMAGED):
            meta = {name: json.loads(value) for name, value in db.execute("SELECT name, value FROM meta")}
            self.space: str = meta["space"]
            self.settings: dict[str, Any] = meta["settings"]
            self.provenance: dict[str, Any] = meta["provenance"]

    @classmethod
    def create(cls, path: str | Path, space: str, settings: Mapping[str, Any], provenance: Mapping[str, Any]) -> Study:
        """A new study that this process writes. Raises StudyError where the file exists or the folder cannot be written."""
        path = Path(path)
        lock = _locked(path)
        try:
            if path.exists():
                raise StudyError(f"{path} exists: resume it, or choose another name")
            # The file appears under its name only when it is complete, so a kill in between leaves nothing half made.
            fresh = path.with_name(path.name + ".part")
            for leftover in (fresh, fresh.with_name(fresh.name + "-wal"), fresh.with_name(fresh.name + "-shm")):
                leftover.unlink(missing_ok=True)
            with _explained(path, "nothing was kept"):
                with closing(sqlite3.connect(fresh)) as db, db:
                    for statement in _TABLES:
                        db.execute(statement)
                    meta = {"space": space, "settings": dict(settings), "provenance": dict(provenance)}
                    db.executemany("INSERT INTO meta VALUES (?, ?)", [(name, json.dumps(value)) for name, value in meta.items()])
                    db.execute(f"PRAGMA user_version = {SCHEMA}")
                    db.execute(f"PRAGMA application_id = {_APPLICATION}")
                os.replace(fresh, path)
            return cls(path, _connected(path, writable=True), lock)
        except BaseException:
            lock.close()
            raise

    @classmethod
    def open(cls, path: str | Path, *, writable: bool = False) -> Study:
        """An existing study: to read it (any number of readers, also while it is being written), or to go on with it (one process).

        Raises StudyError for a missing file, a file that is no study, another schema, and a study that another process is writing.
        """
        path = Path(path)
        if not path.is_file():
            raise StudyError(f"{path}: no study there")
        lock = _locked(path) if writable else None
        try:
            return cls(path, _connected(path, writable), lock)
        except BaseException:
            if lock:
                lock.close()
            raise

    def record(self, trial: Trial) -> Trial:
        """Write one finished trial, in one transaction. Raises StudyError where the disk is full or the number is taken."""
        row = (trial.number, trial.arch.key, trial.state, int(trial.spent), _numbers(trial.columns), _numbers(trial.volatile),
               trial.error, trial.seconds)
        self._write("INSERT INTO trials VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        return trial

    def trials(self, state: str | None = None) -> list[Trial]:
        """All trials, or those in one state, by number."""
        query = "SELECT number, genes, state, columns, volatile, error, spent, seconds FROM trials"
        with _explained(self.path, _DAMAGED):
            rows = self._db.execute(query + (" WHERE state = ?" if state else "") + " ORDER BY number", (state,) if state else ())
            return [self._trial(*row) for row in rows]

    def count(self, state: str | None = None) -> int:
        query = "SELECT count(*) FROM trials" + (" WHERE state = ?" if state else "")
        with _explained(self.path, _DAMAGED):
            return int(self._db.execute(query, (state,) if state else ()).fetchone()[0])

    def finish_stage(self, name: str, payload: Any) -> None:
        """Note a finished stage with its JSON payload; the same name again replaces it."""
        self._write("INSERT OR REPLACE INTO stages VALUES (?, ?)", (name, json.dumps(payload)))

    def stage(self, name: str) -> Any | None:
        """The payload of a finished stage, None where it has not finished."""
        return self.stages().get(name)

    def stages(self) -> dict[str, Any]:
        with _explained(self.path, _DAMAGED):
            return {name: json.loads(payload) for name, payload in self._db.execute("SELECT name, payload FROM stages ORDER BY name")}

    def fingerprint(self) -> str:
        """Equal for two studies whose trials agree in number, genes, state and every deterministic column."""
        digest = hashlib.sha256()
        for trial in self.trials():
            digest.update(f"{trial.number} {trial.arch.key} {trial.state} {_numbers(dict(sorted(trial.columns.items())))}\n".encode())
        return digest.hexdigest()

    def close(self) -> None:
        self._db.close()
        if self._lock:
            self._lock.close()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _write(self, statement: str, values: tuple[Any, ...]) -> None:
        if self._lock is None:
            raise StudyError(f"{self.path} is open for reading: open it with writable=True")
        with _explained(self.path, "all that was recorded before is kept: make room and resume"):
            with self._db:
                self._db.execute(statement, values)

    def _trial(self, number: int, genes: str, state: Any, columns: str, volatile: str, error: str | None, spent: int,
               seconds: float) -> Trial:
        arch = Arch(self.space, json.loads(genes))
        return Trial(number, arch, state, json.loads(columns), json.loads(volatile), error, bool(spent), seconds)


def _numbers(columns: Mapping[str, float]) -> str:
    return json.dumps(dict(columns), allow_nan=False)


def _locked(path: Path) -> IO[str]:
    """The open lock file beside the study. Raises StudyError, naming the process, where another one holds it."""
    name = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(name, "a+", encoding="utf-8")  # noqa: SIM115 (held until the study is closed)
    except OSError as error:
        raise StudyError(f"{path}: the study cannot be written here ({error.strerror})") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
    except BlockingIOError as error:
        handle.seek(0)
        owner = handle.read().strip()
        handle.close()
        raise StudyError(f"{path} is being written by process {owner or '?'}: wait for it, or end it and resume") from error
    except OSError as error:
        handle.close()
        raise StudyError(f"{path}: the study cannot be locked ({error.strerror})") from error
    return handle


def _connected(path: Path, writable: bool) -> sqlite3.Connection:
    """Raises StudyError for a file that is no study of this schema."""
    mode = "rw" if writable else "ro"
    if not writable and not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists():
        mode = "ro&immutable=1"  # a reader of WAL mode writes a shared index beside the file, which a read-only medium refuses
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True, timeout=30)
    try:
        application, schema = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        if application != _APPLICATION:
            raise StudyError(f"{path} is no study of edgenas")
        if schema != SCHEMA:
            raise StudyError(f"{path} has study schema {schema}, this version reads {SCHEMA}: use the version that wrote it")
        if writable:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
        if (state := db.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
            raise StudyError(f"{path} is damaged ({state}): restore a copy or start a new study")
        db.execute("SELECT name, value FROM meta").fetchall()
    except StudyError:
        db.close()
        raise
    except sqlite3.Error as error:
        db.close()
        raise StudyError(f"{path} cannot be read as a study ({error})") from error
    return db


@contextmanager
def _explained(path: Path, kept: str) -> Iterator[None]:
    """Turns what SQLite, the disk or a broken row raise into a StudyError."""
    try:
        yield
    except (sqlite3.Error, OSError, json.JSONDecodeError, KeyError) as error:
        raise StudyError(f"{path}: {error}; {kept}") from error
