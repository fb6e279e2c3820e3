import contextlib
import json
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
import search_toys as toys

from nas.study import Study, StudyError, Trial


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "study.db"


def trial(number, **fields):
    return Trial(number, toys.SPACE.sample(np.random.default_rng(number)), **{"state": "ok", **fields})


def test_a_study_gives_back_what_it_was_given(path):
    trials = [
        trial(0, columns={"latency_ms": 0.1 + 0.2}, volatile={"pid": 7.0}, spent=True, seconds=0.25),
        trial(1, state="infeasible", columns={"latency_ms": 1e300}),
        trial(2, state="failed", error="score is nan\nsecond line", spent=True),
    ]
    with Study.create(path, "toy", {"budget": 3}, {"commit": "1a2b3c4"}) as study:
        for t in reversed(trials):  # workers finish in any order
            assert study.record(t) is t
        study.finish_stage("train:0", {"map50": 0.5})
        study.finish_stage("train:0", {"map50": 0.6})
    with Study.open(path) as study:
        assert study.trials() == trials
        assert study.trials("failed") == trials[2:]
        assert (study.count(), study.count("ok")) == (3, 1)
        assert (study.space, study.settings, study.provenance) == ("toy", {"budget": 3}, {"commit": "1a2b3c4"})
        assert study.stages() == {"train:0": {"map50": 0.6}}
        assert study.stage("verify:0") is None
        assert study.trials()[0]["pid"] == 7.0


def test_fingerprint_sees_deterministic_columns_and_no_others(path, tmp_path):
    def fingerprint(name, **fields):
        with Study.create(tmp_path / name, "toy", {}, {}) as study:
            study.record(trial(0, **fields))
            return study.fingerprint()

    one = fingerprint("a", columns={"x": 1.0, "y": 2.0}, volatile={"s": 1.0}, seconds=1.0)
    assert fingerprint("b", columns={"y": 2.0, "x": 1.0}, volatile={"s": 2.0}, seconds=2.0) == one
    assert fingerprint("c", columns={"x": 1.0, "y": np.nextafter(2.0, 3.0)}) != one


def test_a_study_can_be_read_but_not_written_while_another_process_writes_it(path):
    with Study.create(path, "toy", {}, {}) as study:
        study.record(trial(0))
        code = ("import sys; from nas.study import Study\n"
                "print(Study.open(sys.argv[1]).count()); Study.open(sys.argv[1], writable=True)")
        other = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
        assert other.stdout.strip() == "1"
        assert f"StudyError: {path} is being written by process" in other.stderr
        with pytest.raises(StudyError, match="being written"):
            Study.open(path, writable=True)
        with Study.open(path) as reader, pytest.raises(StudyError, match="open for reading"):
            reader.record(trial(1))
    with Study.open(path, writable=True) as study:
        study.record(trial(1))


def test_create_refuses_an_existing_study_and_open_a_missing_one(path):
    with pytest.raises(StudyError, match="no study there"):
        Study.open(path)
    Study.create(path, "toy", {}, {}).close()
    with pytest.raises(StudyError, match="exists"):
        Study.create(path, "toy", {}, {})


def test_files_that_are_no_study_are_refused_by_name(tmp_path):
    path = tmp_path / "study.db"
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute("CREATE TABLE meta (name, value)")
    for content in (b"", b"not a database", b"SQLite format 3\x00" + bytes(200), (tmp_path / "other.db").read_bytes()):
        path.write_bytes(content)
        for writable in (False, True):
            with pytest.raises(StudyError, match=r"study\.db"):
                Study.open(path, writable=writable)


def test_a_study_of_another_schema_is_refused(path):
    Study.create(path, "toy", {}, {}).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StudyError, match="schema 99"):
        Study.open(path)


def test_a_damaged_study_raises_study_errors_and_nothing_else(path):
    with Study.create(path, "toy", {}, {}) as study:
        for number in range(60):
            study.record(trial(number, columns={"x": float(number)}))
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    for _ in range(60):
        broken = bytearray(whole)
        for at in rng.integers(0, len(whole), size=20):
            broken[at] ^= int(rng.integers(1, 256))
        path.write_bytes(broken[: rng.integers(1, len(whole))] if rng.random() < 0.5 else broken)
        with contextlib.suppress(StudyError), Study.open(path) as study:
            study.trials()


def test_a_full_disk_names_the_file_and_keeps_what_was_recorded(path):
    with Study.create(path, "toy", {}, {}) as study:
        study.record(trial(0))
        pages = study._db.execute("PRAGMA page_count").fetchone()[0]
        study._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StudyError, match=r"study\.db: .*full.*kept"):
            study.record(trial(1, columns={f"column{i}": 1.0 for i in range(1000)}))
    with Study.open(path) as study:
        assert study.trials() == [trial(0)]


def test_columns_that_json_cannot_hold_are_refused_before_they_reach_the_file(path):
    with Study.create(path, "toy", {}, {}) as study:
        with pytest.raises(ValueError, match="JSON"):
            study.record(trial(0, columns={"x": float("nan")}))
        assert study.count() == 0


def test_settings_are_plain_json_in_the_file(path):
    Study.create(path, "toy", {"limits": {"latency_ms": 6.0}}, {}).close()
    with sqlite3.connect(path) as db:
        assert json.loads(db.execute("SELECT value FROM meta WHERE name = 'settings'").fetchone()[0]) == {"limits": {"latency_ms": 6.0}}
