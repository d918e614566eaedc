"""Portraits brought to the model's crop: what is made, what is recorded, what fails."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from manifests.bulk import Align
from manifests.digests import digest_file
from pipeline.errors import PipelineError
from pipeline.inputs.alignment import TEMPLATE
from pipeline.inputs.contents import load_recorded
from pipeline.shards.reader import read_clip
from pipeline.shards.records import read_records
from pipeline.stages.bulk import open_bulk
from pipeline.stages.verify import verify_folder
from tests.pipeline.inputs.yunet import write_seer
from tests.pipeline.odd_images import encode, picture
from tests.pipeline.stages.test_bulk import Ask, make, rows, samples, write_identity

CPU = torch.device("cpu")
FACE = 40 * TEMPLATE + [20, 5]  # of a picture of 80 x 60 pixels


def write_faces(folder: Path, **faces: np.ndarray | None) -> Path:
    """Portraits with landmarks, but for those that are None."""
    folder.mkdir()
    for seed, (name, points) in enumerate(faces.items()):
        (folder / f"{name}.png").write_bytes(encode(picture(80, 60, seed=seed), "PNG"))
        if points is not None:
            (folder / f"{name}.landmarks.json").write_text(json.dumps(points.tolist()))
    return folder


def test_portraits_are_aligned_and_their_transform_is_kept(ask: Ask, tmp_path: Path) -> None:
    folder = write_faces(tmp_path / "in", a=FACE, b=FACE - [10, 2])
    write_identity(folder / "anna", seed=7)
    [plain] = make(ask(folder), tmp_path / "plain").values()
    [column] = make(ask(folder, align=Align()), tmp_path / "out").values()
    for key in ("a", "b"):
        [file] = column.read(key, ["json"])["json"]["files"]
        said = file["alignment"]
        assert (said["source"]["kind"], said["size"]) == ("sidecar", 32)
        matrix, points = np.array(said["matrix"]), np.array(said["landmarks"])
        landed = points @ matrix[:, :2].T + matrix[:, 2]
        np.testing.assert_allclose(landed, 32 * TEMPLATE, atol=1e-4)
        assert (read_clip(column, key, range(2)) != read_clip(plain, key, range(2))).any()
    assert samples(column)["anna"] == samples(plain)["anna"]
    _, commit = read_records(column.folder / "train-00000.parquet")
    said = commit.provenance["request"]["align"]
    np.testing.assert_allclose(said["template"], TEMPLATE, atol=1e-6)
    assert (said["smallest_face"], said["detector"]) == (0.25, None)
    assert verify_folder(column.folder) == 3
    with pytest.raises(PipelineError, match=r"its align\.smallest_face differs"):
        open_bulk(ask(folder, align=Align(smallest_face=0.5)), tmp_path / "out", CPU)


def test_an_aligned_portrait_is_stylized_as_its_crop_is(ask: Ask, tmp_path: Path) -> None:
    """The crop, cut beforehand with the same pixels, makes the same views."""
    folder = write_faces(tmp_path / "in", a=FACE)
    [aligned] = make(ask(folder, align=Align()), tmp_path / "aligned").values()
    meta = aligned.read("a", ["json"])["json"]
    [job] = next(iter(open_bulk(ask(folder, align=Align()), tmp_path / "x", CPU).columns.values()))[
        "train-00000"
    ]
    [front] = load_recorded(job.content, 32, meta["files"]).views
    cut = tmp_path / "cut"
    cut.mkdir()
    Image.fromarray(front).save(cut / "a.png")
    [plain] = make(ask(cut), tmp_path / "plain").values()
    np.testing.assert_array_equal(
        read_clip(aligned, "a", range(2)), read_clip(plain, "a", range(2))
    )


def test_without_align_landmarks_change_no_byte(ask: Ask, tmp_path: Path) -> None:
    folder = write_faces(tmp_path / "in", a=None, b=None)
    make(ask(folder), tmp_path / "before")
    for name in ("a", "b"):
        (folder / f"{name}.landmarks.json").write_text(json.dumps(FACE.tolist()))
    make(ask(folder), tmp_path / "after")
    for name in ("stylize.json", "stylized-ink/train-00000.tar", "stylized-ink/train-00000.idx"):
        before, after = (tmp_path / made / name for made in ("before", "after"))
        assert before.read_bytes() == after.read_bytes()
    assert "align" not in json.loads((tmp_path / "after" / "stylize.json").read_text())
    _, commit = read_records(tmp_path / "after" / "stylized-ink" / "train-00000.parquet")
    assert "align" not in commit.provenance["request"]


def test_portraits_that_cannot_be_aligned_are_failed_rows(ask: Ask, tmp_path: Path) -> None:
    profile = FACE.copy()
    profile[2, 0] = FACE[1, 0] + 4
    folder = write_faces(
        tmp_path / "in",
        good=FACE, none=None, profile=profile, cut=FACE - [0, 20], small=FACE / 9,
        swapped=FACE[[1, 0, 2, 3, 4]],
    )  # fmt: skip
    (folder / "text.png").write_bytes(b"This is no image.")
    make(ask(folder, align=Align()), tmp_path / "out")
    found = rows(tmp_path / "out" / "stylized-ink")
    assert {key: row["status"] for key, row in found.items()} == {
        "cut": "face_cut_off", "good": "ok", "none": "no_landmarks", "profile": "profile",
        "small": "face_too_small", "swapped": "bad_landmarks", "text": "not_an_image",
    }  # fmt: skip
    assert found["none"]["message"].startswith("none.png: no landmarks to align it by")
    assert verify_folder(tmp_path / "out" / "stylized-ink") == 7


def test_a_detector_and_a_table_give_landmarks(ask: Ask, tmp_path: Path) -> None:
    folder = write_faces(tmp_path / "in", a=None)
    Image.new("RGB", (80, 60), (60, 200, 200)).save(folder / "a.png")
    pixels = np.zeros((480, 640, 3), np.uint8)
    pixels[256:288, 320:352, 0] = 255
    Image.fromarray(pixels).save(folder / "red.png")
    detector = write_seer(tmp_path / "yunet.onnx")
    (tmp_path / "jobs.csv").write_text(
        "content,style,landmarks\n"
        f'a,ink.png,"{json.dumps(FACE.tolist())}"\na,ink.png,\nred,ink.png,\n'
    )
    table = tmp_path / "jobs.csv"
    request = ask(folder, styles={}, table=table, align=Align(detector=detector))
    [column] = make(request, tmp_path / "out").values()
    statuses = [row["status"] for row in rows(tmp_path / "out" / "stylized").values()]
    assert statuses == ["ok", "no_face", "ok"]
    kinds = {
        key: column.read(key, ["json"])["json"]["files"][0]["alignment"]["source"]
        for key in column.keys
    }
    assert kinds["row-00000000"] == {"kind": "table"}
    assert (kinds["row-00000002"]["kind"], kinds["row-00000002"]["faces"]) == ("detector", 1)
    assert kinds["row-00000002"]["sha256"] == digest_file(detector)
    said = json.loads((tmp_path / "out" / "stylize.json").read_text())
    assert said["align"]["detector"] == {"name": "yunet.onnx", "sha256": digest_file(detector)}


def test_what_cannot_align_leaves_nothing(ask: Ask, tmp_path: Path) -> None:
    folder, out = write_faces(tmp_path / "in", a=FACE), tmp_path / "out"
    (tmp_path / "crop.json").write_text("{}")
    for align, told in [
        (Align(template=tmp_path / "crop.json"), "crop.json: no template of five points: no key"),
        (Align(template=tmp_path / "none.json"), "none.json: No such file"),
        (Align(detector=tmp_path / "crop.json"), "crop.json: not a readable ONNX file"),
    ]:
        with pytest.raises(PipelineError, match=told):
            open_bulk(ask(folder, align=align), out, CPU)
    assert not out.exists()
