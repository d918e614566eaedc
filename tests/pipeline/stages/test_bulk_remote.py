"""Bulk stylization of tars at URLs: the bytes of local ones, and each fault a failed row."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from click.testing import CliRunner
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.cli import stylize
from pipeline.errors import PipelineError
from pipeline.folders import BulkFolder
from pipeline.inputs import fetching
from pipeline.inputs.remote import CACHE
from pipeline.stages.bulk_run import plan_bulk
from pipeline.stages.verify import verify_run
from pipeline.watch import retry_failed
from tests.pipeline.inputs.test_archives import write_tar
from tests.pipeline.odd_images import encode, picture
from tests.pipeline.stages.test_bulk import rows
from tests.pipeline.stages.test_bulk_run import Open, files, make

URL = "memory://b/x-{0..1}.tar"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryFileSystem]:
    """Two tars of two portraits each, in memory and in the folder `in`."""
    monkeypatch.setattr(fetching, "PAUSES", (0.0,))
    system = fsspec.filesystem("memory")
    for tar in range(2):
        images = {f"{tar}{n}.png": encode(picture(seed=2 * tar + n), "PNG") for n in range(2)}
        path = write_tar(tmp_path / "in" / f"x-{tar}.tar", dict(images))
        system.pipe(f"/b/x-{tar}.tar", path.read_bytes())
    yield system
    system.store.clear()


def statuses(folder: BulkFolder) -> dict[str, str]:
    found = rows(folder.column("stylized-ink"))
    return {key: row["status"] for key, row in found.items()}


def fetched(folder: BulkFolder) -> list[Path]:
    return sorted((folder.path / CACHE).glob("*.tar"))


def test_the_same_bytes_as_of_local_tars(
    open_planned: Open, store: MemoryFileSystem, tmp_path: Path
) -> None:
    local, away = open_planned(content="in"), open_planned(content=URL)
    assert away.path.name == open_planned(content=URL).path.name != local.path.name
    for folder in (local, away):
        assert plan_bulk(folder) == 4
    store.rm("/b", recursive=True)  # no job asks for what is here
    for folder in (local, away):
        make(folder)
        assert verify_run(folder) == 4
    assert files(local.path) == files(away.path)
    assert len(fetched(away)) == 2


def test_tars_that_are_gone_are_fetched_again_or_fail_their_samples(
    open_planned: Open, store: MemoryFileSystem, tmp_path: Path
) -> None:
    folder = open_planned(content=URL, shard_size=4)
    plan_bulk(folder)
    planned = {path: path.read_bytes() for path in fetched(folder)}
    for path in planned:
        path.unlink()
    first = store.cat("/b/x-0.tar")
    store.pipe("/b/x-0.tar", first[:1000] + b"!" + first[1001:])
    make(folder)
    assert statuses(folder) == {"00": "changed", "01": "changed", "10": "ok", "11": "ok"}
    message = rows(folder.column("stylized-ink"))["00"]["message"]
    assert message == "00: x-0.tar: not the tar that was listed; it was changed since"
    store.pipe("/b/x-0.tar", first)
    asked = [str(tmp_path / "bulk.yaml"), "--out", str(tmp_path / "runs")]
    assert CliRunner().invoke(retry_failed, asked).exit_code == 0
    make(folder)
    assert statuses(folder) == dict.fromkeys(("00", "01", "10", "11"), "ok")
    assert {path: path.read_bytes() for path in fetched(folder)} == planned
    smooth = BulkFolder(folder.bulk, tmp_path / "smooth")
    plan_bulk(smooth)
    make(smooth)
    assert files(folder.path) == files(smooth.path)


def test_a_run_that_was_moved_finds_its_tars(
    open_planned: Open, store: MemoryFileSystem, tmp_path: Path
) -> None:
    folder = open_planned(content=URL)
    plan_bulk(folder)
    moved = BulkFolder(folder.bulk, tmp_path / "moved")
    folder.path.rename(moved.path)
    store.rm("/b/x-0.tar")
    make(moved, (), ("train-00000",))
    assert set(statuses(moved).values()) == {"ok"}
    fetched(moved)[1].unlink()
    make(moved)
    assert statuses(moved) == dict.fromkeys(("00", "01", "10", "11"), "ok")
    assert len(fetched(moved)) == 2


def test_shards_need_their_own_tars_alone(
    open_planned: Open, store: MemoryFileSystem, tmp_path: Path
) -> None:
    folder = open_planned(content=URL)
    plan_bulk(folder)
    for path in fetched(folder):
        path.unlink()
    store.rm("/b/x-1.tar")
    make(folder, (), ("train-00000",))
    assert len(fetched(folder)) == 1
    make(folder)
    assert statuses(folder) == {"00": "ok", "01": "ok", "10": "missing", "11": "missing"}
    assert verify_run(folder) == 4


def test_what_was_planned_stays_where_the_url_has_another(
    open_planned: Open, store: MemoryFileSystem
) -> None:
    folder = open_planned(content=URL)
    plan_bulk(folder)
    make(folder, (), ("train-00000",))
    first = store.cat("/b/x-0.tar")
    store.pipe("/b/x-0.tar", first[:1000] + b"!" + first[1001:])  # the same names and sizes
    with pytest.raises(PipelineError, match="made of 4 inputs, and what is there now, 4 inputs, "):
        plan_bulk(folder)
    make(folder)
    assert set(statuses(folder).values()) == {"ok"}


def test_tar_that_cannot_be_fetched_is_one_line_and_no_plan(
    open_planned: Open, store: MemoryFileSystem
) -> None:
    folder = open_planned(content="memory://b/x-{0..2}.tar")
    with pytest.raises(PipelineError, match=r"^x-2\.tar: not there; mend that and run the same"):
        plan_bulk(folder)
    assert not folder.plan_path.exists()
    store.pipe("/b/x-2.tar", store.cat("/b/x-1.tar")[:1024])  # as of this machine, from here on
    assert plan_bulk(folder) == 4 + 2
    make(folder)
    found = statuses(folder)
    assert found["x-2-tar"] == "archive_damaged"
    assert sorted(found.values()) == ["archive_damaged", *["ok"] * 4, "truncated"]


def test_command_line_takes_urls_and_commands(
    store: MemoryFileSystem, tmp_path: Path, tiny_model: Path
) -> None:
    (tmp_path / "ink.png").write_bytes(encode(picture(seed=99), "PNG"))
    given = ["--style", str(tmp_path / "ink.png"), "--model", str(tiny_model), "--views", "2"]
    given += ["--generator", "procedural", "--steps", "1", "--device", "cpu"]
    made = []
    command = f"pipe:cat {tmp_path}/in/x-{{0..1}}.tar"
    for name, content in (("local", str(tmp_path / "in")), ("away", URL), ("command", command)):
        out = tmp_path / name
        asked = ["--content", content, "--out", str(out), *given]
        for _ in range(2):
            shown = CliRunner().invoke(stylize, asked)
            assert shown.exit_code == 0, shown.output
        made.append(files(out))
    assert made[0] == made[1] == made[2]
    assert len(made[0]) == 2
