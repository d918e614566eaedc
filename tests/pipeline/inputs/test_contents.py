import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.images import ImageFailure
from pipeline.inputs.archives import list_archive
from pipeline.inputs.contents import load_content, read_cameras, read_source
from pipeline.inputs.listing import list_content
from pipeline.inputs.sources import Input, Source
from pipeline.shards.reader import Column, read_clip
from pipeline.shards.writer import ShardWriter
from tests.pipeline.inputs.test_archives import write_tar
from tests.pipeline.odd_images import encode, picture, turned

PNG = encode(picture(), "PNG")


def write_images(folder: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode(picture(seed=seed), "PNG"))
    return folder


def test_images_become_squares_of_the_size_asked(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "a.back.png", "anna/1.png", "anna/2.png", "anna/3.png")
    portrait, anna = (load_content(one, 16) for one in list_content(str(tmp_path)))
    assert portrait.views.shape == (1, 16, 16, 3)
    assert portrait.back is not None
    assert portrait.back.shape == (16, 16, 3)
    assert [file["name"] for file in portrait.files] == ["a.png", "a.back.png"]
    assert anna.views.shape == (3, 16, 16, 3)
    assert (anna.back, anna.cameras) == (None, None)
    assert [file["name"] for file in anna.files] == ["anna/1.png", "anna/2.png", "anna/3.png"]


def test_one_bad_view_fails_the_identity(tmp_path: Path) -> None:
    write_images(tmp_path, "anna/1.png", "anna/2.png", "anna/3.png")
    (tmp_path / "anna/2.png").write_bytes(PNG[:99])
    [anna] = list_content(str(tmp_path))
    with pytest.raises(ImageFailure, match=r"anna/2.png: the file is cut off") as caught:
        load_content(anna, 16)
    assert caught.value.kind == "truncated"


def test_problem_of_the_listing_is_that_of_the_loading() -> None:
    with pytest.raises(ImageFailure, match="so it is") as caught:
        load_content(Input("a", "a", problem=("no_image", "so it is")), 16)
    assert caught.value.kind == "no_image"


def test_sample_of_ours_is_read_as_it_is(rendered_column: Path) -> None:
    first, *_ = list_content(str(rendered_column))
    content = load_content(first, 16)
    column = Column(rendered_column)
    np.testing.assert_array_equal(content.views, read_clip(column, first.key, range(4)))
    assert content.cameras == column.read(first.key, ["json"])["json"]["views"]
    [file] = content.files
    assert file["name"] == f"render/{first.shard}.tar: {first.key}"
    assert len(file["sha256"]) == 64


def test_changed_sample_of_ours_is_a_failure(rendered_column: Path) -> None:
    first, *_ = list_content(str(rendered_column))
    other = Input(**vars(first) | {"key": "train-00000009"})
    with pytest.raises(ImageFailure, match="no sample train-00000009") as caught:
        load_content(other, 16)
    assert caught.value.kind == "content_unreadable"


def test_what_is_not_what_was_listed_has_changed(rendered_column: Path, tmp_path: Path) -> None:
    """A plan may be older than what is there."""
    write_images(tmp_path, "a.png", "gone.png")
    image, gone = list_content(str(tmp_path))
    (tmp_path / "a.png").write_bytes(PNG + b"more")
    (tmp_path / "gone.png").unlink()
    sample = Input(**vars(list_content(str(rendered_column))[0]) | {"sha256": "0" * 64})
    for one, kind, told in (
        (image, "changed", "when it was listed; it was changed since"),
        (gone, "missing", "gone.png: No such file"),
        (sample, "changed", "not the sample that was listed; its shard was made anew since"),
    ):
        with pytest.raises(ImageFailure) as caught:
            load_content(one, 16)
        assert caught.value.kind == kind
        assert told in str(caught.value)
    unknown = Source(tmp_path / "a.png", "a.png", -1)
    assert read_source(unknown) == PNG + b"more"


@pytest.mark.parametrize(
    ("sizes", "mode", "told"),
    [((32, 16), "RGB", "same shape"), ((32, 32), "L", "its views have no colours")],
)
def test_column_of_other_images_is_a_failure(
    tmp_path: Path, sizes: tuple[int, int], mode: str, told: str
) -> None:
    """Whole as a column, and yet no views that could be stylized."""
    members = {
        f"view_{index:02d}.rgb.png": encode(Image.new(mode, (size, size)), "PNG")
        for index, size in enumerate(sizes)
    }
    with ShardWriter(tmp_path, "train-00000", {}) as writer:
        writer.add("a", members | {"json": b'{"views":[{},{}]}'}, seed=1, split="train", seconds=0)
    [one] = list_content(str(tmp_path))
    with pytest.raises(ImageFailure, match=told) as caught:
        load_content(one, 16)
    assert caught.value.kind == "content_unreadable"


def test_tars_of_ours_alone_keep_their_cameras(rendered_column: Path, tmp_path: Path) -> None:
    copied = tmp_path / "alone.tar"
    copied.write_bytes((rendered_column / "train-00000.tar").read_bytes())
    foreign = list_content(str(copied))
    assert [one.key for one in foreign] == ["train-00000000", "train-00000001"]
    [ours] = [one for one in list_content(str(rendered_column)) if one.key == foreign[1].key]
    assert (ours.column, foreign[1].column) == (rendered_column, None)
    found, known = load_content(foreign[1], 32), load_content(ours, 32)
    np.testing.assert_array_equal(found.views, known.views)
    assert found.cameras == known.cameras


@pytest.mark.parametrize("spoilt", ["cropped", "turned", "another number", "no JSON", "no cameras"])
def test_cameras_of_other_images_are_not_believed(
    rendered_column: Path, tmp_path: Path, spoilt: str
) -> None:
    with tarfile.open(rendered_column / "test-00000.tar") as tar:
        data = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    names = [name for name in data if ".rgb." in name]
    [meta] = [name for name in data if name.endswith("json")]
    match spoilt:
        case "cropped":
            data[names[1]] = PNG
        case "turned":
            data[names[0]] = turned(3, "PNG")
        case "another number":
            del data[names[0]]
        case "no JSON":
            data[meta] = b"[" * 10**5
        case "no cameras":
            data[meta] = json.dumps({"views": [{"name": "view_00"}] * 4}).encode()
    [one] = list_archive(write_tar(tmp_path / "x.tar", dict(data)), "x.tar")
    assert load_content(one, 32).cameras is None


def test_cameras_are_cameras_or_none(rendered_column: Path) -> None:
    first, *_ = list_content(str(rendered_column))
    views = Column(rendered_column).read(first.key, ["json"])["json"]["views"]
    assert read_cameras({"views": views}, 4) == views
    for odd in (None, [], {}, {"views": None}, {"views": views[:3]}, {"views": [1, 2, 3, 4]}):
        assert read_cameras(odd, 4) is None
    mirrored = json.loads(json.dumps(views))
    mirrored[2]["label"][0] *= -1
    assert read_cameras({"views": mirrored}, 4) is None


def test_members_are_read_where_they_lie(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a.png": PNG})
    [one] = list_archive(path, "x.tar")
    assert read_source(one.views[0]) == PNG
    with pytest.raises(ImageFailure, match="more than 512 MiB"):
        read_source(one.views[0]._replace(size=1 << 40))
    with pytest.raises(ImageFailure, match="cannot be read: No such file") as caught:
        read_source(Source(tmp_path / "none.tar", "none.tar: a.png", 9, 0))
    assert caught.value.kind == "unreadable"
