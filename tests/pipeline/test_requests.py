from pathlib import Path

import pytest

from manifests import ManifestError, load_run
from pipeline.errors import PipelineError
from pipeline.requests import claim_folder, open_request
from pipeline.shards.writer import ShardWriter


def content(**changes: object) -> dict:
    return {
        "generator": {"source": "procedural", "truncation_psi": None},
        "identities": {"train": "3,17"},
        "rig": {"kind": "orbit", "views": 4},
        "outputs": {"resolution": None},
    } | changes


def test_folder_keeps_a_manifest_that_says_the_same(tmp_path: Path) -> None:
    folder = open_request(content(), tmp_path / "out")
    assert folder.path == tmp_path / "out"
    assert load_run(tmp_path / "out" / "run.yaml") == folder.run
    assert open_request(content(), tmp_path / "out").run == folder.run


def test_files_are_named_as_seen_from_anywhere(
    tmp_path: Path, tiny_panohead: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_panohead.parent)
    asked = content(generator={"source": tiny_panohead.name})
    folder = open_request(asked, tmp_path / "out")
    assert folder.run.generator.source == str(tiny_panohead)
    monkeypatch.chdir("/")
    assert load_run(tmp_path / "out" / "run.yaml").digest() == folder.run.digest()


def test_cameras_file_is_named_as_seen_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rig.json").write_text('[{"azimuth": 10, "elevation": 0}]')
    monkeypatch.chdir(tmp_path)
    folder = open_request(content(rig={"kind": "explicit", "file": "rig.json"}), tmp_path / "out")
    monkeypatch.chdir("/")
    assert load_run(tmp_path / "out" / "run.yaml").digest() == folder.run.digest()


def test_another_rendering_is_not_mixed_in(tmp_path: Path) -> None:
    open_request(content(identities={"train": "4"}), tmp_path / "out")
    open_request(content(), tmp_path / "out")  # nothing was rendered yet: a slip may be mended
    (tmp_path / "out" / "render").mkdir()
    (tmp_path / "out" / "render" / "train-00000.parquet").touch()
    with pytest.raises(PipelineError, match=r"another rendering: its identities.train differs"):
        open_request(content(identities={"train": "4"}), tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(PipelineError, match="not empty"):
        open_request(content(), tmp_path / "other")


def test_difference_is_named_by_its_key(tmp_path: Path) -> None:
    path = tmp_path / "out" / "asked.json"
    claim_folder(path, '{"a": 1, "b": {"c": [2], "d": 3}}', "thing")
    (tmp_path / "out" / "column").mkdir()
    (tmp_path / "out" / "column" / "x.parquet").touch()
    for other, key in [
        ('{"a": 1, "b": {"c": [2], "d": 4}}', "b.d"),
        ('{"a": 1, "b": {"c": [3], "d": 3}}', "b.c"),
        ('{"a": 1, "b": 5}', "b"),
        ('{"a": 1, "b": {"c": [2], "d": 3, "e": 6}}', "b.e"),
        ('{"a": 1}', "b"),
    ]:
        with pytest.raises(PipelineError, match=f"another thing: its {key} differs; choose"):
            claim_folder(path, other, "thing")


def test_jobs_that_start_together_do_not_refuse_each_other(tmp_path: Path) -> None:
    (tmp_path / ".asked.json.host.7.tmp").touch()
    claim_folder(tmp_path / "asked.json", "{}", "thing")
    claim_folder(tmp_path / "asked.json", "{}", "thing")


def test_job_may_claim_and_go_on_while_another_of_its_request_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, is_file = tmp_path / "out" / "asked.json", Path.is_file

    def look_in_between(one: Path) -> bool:
        found = is_file(one)
        if one == path and not (path.parent / "column").exists():
            (path.parent / "column").mkdir(parents=True)
            path.write_text("{}")
        return found

    monkeypatch.setattr(Path, "is_file", look_in_between)
    claim_folder(path, "{}", "thing")
    assert path.read_text() == "{}"


def test_request_is_not_replaced_while_its_first_shard_is_made(tmp_path: Path) -> None:
    path = tmp_path / "out" / "asked.json"
    claim_folder(path, '{"a": 1}', "thing")
    with ShardWriter(tmp_path / "out" / "column", "train-00000", {}):
        with pytest.raises(PipelineError, match="another thing: its a differs; choose"):
            claim_folder(path, '{"a": 2}', "thing")
        claim_folder(path, '{"a": 1}', "thing")


def test_what_makes_no_run_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"command line: generator.source: no such file"):
        open_request(content(generator={"source": "nowhere.pkl"}), tmp_path / "out")
    with pytest.raises(ManifestError, match=r"command line: identities.train: .* seeds like"):
        open_request(content(identities={"train": "a-b"}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
