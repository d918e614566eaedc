import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.images import ImageFailure
from pipeline.inputs.archives import list_archive
from pipeline.inputs.contents import read_source
from pipeline.inputs.listing import list_content


def write_tar(path: Path, members: dict[str, bytes | str], **options: int) -> Path:
    """A tar of files, and of links where the content is text."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def tar_of(folder: Path, index: int) -> bytes:
    """The bytes of a tar of one image; made in a folder and removed again."""
    path = write_tar(folder / "made.tar", {f"a{index}.png": b"image %d" % index})
    data = path.read_bytes()
    path.unlink()
    return data


SAMPLES: dict[str, bytes | str] = {
    "./": "/tmp",
    "b/0001.jpg": b"one",
    "b/0001.json": b"{}",
    "b/0001.back.PNG": b"from behind",
    "0002.view_10.rgb.png": b"ten",
    "0002.view_9.rgb.png": b"nine",
    "0002.view_9.mask.png": b"mask",
    "0002.json": b"{}",
    "._0003.jpg": b"of a Mac",
    "__meta__/x.jpg": b"note",
    "0003.txt": b"a caption alone",
    "0004.jpg": "/etc/passwd",
    "../../0005.png": b"outside",
}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_samples_are_grouped_as_webdataset_does(tmp_path: Path, format: int) -> None:
    long = f"{'long/' * 18}0006.png"
    path = write_tar(tmp_path / "x.tar", SAMPLES | {long: b"deep"}, format=format)
    inputs = {one.name: one for one in list_archive(path, path.name)}
    assert list(inputs) == ["b/0001", "0002", "0003", "0004", "../../0005", long[:-4]]
    assert inputs["b/0001"].back is not None
    assert [read_source(view) for view in inputs["0002"].views] == [b"nine", b"ten"]
    assert inputs["0002"].cameras is not None
    assert inputs["0003"].problem == ("no_image", "x.tar: 0003: no image in this sample")
    assert inputs["0004"].problem == (
        "not_a_file",
        "x.tar: 0004.jpg: a link or a device",
    )
    [outside] = inputs["../../0005"].views
    assert (outside.path, read_source(outside)) == (path, b"outside")


def test_equal_keys_in_several_tars_are_told_apart(tmp_path: Path) -> None:
    for name in ("10.tar", "9.tar"):
        write_tar(tmp_path / name, {"a.jpg": b"1", "b.jpg": b"2", "a.png": b"3"})
    inputs = list_content(str(tmp_path))
    assert [one.origin for one in inputs][:3] == ["9.tar: a", "9.tar: b", "9.tar: a"]
    assert len({one.key for one in inputs}) == 6
    assert inputs == list_content(str(tmp_path / "*.tar"))


def test_whole_tar_is_needed_to_end_well(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {f"{i}.png": bytes(600) for i in range(4)}
    whole = write_tar(tmp_path / "x.tar", members).read_bytes()
    for length in range(0, 4 * 1536 + 512, 256):
        (tmp_path / "x.tar").write_bytes(whole[:length])
        *found, last = list_archive(tmp_path / "x.tar", "x.tar")
        assert last.problem is not None
        assert last.problem[0] == ("archive_damaged" if found else "not_an_archive")
        for one, content in zip(found, members.values(), strict=False):
            end = one.views[0].offset + 600
            if end <= length:
                assert read_source(one.views[0]) == content
            else:
                with pytest.raises(ImageFailure, match="the tar is cut off in it"):
                    read_source(one.views[0])
    (tmp_path / "x.tar").write_bytes(whole[: 4 * 1536 + 1024])
    assert len(list_archive(tmp_path / "x.tar", "x.tar")) == 4


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 99, b"\x1f\x8b" + bytes(2000)])
def test_what_is_no_tar_is_one_failed_input(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    [one] = list_content(str(tmp_path))
    assert one.problem is not None
    assert one.problem[0] == "not_an_archive"
    assert one.problem[1].startswith("x.tar: ")


def test_hostile_sizes_end_the_listing(tmp_path: Path) -> None:
    member = tarfile.TarInfo("a.png")
    member.size = -(10**4)
    huge = tarfile.TarInfo("huge")
    huge.type, huge.size = tarfile.XHDTYPE, 8**11 - 1
    good = tarfile.TarInfo("b.png").tobuf()
    for bad in (member.tobuf(tarfile.GNU_FORMAT), huge.tobuf(tarfile.GNU_FORMAT)):
        (tmp_path / "x.tar").write_bytes(good + bad + bytes(1024))
        first, *_, last = list_archive(tmp_path / "x.tar", "x.tar")
        assert first.name == "b"
        assert last.problem is not None
        assert last.problem[0] == "archive_damaged"


@given(st.data())
def test_changed_bytes_never_raise(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    content = bytearray(write_tar(path, SAMPLES, format=tarfile.PAX_FORMAT).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 8000))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    for one in list_archive(path, path.name):
        for source in one.views:
            try:
                read_source(source)
            except ImageFailure as failure:
                assert failure.kind in {"truncated", "too_large"}  # noqa: PT017
