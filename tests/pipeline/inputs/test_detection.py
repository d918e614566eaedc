import hashlib
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.inputs.detection import Detector, Face, choose_face, find_faces, open_detector
from tests.pipeline.inputs.yunet import POINTS, SIDES, write_noise, write_seer
from tests.stylize.perceptual.networks import write_onnx


@pytest.fixture(scope="module")
def seer(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return open_detector(write_seer(tmp_path_factory.mktemp("seer") / "yunet.onnx"))


def draw(size: tuple[int, int], *marks: tuple[int, int, int], colour: int = 0) -> Image.Image:
    """A black picture with squares, left, top and side, of one colour's full tone."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for left, top, side in marks:
        pixels[top : top + side, left : left + side, colour] = 255
    return Image.fromarray(pixels)


def check(face: Face, corner: tuple[float, float], stride: float, within: float = 1e-3) -> None:
    """The face of a cell with this corner, in pixels of the picture."""
    sides = np.array(SIDES) * stride
    np.testing.assert_allclose(face.box[:2], corner - sides / 2, atol=within)
    np.testing.assert_allclose(face.box[2:], sides, atol=within)
    np.testing.assert_allclose(face.points, POINTS * stride + corner, atol=within)


def test_cells_become_faces_in_pixels(tmp_path: Path) -> None:
    """At every stride: rows by rows, red is the third channel, the score a root of a product."""
    for stride in (8, 16, 32):
        detector = open_detector(write_seer(tmp_path / f"{stride}.onnx", stride=stride))
        picture = draw((640, 480), (5 * stride, 3 * stride, stride))
        [face] = find_faces(detector, picture)
        check(face, (5 * stride, 3 * stride), stride)
        assert abs(face.score - 1) < 1e-6
        assert find_faces(detector, draw((640, 480), (0, 0, 99), colour=2)) == []  # blue
    dim = Image.fromarray(np.asarray(picture) // 2)
    assert find_faces(detector, dim) == []  # 127 of 255 is below the threshold
    [faint] = find_faces(detector, Image.fromarray(np.asarray(picture) // 4 * 3))
    assert abs(faint.score - 189 / 255) < 1e-3


@pytest.mark.parametrize("side", [640, "open", 320])
def test_larger_pictures_are_shrunk(tmp_path: Path, side: int | str) -> None:
    detector = open_detector(write_seer(tmp_path / "yunet.onnx", side))
    width = side if isinstance(side, int) else 640
    assert (detector.width, detector.height) == (width, width)
    factor = 1920 // width
    cell = 32 * factor
    [face] = find_faces(detector, draw((1920, 1200), (2 * cell, cell, cell)))
    check(face, (2 * cell, cell), cell)
    tall = draw((1200, 1920), (cell, 2 * cell, cell))
    check(find_faces(detector, tall)[0], (cell, 2 * cell), cell)


def test_a_face_too_large_is_found_in_half_the_size(tmp_path: Path) -> None:
    detector = open_detector(write_seer(tmp_path / "yunet.onnx", blind=True))
    [small] = find_faces(detector, draw((640, 640), (64, 64, 32)))
    check(small, (64, 64), 32)
    [large] = find_faces(detector, draw((640, 640), (64, 64, 96)))
    check(large, (64, 64), 64)  # a cell of 32 in the picture half as large
    assert find_faces(detector, draw((640, 640), (64, 64, 480))) == []


def test_overlapping_boxes_are_one_face(seer: Detector) -> None:
    one = draw((640, 640), (128, 128, 64))  # four cells
    [face] = find_faces(seer, one)
    check(face, (128, 128), 32)
    two = draw((640, 640), (128, 128, 32), (448, 448, 32))
    assert len(find_faces(seer, two)) == 2


def test_best_of_overlapping_is_kept(seer: Detector) -> None:
    pixels = np.zeros((640, 640, 3), np.uint8)
    pixels[128:160, 128:160, 0], pixels[128:160, 160:192, 0] = 200, 255
    [face] = find_faces(seer, Image.fromarray(pixels))
    check(face, (160, 128), 32)


def test_the_portrait_is_the_large_face_near_the_centre() -> None:
    def face(left: float, top: float, side: float) -> Face:
        return Face(np.array([left, top, side, side]), POINTS, 0.9)

    small, large, corner = face(300, 300, 40), face(100, 200, 200), face(560, 560, 80)
    assert choose_face([small, large, corner], 640, 640) is large
    assert choose_face([small, corner], 640, 640) is small
    assert choose_face([corner], 640, 640) is corner


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("spread", [0.01, 1.0, 1e4])
def test_random_weights_give_faces_of_finite_numbers(
    tmp_path: Path, seed: int, spread: float
) -> None:
    detector = open_detector(write_noise(tmp_path / "yunet.onnx", seed, spread))
    noise = np.random.default_rng(seed).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    faces = find_faces(detector, Image.fromarray(noise))
    for face in faces:
        assert np.isfinite([*face.box, *face.points.ravel(), face.score]).all()
    assert faces == sorted(faces, key=lambda face: -face.score)
    if faces:
        choose_face(faces, 400, 300)


def rename(path: Path, to: Path, names: dict[str, str]) -> Path:
    """The same network, some of its outputs called otherwise."""
    model = onnx.load(path)
    for part in (*model.graph.node, model.graph):
        for given in (part.input, part.output):
            for index, entry in enumerate(given):
                if isinstance(entry, str):
                    given[index] = names.get(entry, entry)
                else:
                    entry.name = names.get(entry.name, entry.name)
    onnx.save(model, to)
    return to


def test_files_that_are_not_yunet_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = write_seer(tmp_path / "yunet.onnx")
    opened = open_detector(good)
    assert opened.sha256 == hashlib.sha256(good.read_bytes()).hexdigest()
    (tmp_path / "garbage.onnx").write_bytes(b"\x80\x04cos\nsystem\n.")
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(good.read_bytes()[:-99])
    odd = write_seer(tmp_path / "odd.onnx", 36)  # no multiple of 32
    old = rename(good, tmp_path / "old.onnx", {"cls_8": "conf"})
    swapped = rename(good, tmp_path / "swapped.onnx", {"bbox_8": "kps_8", "kps_8": "bbox_8"})
    for path, told in [
        (tmp_path / "none.onnx", "No such file"),
        (tmp_path / "garbage.onnx", "not a readable ONNX file"),
        (cut, "not a readable ONNX file"),
        (old, "not YuNet of 2023 or later"),
        (swapped, r"fails on a blank image \(cannot reshape"),
        (write_onnx(tmp_path / "arcface.onnx"), "not YuNet of 2023 or later"),
        (odd, "not YuNet of 2023 or later"),
    ]:
        with pytest.raises(PipelineError, match=told) as caught:
            open_detector(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PipelineError, match=r"pip install 'diffstyle360\[perceptual\]'"):
        open_detector(good)
