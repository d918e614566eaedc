"""How the samples of a column ended: in = ok + failed."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from manifests.schemas import OK
from pipeline.shards.records import Outcome, list_records, read_outcomes, read_records


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

    @property
    def failures(self) -> dict[str, int]:
        """How many of each kind of failure, the most frequent first."""
        return {kind: number for kind, number in self.statuses.most_common() if kind != OK}

    def add(self, path: Path, outcome: Outcome) -> None:
        """Count one more shard, of which `path` is the Parquet.

        Raises ShardError where an example is needed and the file has gone or changed meanwhile;
        nothing was counted then.
        """
        if new := outcome.statuses.keys() - self.examples.keys() - {OK}:
            rows, _ = read_records(path, ["key", "status", "message"])
            for row in rows.to_pylist():
                if row["status"] in new:
                    self.examples.setdefault(row["status"], f"{row['key']}: {row['message']}")
        self.statuses += outcome.statuses
        self.seconds += outcome.seconds

    def summary(self) -> str:
        """One line: how many of each kind of failure, with the first of each."""
        return "; ".join(
            f"{number} {kind} (first {self.examples[kind]})"
            for kind, number in self.failures.items()
        )


def count_column(*columns: Path) -> Count:
    """Count the committed rows of a column, or of several together.

    A shard that is not committed counts nothing. Raises ShardError for a damaged Parquet.
    """
    count = Count()
    paths = [*chain(*map(list_records, columns))]
    for path, outcome in zip(paths, read_outcomes(paths, timed=True), strict=True):
        count.add(path, outcome)
    return count
