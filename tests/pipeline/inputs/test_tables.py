import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.inputs.tables import Row, parse_dial, read_table

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).map(
    lambda text: text.strip() or "x"
)
NUMBERS = st.floats(-1e6, 1e6)
POINTS = st.tuples(*[st.tuples(NUMBERS, NUMBERS)] * 5)
ROWS = st.builds(
    Row,
    NAMES,
    NAMES,
    st.none() | st.floats(0, 1),
    st.none() | st.floats(0, 100, exclude_min=True),
    st.none() | NAMES,
    st.none() | POINTS,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


@given(st.lists(ROWS, min_size=1, max_size=8))
def test_csv_and_parquet_say_the_same(folder: Path, rows: list[Row]) -> None:
    with (folder / "a.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows((*row[:-1], row.landmarks and json.dumps(row.landmarks)) for row in rows)
    table = pa.Table.from_pylist([row._asdict() for row in rows])
    pq.write_table(table, folder / "a.parquet")
    assert read_table(folder / "a.csv") == rows
    assert read_table(folder / "a.parquet") == rows
    text = [row.landmarks and json.dumps({"landmarks": row.landmarks}) for row in rows]
    column = pa.array(text, pa.string())
    at = table.schema.get_field_index("landmarks")
    pq.write_table(table.set_column(at, "landmarks", column), folder / "a.parquet")
    assert read_table(folder / "a.parquet") == rows


def test_landmarks_of_sixty_eight_points_become_five(tmp_path: Path) -> None:
    points = [[float(index), 2.0 * index] for index in range(68)]
    path = tmp_path / "jobs.csv"
    path.write_text(f'content,style,landmarks\na,b,"{json.dumps(points)}"\nc,d,\n')
    first, second = read_table(path)
    assert first.landmarks == ((38.5, 77), (44.5, 89), (30, 60), (48, 96), (54, 108))
    assert second.landmarks is None


def test_only_two_columns_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "jobs.csv"
    path.write_bytes("\ufeffstyle , content\n\n marble.png,anna\n".encode())
    assert read_table(path) == [Row("anna", "marble.png")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no column 'content'; it has none"),
        ("content,style\n", "no rows"),
        ("content\na\n", "no column 'style'; it has content"),
        ("content,style,temprature\na,b,1\n", "unknown column 'temprature'; did you mean 'temper"),
        ("content,style,zzz\na,b,1\n", "unknown column 'zzz'; known: content, style, presence"),
        ("content,style,style\na,b,c\n", "column 'style' is there twice"),
        ("content,style\na,b,c\n", "line 2: 3 fields, the first line has 2"),
        ("content,style\n\na\n", "line 3: 1 fields"),
        ("content,style\na,\n", "line 2: style is empty"),
        ("content,style,presence\na,b,1.5\n", "line 2: presence: 1.5 is not from 0 to 1"),
        ("content,style,presence\na,b,nan\n", "line 2: presence: nan is not from 0 to 1"),
        ("content,style,temperature\na,b,0\n", "temperature: 0 is not above 0, up to 100"),
        ("content,style,temperature\na,b,hot\n", "temperature: 'hot' is not a number"),
        ('content,style\na,"b\n', "not readable as CSV"),
        ("content,style\na\0,b\n", "line 2: content: no name of a file"),
        ("content,style,landmarks\na,b,x\n", "line 2: landmarks: not readable as JSON"),
        ("content,style,landmarks\na,b,[]\n", "line 2: landmarks: wants a list of 5 or of 68 po"),
    ],
)
def test_what_cannot_be_meant_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text(text)
    with pytest.raises(PipelineError) as caught:
        read_table(path)
    assert told in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_other_files_are_no_tables(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="No such file"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\0")
    with pytest.raises(PipelineError, match="not UTF-8 text"):
        read_table(tmp_path / "a.csv")
    (tmp_path / "a.parquet").write_bytes(b"content,style\n")
    with pytest.raises(PipelineError, match="not readable as Parquet"):
        read_table(tmp_path / "a.parquet")
    text = [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]
    broken = pa.Array.from_buffers(pa.string(), 1, text)
    pq.write_table(pa.table({"content": broken, "style": ["b"]}), tmp_path / "broken.parquet")
    with pytest.raises(PipelineError, match=r"broken.parquet: not readable as Parquet: 'utf-8' co"):
        read_table(tmp_path / "broken.parquet")
    pq.write_table(pa.table({"content": [1], "style": ["b"]}), tmp_path / "b.parquet")
    with pytest.raises(PipelineError, match="row 0: content: 1 is not text"):
        read_table(tmp_path / "b.parquet")


@given(st.floats())
def test_dials_are_in_range_or_refused(value: float) -> None:
    for name, good in (("presence", 0 <= value <= 1), ("temperature", 0 < value <= 100)):
        if good:
            assert parse_dial(name, str(value), "here") == value
        else:
            with pytest.raises(PipelineError, match=f"here: {name}: "):
                parse_dial(name, value, "here")
