"""Faults that hashes cannot show: shards committed as they are, but wrong."""

import io
import json
import tarfile

import numpy as np
import pytest

from pipeline.shards import codecs
from pipeline.shards.verify import verify_shard

NAME = "train-00001"
KEYS = [f"train-{i:08d}" for i in (3, 4, 5)]


def kinds(findings):
    return {finding.kind for finding in findings}


def edit_header(index, **fields):
    """Rewrites the header of the index-th member of a tar, checksum and all."""

    def edit(tar):
        with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
            info = opened.getmembers()[index]
        for name, value in fields.items():
            setattr(info, name, value)
        tar[info.offset : info.offset + 512] = info.tobuf(tarfile.USTAR_FORMAT)

    return edit


def reorder(tar):
    edit_header(8, name=f"{KEYS[1]}.view_00.mask.png")(tar)
    edit_header(9, name=f"{KEYS[1]}.view_00.depth.png")(tar)


TARS = {
    "members in another order": (reorder, f"{KEYS[1]}: members or their order differ"),
    "a symbolic link": (edit_header(7, type=tarfile.SYMTYPE, size=0, linkname="/x"), "is a link"),
    "a hard link": (edit_header(7, type=tarfile.LNKTYPE, linkname="x"), "is a link"),
    "a path that leaves": (edit_header(7, name="../x.png"), "'../x.png' is in another folder"),
    "an absolute path": (edit_header(0, name="/x.png"), "'/x.png' is in another folder"),
    "a subfolder": (edit_header(7, name="x/y.png"), "is in another folder"),
    "another key": (edit_header(7, name="train-00000009.x.png"), "belongs to another sample"),
    "a time": (edit_header(3, mtime=1.0), "header differs"),
    "an owner": (edit_header(3, uname="root"), "header differs"),
    "a doubled member": (
        edit_header(8, name=f"{KEYS[1]}.view_00.rgb.png"),
        f"{KEYS[1]}: 7 members",
    ),
    "padding that is not zero": (lambda tar: tar.__setitem__(1023, 1), "padding is not zero"),
    "an end that is not zero": (lambda tar: tar.__setitem__(-1, 1), "does not end after"),
    "no end": (lambda tar: tar[: -tarfile.RECORDSIZE // 512 * 512], "does not end after"),
    "more after the end": (lambda tar: tar + bytes(10240), "does not end after"),
}


@pytest.mark.parametrize("fault", TARS)
def test_tars_that_were_committed_wrong_are_found(tmp_path, make_sample, forge_shard, fault):
    edit, what = TARS[fault]
    samples = [(key, make_sample(key, int(key[-1]))) for key in KEYS]
    forge_shard(tmp_path / "render", NAME, samples, edit_tar=edit)
    findings = verify_shard(tmp_path / "render", NAME)
    wrong = [finding for finding in findings if finding.kind == "wrong"]
    assert any(what in str(finding) for finding in wrong)
    assert all(f"{NAME}.idx" in finding.where for finding in findings if finding not in wrong)


def mirror(meta):
    pose = np.array(meta["views"][1]["cam2world"]) * [-1, 1, 1, 1]
    meta["views"][1].update(cam2world=pose, label=[*pose.ravel(), *meta["views"][1]["label"][16:]])


JSONS = {
    "a mirrored camera": (mirror, "view_01: cam2world mirrors"),
    "another seed": (lambda meta: meta.update(seed=9), "seed is 9, the Parquet says 4"),
    "another key": (lambda meta: meta.update(key=KEYS[0]), "key is 'train-00000003'"),
    "a view less": (lambda meta: meta["views"].pop(), "views are 1"),
    "no depth range": (lambda meta: meta.pop("depth"), "starts and ends"),
}


@pytest.mark.parametrize("fault", JSONS)
def test_json_that_was_committed_wrong_is_found(tmp_path, make_sample, forge_shard, fault):
    edit, what = JSONS[fault]
    samples = [
        (key, make_sample(key, int(key[-1]), edit=edit if key == KEYS[1] else None)) for key in KEYS
    ]
    forge_shard(tmp_path / "render", NAME, samples)
    (finding,) = verify_shard(tmp_path / "render", NAME)
    assert finding.kind == "wrong"
    assert finding.where == f"render/{NAME}.tar: {KEYS[1]}.json"
    assert what in finding.what


def nan_camera(members):
    meta = json.loads(members["json"])
    meta["views"][0]["label"][3] = float("nan")
    members["json"] = json.dumps(meta).encode()


def infinite_camera(members):
    meta = json.loads(members["json"])
    meta["views"][0]["label"][3] = meta["views"][0]["cam2world"][0][3] = 7.5
    members["json"] = json.dumps(meta).replace("7.5", "1e999").encode()


def json_first(members):
    rest = {suffix: members.pop(suffix) for suffix in list(members) if suffix != "json"}
    members.update(rest)


def set_member(suffix, data):
    return lambda members: members.__setitem__(suffix, data)


SMALL = codecs.encode_depth(np.full((2, 2), 3, np.float32), 2.25, 3.3, "png16")
MEMBERS = {
    "NaN in a camera": (nan_camera, "json: NaN in JSON"),
    "infinity in a camera": (infinite_camera, "json: view_00: camera is not finite"),
    "JSON that is none": (set_member("json", b"{"), "json: does not decode"),
    "an image that is none": (set_member("view_00.rgb.png", b"GIF89a"), "is no PNG"),
    "an empty image": (set_member("view_01.mask.png", b""), "view_01.mask.png: is no PNG"),
    "depth of another size": (
        set_member("view_00.depth.png", SMALL),
        "is uint16 [2, 2], in the first sample uint16 [4, 4]",
    ),
    "grey for colour": (set_member("view_00.rgb.png", SMALL), "no rgb"),
    "a member less": (lambda members: members.pop("view_00.mask.png"), "members or their order"),
    "a member more": (
        lambda members: members.update(x=b"", json=members.pop("json")),
        "no decoder",
    ),
    "a view less": (
        lambda members: [members.pop(s) for s in list(members) if s.startswith("view_01")],
        "views are 2",
    ),
    "no json": (lambda members: members.pop("json"), "json: missing"),
    "json first": (json_first, "the last member is not json"),
}


@pytest.mark.parametrize("fault", MEMBERS)
def test_members_that_were_committed_wrong_are_found(tmp_path, make_sample, forge_shard, fault):
    edit, what = MEMBERS[fault]
    samples = [(key, make_sample(key, int(key[-1]))) for key in KEYS]
    edit(samples[1][1])
    forge_shard(tmp_path / "render", NAME, samples)
    findings = verify_shard(tmp_path / "render", NAME)
    assert kinds(findings) == {"wrong"}
    assert all(KEYS[1] in finding.where for finding in findings)
    assert any(what in str(finding) for finding in findings)


def edit_second(**fields):
    return lambda i, row: row.update(fields) if i == 1 else None


ROWS = {
    "a key twice": (edit_second(key=KEYS[0]), "more than one row"),
    "an offset": (edit_second(offset=512), "does not follow"),
    "a size": (edit_second(size=1000), "does not follow"),
    "a huge size": (edit_second(size=2**62), "does not follow"),
    "no offset": (edit_second(offset=None), "no place in the tar"),
    "members": (edit_second(members=9), "the Parquet says 9"),
    "a split": (edit_second(split="test"), "split is 'train', the Parquet says 'test'"),
    "a failure that is there": (edit_second(status="NonFinite"), "2 samples, the commit record"),
}


@pytest.mark.parametrize("fault", ROWS)
def test_rows_that_were_committed_wrong_are_found(tmp_path, make_sample, forge_shard, fault):
    edit, what = ROWS[fault]
    samples = [(key, make_sample(key, int(key[-1]))) for key in KEYS]
    forge_shard(tmp_path / "render", NAME, samples, edit_row=edit)
    findings = verify_shard(tmp_path / "render", NAME)
    assert kinds(findings) == {"wrong"}
    assert any(what in str(finding) for finding in findings)


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("md5", "0" * 32, "another md5"),
        ("sha256", "0" * 64, "sha256 of the file differs"),
        ("bytes", 1, "1 were committed"),
        ("samples", 4, "the commit record says 4"),
    ],
)
def test_commit_records_that_are_wrong_are_found(
    tmp_path, make_sample, forge_shard, field, value, what
):
    samples = [(key, make_sample(key, int(key[-1]))) for key in KEYS]
    forge_shard(
        tmp_path, NAME, samples, edit_commit=lambda commit: commit.__setitem__(field, value)
    )
    assert any(what in str(finding) for finding in verify_shard(tmp_path, NAME))
