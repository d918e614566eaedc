"""The bulk stage on images of every kind at once, good and bad."""

import itertools
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipeline.cli import main
from pipeline.shards.reader import Column
from pipeline.stages.verify import verify_folder
from tests.pipeline import odd_images
from tests.pipeline.odd_images import encode, picture
from tests.pipeline.stages.test_bulk import rows


def fill_with_odd_images(folder: Path) -> dict[str, tuple[str, str]]:
    """200 inputs of every kind; by name, the column and the status that each must end in."""
    expected = {}

    def put(name: str, data: bytes, status: str) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        if "/" not in name:
            expected[name] = ("stylized-ink", status)

    folder.mkdir()
    good, bad = odd_images.good(), odd_images.bad()
    Image.new("RGB", (8000, 5000), (200, 90, 30)).save(folder / "forty-megapixels.jpg")
    (folder / "forty-megapixels.png").write_bytes(
        odd_images.png(8000, 5000, 8, 0, (b"\0" + bytes(range(200)) * 40) * 5000)
    )
    for name in ("forty-megapixels.jpg", "forty-megapixels.png"):
        expected[name] = ("stylized-ink", "ok")
    for name, views in {"anna": 2, "bert": 4, "cleo": 1}.items():
        for view in range(views):
            put(f"{name}/{view}.png", good["plain.png"], "ok")
        expected[name] = ("stylized-ink.v4" if views == 4 else "stylized-ink", "ok")
    put("dora/0.png", good["plain.png"], "ok")
    put("dora/1.png", bad["cut.png"][0], "truncated")
    expected["dora"] = ("stylized-ink", "truncated")
    (folder / "directory.png").mkdir()
    (folder / "dangling.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "pipe.png")
    kinds = {"directory": "not_a_file", "dangling": "missing", "pipe": "not_a_file"}
    for name, status in kinds.items():
        expected[f"{name}.png"] = ("stylized-ink", status)
    for name, (data, status) in bad.items():
        put(name, data, status)
    for name, data in good.items():
        put(name, data, "ok")
    around, failing = itertools.cycle(good.items()), itertools.cycle(bad.items())
    while len(expected) < 200:
        number = len(expected)
        if number % 2:
            name, (data, status) = next(failing)
            put(f"{number} {name}", data, status)
        else:
            name, data = next(around)
            for view in ("1", "2"):
                put(f"identity {number}/{view} {name}", data, "ok")
            expected[f"identity {number}"] = ("stylized-ink", "ok")
    return expected


def test_two_hundred_mixed_inputs_all_end(
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a user meets it: exit code 1, a row for every input, with the right reason."""
    expected = fill_with_odd_images(tmp_path / "in")
    (tmp_path / "ink.png").write_bytes(encode(picture(seed=99), "PNG"))
    out = tmp_path / "out"
    command = ["diffstyle360", "stylize", "--device", "cpu"]
    command += ["--content", tmp_path / "in", "--style", tmp_path / "ink.png", "--out", out]
    command += ["--model", tiny_model, "--views", "2", "--steps", "1", "--rgb", "webp"]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "samples failed, more than allow_failed 0: " in capsys.readouterr().err.splitlines()[-1]
    found = {}
    for column in ("stylized-ink", "stylized-ink.v4"):
        opened = Column(out / column)
        for key, row in rows(out / column).items():
            if row["status"] == "ok":
                name = opened.read(key, ["json"])["json"]["name"]
            else:
                name = row["message"].split(": ")[0].split("/")[0]
            found[name] = (column, row["status"])
        assert verify_folder(out / column) == len(rows(out / column))
    assert len(expected) == len(found) == 200
    assert found == expected
