"""What training leaves to read: tables always, TensorBoard's events where that is installed."""

import csv
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stylize.storage import name_write_errors

LOSSES, VALIDATION, EVENTS = "loss.csv", "validation.csv", "events"


class Logs:
    """Writes `folder`/loss.csv, a row a step, and validation.csv; `folder`/events where TensorBoard
    is installed, else one line on stderr says how to install it.

    Rows of steps from `first` on, left by a process that was killed, are dropped. Raises
    StylizerError where a file cannot be written.
    """

    def __init__(
        self, folder: Path, first: int, losses: Sequence[str], validations: Sequence[str]
    ) -> None:
        self.folder = folder
        cut_table(folder / LOSSES, ("step", *losses), first)
        if validations:
            cut_table(folder / VALIDATION, ("step", *validations), first + 1)
        self.events = _open_events(folder / EVENTS, first)

    def write(self, table: str, group: str, step: int, values: Mapping[str, float]) -> None:
        """A row of a table, and the same as curves GROUP/NAME."""
        path = self.folder / table
        row = [step, *(f"{value:.9g}" for value in values.values())]
        with name_write_errors(path), path.open("a", newline="") as file:
            csv.writer(file).writerow(row)
        if self.events:
            for name, value in values.items():
                self.events.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        if self.events:
            self.events.close()


def cut_table(path: Path, columns: Sequence[str], first: int) -> None:
    """Keep the whole rows whose "step" is below `first`; an absent file starts with its header."""
    partial = path.with_name(f".{path.name}.partial")
    with name_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        rows: list[list[str]] = []
        if path.exists():
            with path.open(newline="") as file:
                whole = (row for row in csv.reader(file) if len(row) == len(columns))
                rows = [row for row in whole if row[0].isdigit() and int(row[0]) < first]
        with partial.open("w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])
        os.replace(partial, path)


def _open_events(folder: Path, first: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter  # takes a second, and a package
    except ImportError:
        how = "pip install 'diffstyle360[logs]'"
        print(f"{folder}: not written, TensorBoard is not installed: {how}", file=sys.stderr)
        return None
    with name_write_errors(folder):
        return SummaryWriter(str(folder), purge_step=first)
