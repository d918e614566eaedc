"""Tables of what is to be stylized with what: CSV or Parquet, one sample a row."""

import csv
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import PipelineError
from pipeline.inputs.landmarks import Points, decode_landmarks, parse_landmarks

COLUMNS = ("content", "style", "presence", "temperature", "name", "landmarks")
DIALS = {"presence": (0.0, 1.0), "temperature": (0.0, 100.0)}  # lowest, highest
_ABOVE = {"temperature"}  # must be above its lowest


class Row(NamedTuple):
    """One sample; what is None is as the command line says."""

    content: str
    style: str
    presence: float | None = None
    temperature: float | None = None
    name: str | None = None
    landmarks: Points | None = None  # of a portrait, in pixels of its image


def read_table(path: Path) -> list[Row]:
    """The rows of a table with the columns content and style, and any of the other `COLUMNS`.

    A CSV file is UTF-8 text whose first line names the columns; one that ends in .parquet is
    Parquet. Landmarks are JSON text of 5 or 68 [x, y], or in Parquet lists. Raises PipelineError,
    one line with the file and the row, for what cannot be meant.
    """
    try:
        rows = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
        table = [_parse(row, f"{path}: {where}") for where, row in rows]
    except OSError as error:
        raise PipelineError(f"{path}: cannot read it: {error.strerror or error}") from None
    if not table:
        raise PipelineError(f"{path}: no rows")
    return table


def parse_dial(name: str, value: Any, where: str) -> float:
    """A dial's value, from text or a number. Raises PipelineError where it is out of range."""
    low, high = DIALS[name]
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise PipelineError(f"{where}: {name}: {value!r} is not a number") from None
    if not (low < number or (low == number and name not in _ABOVE)) or not number <= high:
        span = f"above {low:g}, up to {high:g}" if name in _ABOVE else f"from {low:g} to {high:g}"
        raise PipelineError(f"{where}: {name}: {value} is not {span}")
    return number


def _read_csv(path: Path) -> Iterable[tuple[str, Mapping[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_columns(header, path)
            for fields in reader:
                where = f"line {reader.line_num}"
                if not any(field.strip() for field in fields):
                    continue
                if len(fields) != len(header):
                    raise PipelineError(
                        f"{path}: {where}: {len(fields)} fields, the first line has {len(header)}"
                    )
                yield where, dict(zip(header, (field.strip() for field in fields), strict=True))
    except UnicodeDecodeError:
        raise PipelineError(f"{path}: not UTF-8 text; is this a table?") from None
    except csv.Error as error:
        raise PipelineError(f"{path}: not readable as CSV: {error}") from None


def _read_parquet(path: Path) -> Iterable[tuple[str, Mapping[str, Any]]]:
    try:
        file = pq.ParquetFile(path)
        _check_columns(file.schema_arrow.names, path)
        rows = file.read().to_pylist()
    except (pa.ArrowException, ValueError) as error:  # a UnicodeDecodeError is one
        reason = " ".join(str(error).split())
        raise PipelineError(f"{path}: not readable as Parquet: {reason}") from None
    for index, row in enumerate(rows):
        yield f"row {index}", row


def _check_columns(header: list[str], path: Path) -> None:
    for name in header:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(COLUMNS)}"
            raise PipelineError(f"{path}: unknown column {name!r}; {hint}")
        if header.count(name) > 1:
            raise PipelineError(f"{path}: column {name!r} is there twice")
    for name in ("content", "style"):
        if name not in header:
            raise PipelineError(f"{path}: no column {name!r}; it has {', '.join(header) or 'none'}")


def _parse(row: Mapping[str, Any], where: str) -> Row:
    texts = {}
    for name in ("content", "style", "name"):
        value = row.get(name)
        if value is not None and not isinstance(value, str):
            raise PipelineError(f"{where}: {name}: {value!r} is not text")
        if not value and name != "name":
            raise PipelineError(f"{where}: {name} is empty")
        if value and ("\0" in value or len(value) > 4096):
            raise PipelineError(f"{where}: {name}: no name of a file")
        texts[name] = value or None
    dials = {
        name: None if row.get(name) in (None, "") else parse_dial(name, row[name], where)
        for name in DIALS
    }
    landmarks = _parse_points(row.get("landmarks"), where)
    return Row(
        texts["content"] or "", texts["style"] or "",
        name=texts["name"], landmarks=landmarks, **dials,
    )  # fmt: skip


def _parse_points(value: Any, where: str) -> Points | None:
    if value in (None, ""):
        return None
    try:
        return decode_landmarks(value) if isinstance(value, str) else parse_landmarks(value)
    except ValueError as error:
        raise PipelineError(f"{where}: landmarks: {error}") from None
