"""Bulk manifests: told from those of runs, one line for every slip, a name by what they ask for."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from manifests import BulkManifest, ManifestError, RunManifest, load_manifest, load_run
from manifests.bulk import Align
from manifests.loading import _is_bulk
from tests.conftest import TINY

Write = Callable[..., Path]
BULK: dict[str, Any] = {"name": "inked", "content": "in", "styles": {"ink": "ink.png"}}


@pytest.fixture
def write(tmp_path: Path, tiny_model: Path) -> Write:
    """Writes a bulk manifest with some keys replaced; its style images and model are there."""
    for name in ("ink.png", "Oil on Canvas.jpg"):
        (tmp_path / name).write_bytes(name.encode())

    def build(changes: dict[str, Any] | None = None, name: str = "bulk.yaml") -> Path:
        content = copy.deepcopy(BULK) | {"model": str(tiny_model)} | (changes or {})
        path = tmp_path / name
        given = {key: value for key, value in content.items() if value is not None}
        path.write_text(yaml.safe_dump(given, sort_keys=False))
        return path

    return build


def load(path: Path) -> BulkManifest:
    bulk = load_manifest(path)
    assert isinstance(bulk, BulkManifest)
    return bulk


def complaint(path: Path) -> str:
    with pytest.raises(ManifestError) as caught:
        load_manifest(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_paths_are_taken_from_the_manifests_folder(write: Write, tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text("content,style\n")
    bulk = load(write())
    assert bulk.content == str(tmp_path / "in")
    assert bulk.styles == {"ink": tmp_path / "ink.png"}
    assert load(write({"content": "*.tar"})).content == str(tmp_path / "*.tar")
    assert load(write({"content": "/abs/in"})).content == "/abs/in"
    table = load(write({"content": None, "styles": None, "table": "jobs.csv"})).table
    assert table == tmp_path / "jobs.csv"


def test_listed_styles_are_called_after_their_files(write: Write, tmp_path: Path) -> None:
    bulk = load(write({"styles": ["ink.png", "Oil on Canvas.jpg"]}))
    assert list(bulk.styles) == ["ink", "oil-on-canvas"]
    assert bulk.styles["oil-on-canvas"] == tmp_path / "Oil on Canvas.jpg"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"contnet": "x"}, "contnet: unknown key; did you mean 'content'?"),
        ({"sampling": {"stepz": 3}}, "sampling.stepz: unknown key; did you mean 'steps'?"),
        ({"sampling": {"steps": 501}}, "sampling.steps: must be less than or equal to 500"),
        ({"sampling": {"eta": 0.5, "sampler": "unipc"}}, "sampling: eta: 0.5 is of ddim alone"),
        ({"sampling": {"temperature": float("nan")}}, "sampling.temperature: must be a finite"),
        ({"name": None}, "name: missing, and it has no default"),
        ({"name": "In ked"}, "name: 'In ked': use up to 64 of a-z"),
        ({"content": None}, "content: missing; what is to be stylized?"),
        ({"content": ""}, "content: "),
        ({"styles": None}, "styles: missing; give style images, or a table"),
        ({"styles": {}}, "styles: missing; give style images, or a table"),
        ({"styles": "ink.png"}, "styles: must be a valid dictionary"),
        ({"styles": {"a.b": "ink.png"}}, "styles.a.b: 'a.b': use up to 64 of a-z"),
        ({"styles": {"ink": "none.png"}}, "styles.ink: no such file: "),
        ({"styles": ["ink.png", "Ink.jpg"]}, "styles: two files are called 'ink'; name them"),
        ({"styles": [3]}, "styles: 3 is not the name of a file"),
        ({"table": "jobs.csv"}, "styles: the table names them; leave one out"),
        ({"table": "none.csv", "styles": None}, "table: no such file: "),
        ({"table": "t", "styles": None, "content": None, "portraits": True}, "portraits: goes"),
        ({"model": "nowhere"}, "model: no config.json in "),
        ({"generator": "none.pkl"}, "generator: no such file: "),
        ({"hint": "camra"}, "hint: must be 'auto', 'content' or 'camera', not \"camra\""),
        ({"views": 1}, "views: must be greater than or equal to 2, not 1"),
        ({"shard_size": 0}, "shard_size: must be greater than or equal to 1"),
        ({"allow_failed": 2.0}, "allow_failed: must be less than or equal to 1"),
        ({"rig": {"kind": "orbit"}}, "rig: unknown key; "),
        ({"align": {"detektor": "x"}}, "align.detektor: unknown key; did you mean 'detector'?"),
        ({"align": {"detector": "x.onnx"}}, "align.detector: no such file: "),
        ({"align": {"template": "x.json"}}, "align.template: no such file: "),
        ({"align": {"smallest_face": -1.0}}, "align.smallest_face: must be greater than or equal"),
        ({"align": "yes"}, "align: must be a mapping of template, detector, smallest_face"),
    ],
)
def test_wrong_value_is_named(write: Write, changes: dict[str, Any], expected: str) -> None:
    assert complaint(write(changes)).startswith(expected)


def test_kinds_are_told_apart(write: Write, write_manifest: Write) -> None:
    assert isinstance(load_manifest(write_manifest()), RunManifest)
    with pytest.raises(ManifestError, match=r"bulk.yaml: a bulk manifest, for plan, stylize"):
        load_run(write())
    foreign = write_manifest({"content": "in"})
    assert complaint(foreign).startswith("content: unknown key; known here: name, seed, generator")


KEYS = st.sampled_from([*BulkManifest.model_fields, *RunManifest.model_fields])
CONTENT = st.dictionaries(KEYS | st.integers() | st.text(max_size=9), st.none(), max_size=9)


@given(CONTENT)
def test_any_keys_are_of_one_kind(content: dict[Any, None]) -> None:
    """And those of a whole manifest weigh more than one of the other kind among them."""
    _is_bulk(content)
    one = dict(list(content.items())[:1])
    assert not _is_bulk(TINY | one)
    assert _is_bulk({"content": "in", "styles": {}, "model": "", "views": 2} | one)


def test_a_letter_that_is_missing_does_not_change_the_kind(write: Write) -> None:
    for key in ("content", "model"):
        path = write({key: None, key[:-1]: "x"})
        assert complaint(path).startswith(f"{key[:-1]}: unknown key; did you mean {key!r}?")


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"content": "other"},
        {"portraits": True},
        {"sampling": {"steps": 3}},
        {"shard_size": 3},
        {"generator": "procedural"},
        {"styles": {"ink": "Oil on Canvas.jpg"}},
        {"styles": {"pen": "ink.png"}},
    ],
)
def test_all_that_decides_the_data_names_the_folder(write: Write, changes: dict[str, Any]) -> None:
    assert load(write(changes)).digest() != load(write()).digest()


def test_what_is_not_aligned_is_called_as_before(write: Write) -> None:
    plain = load(write())
    for off in ({"align": False}, {"align": None}):
        assert load(write(off)).digest() == plain.digest()
    for mode in ("python", "json"):
        assert "align" not in plain.model_dump(mode=mode)
    on = load(write({"align": True}))
    assert on.digest() != plain.digest()
    assert on.align == Align()
    assert load(write({"align": {}})).digest() == on.digest()
    assert on.model_dump(mode="json")["align"]["smallest_face"] == 0.25


def test_files_that_align_count_by_what_is_in_them(write: Write, tmp_path: Path) -> None:
    for name in ("crop.json", "yunet.onnx", "other.onnx"):
        (tmp_path / name).write_bytes(name.encode())
    given = {"template": "crop.json", "detector": "yunet.onnx", "smallest_face": 0.5}
    bulk = load(write({"align": given}))
    assert bulk.align is not None
    assert bulk.align.detector == tmp_path / "yunet.onnx"
    digest = bulk.digest()
    digests = {digest, load(write({"align": True})).digest()}
    for change in ({"template": None}, {"detector": "other.onnx"}, {"smallest_face": 0.6}):
        digests.add(load(write({"align": given | change})).digest())
    (tmp_path / "crop.json").write_bytes(b"another")
    digests.add(load(write({"align": given})).digest())
    assert len(digests) == 6
    (tmp_path / "crop.json").rename(tmp_path / "moved.json")
    (tmp_path / "moved.json").write_bytes(b"crop.json")
    assert load(write({"align": given | {"template": "moved.json"}})).digest() == digest


def test_what_decides_no_data_does_not(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write()
    digest = load(path).digest()
    assert load(write({"name": "other", "allow_failed": 0.5})).digest() == digest
    assert load(write({"content": "./x/../in"})).digest() == digest
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.png").touch()
    assert load(write({"styles": ["ink.png"]})).digest() == digest
    monkeypatch.chdir(tmp_path)
    write()
    assert load(Path("bulk.yaml")).digest() == digest
    assert load(path).folder_name() == f"inked-{digest[:10]}"


def test_files_count_by_what_is_in_them(write: Write, tmp_path: Path) -> None:
    path = write()
    digest = load(path).digest()
    (tmp_path / "ink.png").write_bytes(b"another")
    assert load(path).digest() != digest
    (tmp_path / "jobs.csv").write_text("content,style\na,b\n")
    table = write({"content": None, "styles": None, "table": "jobs.csv"})
    digest = load(table).digest()
    (tmp_path / "jobs.csv").write_text("content,style\na,c\n")
    assert load(table).digest() != digest


def test_content_that_changed_after_the_plan_is_noticed(write: Write, tmp_path: Path) -> None:
    bulk, plan = load(write()), tmp_path / "plan.parquet"
    assert not bulk.is_newer_than(plan)
    plan.touch()
    os.utime(plan, (1000, 1000))
    assert not bulk.is_newer_than(plan)  # the content may be gone
    (tmp_path / "in").mkdir()
    assert bulk.is_newer_than(plan)
    os.utime(tmp_path / "in", (999, 999))
    assert not bulk.is_newer_than(plan)


def test_the_package_has_the_default_model(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    monkeypatch.setattr("manifests.shipped.stylizer_folder", lambda: tiny_model)
    assert load(write({"model": None})).model == tiny_model
