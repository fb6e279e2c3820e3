"""Labelled tables: what is wrong is named with its file, line and column."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchspaces.tables import TableError, read


def write(folder, text):
    path = folder / "table.csv"
    path.write_text(text)
    return path


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_numbers_come_back_as_they_were_written(tmp_path_factory, values):
    rows = "".join(f"net{i},{value!r},other\n" for i, value in enumerate(values))
    table = read(write(tmp_path_factory.mktemp("t"), f"model_name,ms,note\n{rows}"), ["ms"])
    assert table["ms"].tolist() == values
    assert table.names == tuple(f"net{i}" for i in range(len(values))) and len(table) == len(values)
    assert table.lines == tuple(range(2, len(values) + 2))


def even(name):
    if int(name) % 2:
        raise ValueError(f"'{name}' is odd")


@pytest.mark.parametrize(("text", "says"), [
    ("model_name,mAP\n2,1\n", "no column 'ms'; columns: model_name, mAP"),
    ("name,ms\n2,1\n", "no column 'model_name'"),
    ("model_name,ms\n", "no rows"),
    ("model_name,ms\n2,1\n4,fast\n", ":3: column 'ms': 'fast' is not a number"),
    ("model_name,ms\n2,nan\n", ":2: column 'ms': nan is not a positive number"),
    ("model_name,ms\n2,-1\n", ":2: column 'ms': -1 is not a positive number"),
    ("model_name,ms\n2\n", ":2: column 'ms': '' is not a number"),
    ("model_name,ms\n2,1\n3,1\n", ":3: column 'model_name': '3' is odd"),
    ("model_name,ms\n2,1\n2,1\n", ":3: column 'model_name': '2' is in line 2 too"),
])
def test_a_broken_table_is_refused_with_row_and_column(tmp_path, text, says):
    with pytest.raises(TableError) as error:
        read(write(tmp_path, text), ["ms"], check=even, positive=True)
    assert says in str(error.value) and "table.csv" in str(error.value)


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(TableError, match="No such file"):
        read(tmp_path / "missing.csv")
    (tmp_path / "image.csv").write_bytes(bytes(range(128, 256)))
    with pytest.raises(TableError, match="no CSV file"):
        read(tmp_path / "image.csv")
    table = read(write(tmp_path, "model_name,ms\na,1\n"), ["ms"])
    with pytest.raises(TableError, match="no column 'mAP'; columns: ms"):
        table["mAP"]
    assert not math.isnan(table["ms"][0])
