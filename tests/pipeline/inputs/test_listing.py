import os
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.inputs.listing import list_content, list_one
from pipeline.inputs.sources import Input, fingerprint


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def by_name(folder: Path) -> dict[str, Input]:
    return {one.name: one for one in list_content(str(folder))}


def shown(one: Input) -> list[str]:
    return [view.name for view in one.views]


def test_files_are_portraits_and_folders_identities(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a10.JPG", "a9.webp", "anna/10.png", "anna/9.png", "bert/only.png")
    touch(tmp_path, ".hidden.png", "Thumbs.db", "empty/notes.txt", "deep/er/a.png", ".git/x.png")
    found = by_name(tmp_path)
    assert list(found) == ["a9.webp", "a10.JPG", "anna", "b.png", "bert"]
    assert shown(found["anna"]) == ["anna/9.png", "anna/10.png"]
    assert [one.is_multiview for one in found.values()] == [False, False, True, False, False]
    assert [one.key for one in found.values()] == ["a9", "a10", "anna", "b", "bert"]


def test_every_file_is_an_input_but_what_goes_with_an_image(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "a.json", "a.caption.txt", "notes.txt", "b.back.png")
    assert list(by_name(tmp_path)) == ["a.png", "b.back.png", "notes.txt"]


def test_back_views_go_with_their_portraits(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "a.back.jpg", "anna/01.png", "anna/02.png", "anna/back.png")
    touch(tmp_path, "bert/front.png", "bert/x_back.png")
    found = by_name(tmp_path)
    assert {n: one.back and one.back.name for n, one in found.items()} == {
        "a.png": "a.back.jpg",
        "anna": "anna/back.png",
        "bert": "bert/x_back.png",
    }
    assert shown(found["anna"]) == ["anna/01.png", "anna/02.png"]
    assert not found["bert"].is_multiview


def test_what_is_no_image_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    touch(tmp_path, *(f"many/{number}.png" for number in range(721)))
    found = by_name(tmp_path)
    assert found["a.png"].problem == ("not_a_file", "a.png: a folder, not a file")
    assert found["many"].problem is not None
    assert found["many"].problem[0] == "too_many_views"


def test_names_that_are_no_text_are_kept_apart(tmp_path: Path) -> None:
    for name in (b"a\xff.png", b"a\xfe.png", "ä.png".encode(), b"a\x1b[2J.png"):
        with open(os.fsencode(tmp_path) + b"/" + name, "wb"):
            pass
    inputs = list_content(str(tmp_path))
    assert len({one.key for one in inputs}) == 4
    assert all(one.name.isprintable() for one in inputs)
    assert len(fingerprint(inputs)) == 64


def test_one_image_is_a_content_too(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "a.back.png")
    [one] = list_content(str(tmp_path / "a.png"))
    assert (one.key, one.back and one.back.name) == ("a", None)


@pytest.mark.parametrize("content", ["", "none", "none*.tar", "notes", "["])
def test_nothing_there_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(PipelineError, match=r"no images there, and no .tar of s"):
        list_content(str(tmp_path / content))


def test_one_of_a_table_may_be_missing(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.png", "x/a.back.jpg", "y/1.png", "y/2.png", "z/notes.txt")
    portrait = list_one(tmp_path / "x/a.png", "x/a.png")
    assert (portrait.key, portrait.name) == ("x-a-png", "x/a.png")
    assert portrait.back
    assert len(list_one(tmp_path / "y", "y").views) == 2
    assert list_one(tmp_path / "none.png", "none.png").views[0].size == -1
    empty = list_one(tmp_path / "z", "z")
    assert empty.problem == ("no_image", "z: no images in this folder")
