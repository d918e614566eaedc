"""How the samples of a column ended: in = ok + failed."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from manifests.schemas import OK
from pipeline.shards.records import read_records


@dataclass
class Count:
    """The ends of a column's samples, by status; the first failure of each kind; seconds spent."""

    statuses: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def total(self) -> int:
        return self.statuses.total()

    @property
    def ok(self) -> int:
        return self.statuses[OK]

    @property
    def failed(self) -> int:
        return self.total - self.ok

    def summary(self) -> str:
        """One line: how many of each kind of failure, with the first of each."""
        return "; ".join(
            f"{number} {status} (first {self.examples[status]})"
            for status, number in self.statuses.most_common()
            if status != OK
        )


def count_column(*columns: Path) -> Count:
    """Count the committed rows of a column, or of several together.

    A shard that is not committed counts nothing.
    """
    count = Count()
    for path in chain(*(sorted(column.glob("*.parquet")) for column in columns)):
        rows, _ = read_records(path, ["key", "status", "message", "seconds"])
        for row in rows.to_pylist():
            count.statuses[row["status"]] += 1
            count.examples.setdefault(row["status"], f"{row['key']}: {row['message']}")
            count.seconds += row["seconds"] or 0.0
    return count
