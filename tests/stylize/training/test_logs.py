import csv
import sys

import pytest

from stylize.training import logs


def read(path):
    with path.open() as file:
        return list(csv.reader(file))


def test_tables_go_on_where_they_were_cut(tmp_path):
    first = logs.Logs(tmp_path, 0, ("loss",), ("held_out",))
    for step in range(3):
        first.write(logs.LOSSES, "train", step, {"loss": step / 3})
    first.write(logs.VALIDATION, "validation", 2, {"held_out": 1.0})
    first.write(logs.VALIDATION, "validation", 3, {"held_out": 2.0})
    first.close()
    logs.Logs(tmp_path, 2, ("loss",), ("held_out",)).close()
    assert read(tmp_path / "loss.csv") == [["step", "loss"], ["0", "0"], ["1", "0.333333333"]]
    assert read(tmp_path / "validation.csv") == [["step", "held_out"], ["2", "1"]]


def test_missing_tensorboard_is_said_and_tables_are_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    logs.Logs(tmp_path, 0, ("loss",), ()).close()
    [line] = capsys.readouterr().err.splitlines()
    assert "pip install 'diffstyle360[logs]'" in line
    assert (tmp_path / "loss.csv").exists()


def test_events_hold_the_same_curves(tmp_path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first, values in ((0, [1.0, 2.0, 3.0]), (1, [4.0])):
        log = logs.Logs(tmp_path, first, ("loss",), ())
        for step, value in enumerate(values, first):
            log.write(logs.LOSSES, "train", step, {"loss": value})
        log.close()
    events = reading.EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    curve = events.Scalars("train/loss")
    assert [(point.step, point.value) for point in curve] == [(0, 1.0), (1, 4.0)]
