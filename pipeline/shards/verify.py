"""Finding every fault of a shard or a column, and naming the first bad sample of each."""

import hashlib
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from manifests.schemas import OK
from pipeline.shards import ShardError
from pipeline.shards.archive import BLOCK, end_archive, read_range, split_sample
from pipeline.shards.indexes import WIDS, encode_idx, encode_wids, index_sample
from pipeline.shards.records import Commit, check_records, order_shard, read_records
from pipeline.shards.samples import Sample, check_sample

_SHOWN = 8  # findings of a shard; a line counts the rest


class Finding(NamedTuple):
    """One fault. `kind`: "missing" (a file or a sample is not there), "corrupt" (the bytes are not
    those that were committed), "wrong" (committed as they are, but not what they should be)."""

    kind: str
    where: str  # "render/train-00003.tar: train-00000017.view_04.rgb.png"
    what: str
    shard: str | None = None  # that has it; None: it lies between shards

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass
class _Shard:
    folder: Path
    name: str
    findings: list[Finding] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)  # ok and failed
    suffixes: tuple[str, ...] = ()  # members of the first sample
    specs: dict[str, str] = field(default_factory=dict)  # dtype and shape of each

    def path(self, extension: str) -> Path:
        return self.folder / f"{self.name}.{extension}"

    def note(self, kind: str, file: str, what: str, sample: str = "") -> None:
        where = f"{self.folder.name}/{self.name}.{file}" + (f": {sample}" if sample else "")
        self.findings.append(Finding(kind, where, what, self.name))


def verify_shard(folder: str | Path, name: str, deep: bool = True) -> list[Finding]:
    """Every fault found in one shard; an empty list if it is whole.

    Deep reads and decodes everything; else only sizes, indexes and the archive's end are looked at.
    """
    return _inspect(Path(folder), name, deep).findings


def verify_column(
    folder: str | Path,
    expected: Iterable[str] | None = None,
    deep: bool = True,
    workers: int = 1,
) -> list[Finding]:
    """Every fault found in a column's shards, between them, and in its wids index.

    `expected` are the keys that must be there: in = ok + failed. `workers` threads take a shard
    each.
    """
    folder = Path(folder)
    paths = [path for path in folder.glob("[!.]*") if path.suffix in (".tar", ".idx", ".parquet")]
    names = sorted({path.stem for path in paths}, key=order_shard)
    with ThreadPoolExecutor(workers) as pool:
        shards = list(pool.map(lambda name: _inspect(folder, name, deep), names))
    findings = [finding for shard in shards for finding in shard.findings]
    if not shards:
        findings.append(Finding("missing", folder.name, "no shard here"))
    findings += _compare_shards(shards)
    counts = Counter(key for shard in shards for key in shard.keys)
    wanted = set(counts if expected is None else expected)
    for kind, keys, what in (
        ("wrong", sorted(key for key in counts if counts[key] > 1), "in more than one place"),
        ("missing", sorted(wanted - counts.keys()), "neither ok nor failed"),
        ("wrong", sorted(counts.keys() - wanted), "not asked for"),
    ):
        if keys:
            findings.append(Finding(kind, folder.name, f"{_some(keys)}: {what}"))
    findings += _check_wids(folder)
    return findings


def _compare_shards(shards: list[_Shard]) -> Iterator[Finding]:
    """One finding for every shard whose samples are unlike those of the first."""
    known = [shard for shard in shards if shard.suffixes]
    for shard in known[1:]:
        where = f"{shard.folder.name}/{shard.name}.tar"
        if shard.suffixes != known[0].suffixes:
            what = f"members differ from those of {known[0].name}.tar"
            yield Finding("wrong", where, what, shard.name)
        elif shard.specs != known[0].specs:
            what = f"image sizes differ from those of {known[0].name}.tar"
            yield Finding("wrong", where, what, shard.name)


def _inspect(folder: Path, name: str, deep: bool) -> _Shard:
    shard = _Shard(folder, name)
    _check_shard(shard, deep)
    if (rest := len(shard.findings) - _SHOWN) > 1:
        kind = shard.findings[_SHOWN].kind
        del shard.findings[_SHOWN:]
        shard.note(kind, "tar", f"and {rest} more findings")
    return shard


def _check_shard(shard: _Shard, deep: bool) -> None:
    for extension in ("tar", "idx", "parquet"):
        if not shard.path(extension).is_file():
            shard.note("missing", extension, "not there; make the shard again")
    if not shard.path("parquet").is_file():
        return
    try:
        table, commit = read_records(shard.path("parquet"))
        problem = check_records(shard.path("parquet"))
    except ShardError as error:
        shard.note("corrupt", "parquet", str(error).removeprefix(f"{shard.path('parquet')}: "))
        return
    if problem:
        shard.note("corrupt", "parquet", problem)
        return
    rows = table.to_pylist()
    shard.keys = [row["key"] for row in rows]
    made = [row for row in rows if row["status"] == OK]
    faults = list(_check_rows(rows, made, commit))
    for what in faults:
        shard.note("wrong", "parquet", what)
    if not shard.path("tar").is_file() or faults:
        return
    with open(shard.path("tar"), "rb", buffering=0) as tar:
        size = os.fstat(tar.fileno()).st_size
        if size != commit.bytes:
            shard.note("corrupt", "tar", f"{size} bytes, {commit.bytes} were committed")
        lines = _check_samples(shard, tar.fileno(), made, commit) if deep else None
        if not deep:
            _check_end(shard, tar.fileno(), made, "corrupt")
    if lines is not None:
        _check_names(shard, lines)
    _check_idx(shard, made, lines)


