import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.inputs.listing import is_folder_of_images, list_content, list_one
from pipeline.inputs.sources import Input, fingerprint
from tests.pipeline.inputs.test_archives import write_tar


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


def test_every_image_at_any_depth_may_be_a_portrait(tmp_path: Path) -> None:
    """As FFHQ's folders of a thousand, with what lies about there."""
    touch(tmp_path, "01000/01000.png", "00000/00010.png", "00000/00009.png", "face.jpg")
    touch(tmp_path, "00000/9.png", "a/b/c/deep.webp", "a/b/c/deep.back.webp", "photo.png/x.png")
    touch(tmp_path, "LICENSE.txt", "00000/list.json", ".git/x.png", "00000/.x.png", "empty/y.txt")
    (tmp_path / "a/again").symlink_to(tmp_path / "a")
    (tmp_path / "01000/self.png").symlink_to("self.png")
    (tmp_path / "twice").symlink_to(tmp_path / "01000")
    inputs = list_content(str(tmp_path), portraits=True)
    assert {one.key: one.name for one in inputs} == {
        "00000-9": "00000/9.png",
        "00000-00009": "00000/00009.png",
        "00000-00010": "00000/00010.png",
        "01000-01000": "01000/01000.png",
        "01000-self": "01000/self.png",
        "a-b-c-deep": "a/b/c/deep.webp",
        "face": "face.jpg",
        "photo-png-x": "photo.png/x.png",
    }
    assert not any(one.is_multiview or one.problem for one in inputs)
    [deep] = [one for one in inputs if one.back]
    assert deep.views[0].path == tmp_path / "a/b/c/deep.webp"
    assert deep.back is not None
    assert deep.back.name == "a/b/c/deep.back.webp"
    assert fingerprint(inputs) != fingerprint(list_content(str(tmp_path)))


def test_folder_below_that_cannot_be_read_is_a_failed_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/1.png", "b/2.png")
    scandir = os.scandir

    def refuse(folder: Path) -> Any:
        if folder.name in ("a", "locked"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    first, second = list_content(str(tmp_path), portraits=True)
    assert (first.key, first.problem) == (
        "a",
        ("unreadable", "a: cannot be read: Permission denied"),
    )
    assert second.key == "b-2"
    (tmp_path / "locked").mkdir()
    with pytest.raises(PermissionError):
        list_content(str(tmp_path / "locked"), portraits=True)


def test_portraits_are_asked_of_a_folder_of_images(tmp_path: Path) -> None:
    write_tar(tmp_path / "tars" / "x.tar", {"a.png": b""})
    touch(tmp_path, "a.png", "notes/a.txt")
    for content in ("tars", "tars/x.tar", "tars/*.tar", "a.png", "none"):
        assert not is_folder_of_images(str(tmp_path / content))
        with pytest.raises(PipelineError, match="--portraits takes a folder of images"):
            list_content(str(tmp_path / content), portraits=True)
    with pytest.raises(PipelineError, match="notes: no images below it"):
        list_content(str(tmp_path / "notes"), portraits=True)


def test_no_path_is_no_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty name, as of a variable that is not set, is not the folder one is in."""
    monkeypatch.chdir(touch(tmp_path, "a.png"))
    with pytest.raises(PipelineError, match="'': no images there"):
        list_content("")
    with pytest.raises(PipelineError, match="'': --portraits takes a folder"):
        list_content("", portraits=True)
    assert len(list_content(".")) == 1


def test_tars_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for folder in ("b", "a", "c10", "c9"):
        write_tar(tmp_path / folder / "0.tar", {"face.png": b""})
    inputs = list_content(f"{tmp_path}/*/*.tar")
    assert [one.origin for one in inputs] == [
        "a/0.tar: face", "b/0.tar: face", "c9/0.tar: face", "c10/0.tar: face"
    ]  # fmt: skip
    keys = {one.origin: one.key for one in inputs}
    assert len(set(keys.values())) == 4
    assert not any(key.endswith("-2") for key in keys.values())  # no number: not by their order


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
    kind, told = found["many"].problem or ("", "")
    assert kind == "too_many_views"
    assert told.endswith(
        "721 images, an identity has 720 views at most; if each is a portrait, add --portraits"
    )


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
