"""Lone portraits as their landmarks place them, wherever the landmarks are from."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.images import ImageFailure
from pipeline.inputs.alignment import TEMPLATE, Alignment, move
from pipeline.inputs.contents import load_content, load_recorded
from pipeline.inputs.detection import open_detector
from pipeline.inputs.listing import list_content
from pipeline.inputs.sources import Input
from tests.pipeline.inputs.test_archives import write_tar
from tests.pipeline.inputs.test_contents import write_images
from tests.pipeline.inputs.yunet import POINTS, write_seer
from tests.pipeline.odd_images import encode, picture, turned

ALIGNMENT = Alignment(TEMPLATE, 0.25)
FACE = 40 * TEMPLATE + [20, 5]  # of a picture of 80 x 60 pixels
SHIFTED = (20, 5, 60, 45)  # its crop


def write_portrait(folder: Path, name: str = "a.png", points: np.ndarray | None = FACE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(encode(picture(80, 60, seed=3), "PNG"))
    if points is not None:
        sidecar = folder / f"{name.rpartition('.')[0]}.landmarks.json"
        sidecar.write_text(json.dumps({"landmarks": points.tolist()}))
    return folder


def failed(one: Input, alignment: Alignment = ALIGNMENT) -> ImageFailure:
    with pytest.raises(ImageFailure) as caught:
        load_content(one, 16, alignment)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_portrait_goes_where_its_landmarks_say(tmp_path: Path) -> None:
    [one] = list_content(str(write_portrait(tmp_path)))
    content = load_content(one, 40, ALIGNMENT)
    expected = np.asarray(picture(80, 60, seed=3).crop(SHIFTED))
    np.testing.assert_array_equal(content.views[0], expected)
    [file] = content.files
    said = file["alignment"]
    sidecar = (tmp_path / "a.landmarks.json").read_bytes()
    assert said["source"] == {
        "kind": "sidecar",
        "name": "a.landmarks.json",
        "sha256": hashlib.sha256(sidecar).hexdigest(),
    }
    np.testing.assert_allclose(said["matrix"], [[1, 0, -20], [0, 1, -5]], atol=1e-9)
    assert (said["size"], said["filled"], said["landmarks"]) == (40, 0, FACE.tolist())
    assert "box" not in file
    small = load_content(one, 20, ALIGNMENT)
    np.testing.assert_allclose(small.files[0]["alignment"]["matrix"][0], [0.5, 0, -10], atol=1e-9)
    plain = load_content(one, 40)
    assert plain.files[0]["box"] == [10, 0, 70, 60]
    assert "alignment" not in plain.files[0]


def test_an_aligned_portrait_is_read_again_as_it_was(tmp_path: Path) -> None:
    [one] = list_content(str(write_portrait(tmp_path)))
    made = load_content(one, 32, ALIGNMENT)
    (tmp_path / "a.landmarks.json").unlink()
    files = json.loads(json.dumps(made.files))
    again = load_recorded(one, 32, files)
    np.testing.assert_array_equal(again.views, made.views)
    assert again.files == files
    larger = load_recorded(one, 40, files)
    expected = np.asarray(picture(80, 60, seed=3).crop(SHIFTED)).astype(int)
    assert np.abs(larger.views[0] - expected).max() <= 1
    plain = load_content(one, 32)
    np.testing.assert_array_equal(load_recorded(one, 32, plain.files).views, plain.views)


def test_landmarks_are_of_the_upright_image(tmp_path: Path) -> None:
    """Whatever orientation the pixels are stored in, the crop is the same."""
    upright = np.asarray(picture())
    points = 20 * TEMPLATE + [4, 2]
    for orientation in range(1, 9):
        (tmp_path / "a.png").write_bytes(turned(orientation, "PNG"))
        (tmp_path / "a.landmarks.json").write_text(json.dumps(points.tolist()))
        [one] = list_content(str(tmp_path))
        made = load_content(one, 20, ALIGNMENT)
        np.testing.assert_array_equal(made.views[0], upright[2:22, 4:24])
        assert made.files[0]["orientation"] == orientation


def test_a_back_view_and_identities_from_around_are_centred(tmp_path: Path) -> None:
    folder = write_portrait(tmp_path)
    write_images(folder, "a.back.png", "anna/1.png", "anna/2.png")
    (folder / "anna" / "1.landmarks.json").write_text(json.dumps(FACE.tolist()))
    portrait, anna = list_content(str(folder))
    made = load_content(portrait, 16, ALIGNMENT)
    assert made.back is not None
    np.testing.assert_array_equal(made.back, load_content(portrait, 16).back)
    assert ["alignment" in file for file in made.files] == [True, False]
    assert anna.landmarks is None
    np.testing.assert_array_equal(
        load_content(anna, 16, ALIGNMENT).views, load_content(anna, 16).views
    )


def test_column_of_ours_is_not_aligned(rendered_column: Path) -> None:
    first, *_ = list_content(str(rendered_column))
    np.testing.assert_array_equal(
        load_content(first, 16, ALIGNMENT).views, load_content(first, 16).views
    )


def test_landmarks_lie_beside_images_everywhere(tmp_path: Path) -> None:
    """In a folder, at any depth, beside a single file, alone in a folder, and in a tar."""
    write_portrait(tmp_path / "in", "a.b.png")
    write_portrait(tmp_path / "in" / "deep", "c.png")
    write_portrait(tmp_path / "in" / "deep", "d.png", points=None)
    (tmp_path / "in" / "deep" / "stray.landmarks.json").write_text("[]")
    sidecar = json.dumps(FACE.tolist()).encode()
    image = encode(picture(80, 60, seed=3), "PNG")
    tar = write_tar(
        tmp_path / "x.tar",
        {"e.png": image, "e.landmarks.json": sidecar, "f.png": image, "g.png": image,
         "g.1.png": image, "g.landmarks.json": sidecar},
    )  # fmt: skip
    write_portrait(tmp_path / "alone" / "h", "h.png")
    found = {
        one.name: one.landmarks and one.landmarks.name
        for one in [
            *list_content(str(tmp_path / "in"), portraits=True),
            *list_content(str(tmp_path / "in" / "a.b.png")),
            *list_content(str(tar)),
            *list_content(str(tmp_path / "alone")),
        ]
    }
    assert found == {
        "a.b.png": "a.b.landmarks.json",
        "deep/c.png": "deep/c.landmarks.json",
        "deep/d.png": None,
        "e": "x.tar: e.landmarks.json",
        "f": None,
        "g": None,
        "h": "h/h.landmarks.json",
    }
    e, *_ = list_content(str(tar))
    [c] = [one for one in list_content(str(tmp_path / "in" / "deep")) if one.name == "c.png"]
    np.testing.assert_array_equal(
        load_content(e, 40, ALIGNMENT).views, load_content(c, 40, ALIGNMENT).views
    )
    plain = write_portrait(tmp_path / "plain", "a.b.png")
    assert [one.name for one in list_content(str(plain))] == ["a.b.png"]  # no row of its own


def test_landmarks_of_a_table_come_first(tmp_path: Path) -> None:
    [one] = list_content(str(write_portrait(tmp_path, points=FACE - [5, 0])))
    given = replace(one, points=tuple(map(tuple, FACE.tolist())))
    made = load_content(given, 40, ALIGNMENT)
    assert made.files[0]["alignment"]["source"] == {"kind": "table"}
    np.testing.assert_allclose(made.files[0]["alignment"]["matrix"][0], [1, 0, -20], atol=1e-9)


def test_landmarks_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    [one] = list_content(str(write_portrait(tmp_path, points=None)))
    missing = failed(one)
    assert missing.kind == "no_landmarks"
    assert str(missing).startswith("a.png: no landmarks to align it by: no NAME.landmarks.json")
    sidecar = tmp_path / "a.landmarks.json"
    for text, kind, told in [
        ("{", "bad_landmarks", "a.landmarks.json: not readable as JSON"),
        ("[[1, 2]]", "bad_landmarks", "a.landmarks.json: wants a list of 5 or of 68 points"),
        ("", "bad_landmarks", "a.landmarks.json: not readable as JSON"),
        (json.dumps([[1, 2]] * 5), "bad_landmarks", "a.png: no landmarks of a face"),
        (
            json.dumps((FACE / 9).tolist()),
            "face_too_small",
            "a.png: the crop around the face has 4",
        ),
        (json.dumps((FACE - [35, 0]).tolist()), "face_cut_off", "a.png: the face is cut off"),
        (json.dumps((FACE + 1e300).tolist()), "bad_landmarks", "a.png: no landmarks of a face"),
        ("[" + " " * (1 << 20) + "]", "bad_landmarks", "a.landmarks.json: more than 1 MiB"),
    ]:
        sidecar.write_text(text)
        [one] = list_content(str(tmp_path))
        found = failed(one, Alignment(TEMPLATE, 0.5))
        assert (found.kind, str(found)[: len(told)]) == (kind, told)
    sidecar.write_text(json.dumps(FACE.tolist()))
    [one] = list_content(str(tmp_path))
    sidecar.write_text(json.dumps(FACE.tolist()) + "  ")
    assert failed(one).kind == "changed"
    sidecar.unlink()
    assert failed(one).kind == "missing"


def test_a_detector_finds_what_comes_without_landmarks(tmp_path: Path) -> None:
    detector = open_detector(write_seer(tmp_path / "yunet.onnx"))
    alignment = Alignment(TEMPLATE, 0.25, detector)
    pixels = np.zeros((640, 640, 3), np.uint8)
    pixels[256:288, 320:352, 0] = 255  # the face of a portrait
    pixels[0:32, 576:608, 0] = 255  # another, in a corner
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels[::-1, :, ::-1]).save(folder / "none.png")  # blue is no face here
    one, none = list_content(str(folder))
    points = POINTS * 32 + [320, 256]
    made = load_content(one, 64, alignment)
    said = made.files[0]["alignment"]
    np.testing.assert_allclose(said["landmarks"], points, atol=1e-3)
    assert said["source"]["score"] == pytest.approx(1)
    del said["source"]["score"]
    assert said["source"] == {
        "kind": "detector", "name": "yunet.onnx", "sha256": detector.sha256, "faces": 2
    }  # fmt: skip
    landed = move(points, np.array(said["matrix"]))
    assert np.abs(landed - 64 * TEMPLATE).max() < 64 * 0.1  # the planted face is not FFHQ's mean
    found = failed(none, alignment)
    assert (found.kind, str(found)) == ("no_face", "none.png: yunet.onnx finds no face in it")
    sidecar = folder / "none.landmarks.json"
    sidecar.write_text(json.dumps(points.tolist()))
    _, told = list_content(str(folder))
    assert load_content(told, 64, alignment).files[0]["alignment"]["source"]["kind"] == "sidecar"