def _check_rows(
    rows: list[dict[str, Any]], made: list[dict[str, Any]], commit: Commit
) -> Iterator[str]:
    if doubled := [key for key, n in Counter(row["key"] for row in rows).items() if n > 1]:
        yield f"{_some(doubled)}: more than one row"
    if len(made) != commit.samples:
        yield f"{len(made)} samples, the commit record says {commit.samples}"
    position = 0
    for row in made:
        if None in (row["offset"], row["size"], row["sha256"], row["members"]):
            yield f"{row['key']}: has no place in the tar"
            return
        if row["offset"] != position or row["size"] <= 0 or row["size"] % BLOCK:
            yield f"{row['key']}: offset or size does not follow from the sample before"
            return
        position += row["size"]


def _check_samples(
    shard: _Shard, tar: int, made: list[dict[str, Any]], commit: Commit
) -> list[str] | None:
    """Notes the faults of samples; returns the lines of the index, None if a sample is no tar."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    lines: list[str] = []
    parsed = True
    for row in made:
        data = read_range(tar, row["offset"], row["size"])
        if not data:
            shard.note("corrupt", "tar", "the file ends before this sample", row["key"])
            return None
        sha256.update(data)
        md5.update(data)
        intact = hashlib.sha256(data).hexdigest() == row["sha256"]
        faults, line = _check_range(shard, row, data, intact)
        if not intact:
            why = f"{faults[0][1]}" if faults else "every member still decodes"
            faults = [(faults[0][0] if faults else row["key"], f"sha256 differs ({why})")]
        for sample, what in faults:
            shard.note("wrong" if intact else "corrupt", "tar", what, sample)
        parsed = parsed and line is not None
        lines.append(line or "")
    position = made[-1]["offset"] + made[-1]["size"] if made else 0
    while data := read_range(tar, position, 2**20):
        sha256.update(data)
        md5.update(data)
        position += len(data)
    intact = sha256.hexdigest() == commit.sha256
    _check_end(shard, tar, made, "wrong" if intact else "corrupt")
    if not intact and not any(finding.kind == "corrupt" for finding in shard.findings):
        shard.note("corrupt", "tar", "sha256 of the file differs from the committed one")
    if intact and md5.hexdigest() != commit.md5:
        shard.note("wrong", "parquet", "the commit record has another md5 than the tar")
    return lines if parsed else None


def _check_range(
    shard: _Shard, row: dict[str, Any], data: bytes, intact: bool
) -> tuple[list[tuple[str, str]], str | None]:
    key = row["key"]
    try:
        members = split_sample(data, key)
    except ShardError as error:
        where, _, what = str(error).partition(": ")
        return [(where, what)], None
    line = index_sample(key, row["offset"], members)
    suffixes = tuple(member.suffix for member in members)
    if len(set(suffixes)) < len(suffixes) or len(suffixes) != row["members"]:
        return [(key, f"{len(suffixes)} members, the Parquet says {row['members']}")], line
    contents = {m.suffix: data[m.start : m.start + m.size] for m in members}
    found, specs = check_sample(Sample(key, row["seed"], row["split"], contents))
    faults = [(f"{key}.{fault.member}", fault.what) for fault in found]
    if suffixes[-1] != "json":
        faults.append((key, "the last member is not json"))
    if shard.suffixes and suffixes != shard.suffixes:
        faults.append((key, "members or their order differ from the first sample's"))
    elif shard.suffixes and not faults and specs != shard.specs:
        odd = next(suffix for suffix in specs if specs[suffix] != shard.specs.get(suffix))
        faults.append((f"{key}.{odd}", f"is {specs[odd]}, in the first sample {shard.specs[odd]}"))
    if intact and not faults:
        shard.suffixes, shard.specs = suffixes, specs
    return faults, line


def _check_end(shard: _Shard, tar: int, made: list[dict[str, Any]], kind: str) -> None:
    position = made[-1]["offset"] + made[-1]["size"] if made else 0
    expected = end_archive(position)
    if read_range(tar, position, len(expected) + 1) != expected:
        shard.note(kind, "tar", "the archive does not end after the last sample as it should")


def _check_names(shard: _Shard, lines: list[str]) -> None:
    """Compares the members with what the standard library sees in the tar."""
    fields = [line.split() for line in lines]
    ours = [(f[i + 3], int(f[i + 1]), int(f[i + 2])) for f in fields for i in range(0, len(f), 4)]
    try:
        with tarfile.open(shard.path("tar"), "r:") as tar:
            theirs = [(m.name, m.offset_data, m.size) for m in tar]
    except (tarfile.TarError, OSError) as error:
        shard.note("corrupt", "tar", f"tarfile cannot read it: {error}")
        return
    if ours != theirs:
        shard.note("wrong", "tar", "tarfile sees other members than the Parquet")


def _check_idx(shard: _Shard, made: list[dict[str, Any]], lines: list[str] | None) -> None:
    if not shard.path("idx").is_file():
        return
    found = shard.path("idx").read_bytes()
    if lines is not None and found != encode_idx(lines):
        shard.note("corrupt", "idx", "differs from what the tar says; make the shard again")
    elif lines is None and found.split(b"\n")[0] != b"v1.2 %d" % len(made):
        shard.note("corrupt", "idx", f"does not begin with v1.2 {len(made)}")


def _check_wids(folder: Path) -> Iterator[Finding]:
    path = folder / WIDS
    if not path.is_file():
        return
    where = f"{folder.name}/{WIDS}"
    try:
        if path.read_bytes() != encode_wids(folder):
            yield Finding("wrong", where, "does not describe the shards here; write it again")
    except ShardError:
        yield Finding("wrong", where, "cannot be compared: a shard's Parquet is damaged")


def _some(keys: list[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{keys[0]} and {len(keys) - 1} more"
