import json

import numpy as np
import pytest

from pipeline.shards import codecs
from pipeline.shards.samples import Sample, check_camera, check_sample

KEY = "train-00000003"


def check(members):
    return check_sample(Sample(KEY, 3, "train", members))


@pytest.mark.parametrize("depth", ["png16", "npy"])
def test_a_good_sample_has_no_fault(make_sample, depth):
    faults, specs = check(make_sample(KEY, 3, views=5, depth=depth))
    assert faults == []
    assert specs["view_04.rgb.png"] == "uint8 [8, 8, 3]"
    assert specs[f"view_04.depth.{codecs.EXTENSIONS[depth]}"].endswith(" [4, 4]")


def set_pose(value):
    def edit(view):
        view["cam2world"] = value(np.array(view["cam2world"]))
        view["label"][:16] = view["cam2world"].ravel()

    return edit


def set_intrinsics(row, column, value):
    def edit(view):
        view["intrinsics"][row, column] = value
        view["label"][16 + 3 * row + column] = value

    return edit


CAMERAS = {
    "not orthonormal": set_pose(lambda pose: pose * [1.01, 1, 1, 1]),
    "determinant": set_pose(lambda pose: pose * [-1, 1, 1, 1]),
    "last row": set_pose(lambda pose: np.vstack([pose[:3], [[0, 0, 1, 1]]])),
    "not finite": lambda view: view["label"].__setitem__(3, np.inf),
    "label differs": lambda view: view["label"].__setitem__(3, 7.0),
    "focal": set_intrinsics(0, 0, -4.2634),
    "upper triangular": set_intrinsics(2, 0, 0.5),
    "shape": lambda view: view.update(label=view["label"][:24]),
    "not given": lambda view: view.pop("intrinsics"),
    "is not given": lambda view: view.update(cam2world="eye"),
    "not given by": lambda view: view.update(label=[10**400] * 25),
}


@pytest.mark.parametrize("what", CAMERAS)
def test_a_bad_camera_is_told(make_sample, what):
    view = json.loads(make_sample(KEY, 3)["json"])["views"][1]
    view = {k: np.array(v) if k != "name" else v for k, v in view.items()}
    assert check_camera(view) is None
    CAMERAS[what](view)
    assert what in check_camera(view)


def test_float32_rounding_of_a_rotation_is_no_fault(make_sample):
    members = make_sample(KEY, 3, views=36)
    for view in json.loads(members["json"])["views"]:
        assert check_camera(view) is None


META = {
    "key is 'train-00000004'": lambda meta: meta.update(key="train-00000004"),
    "seed is 4": lambda meta: meta.update(seed=4),
    "split is None": lambda meta: meta.pop("split"),
    "views are 1 from view_00": lambda meta: meta["views"].pop(),
    "views are 2 from view_01": lambda meta: meta["views"].reverse(),
    "views is not a list": lambda meta: meta.update(views={"view_00": {}}),
    "where it starts": lambda meta: meta.pop("depth"),
    "starts and ends": lambda meta: meta["depth"].update(start=3.3),
    "the JSON says levels otherwise": lambda meta: meta["depth"].update(levels=255),
    "the JSON says resolution 16": lambda meta: meta.update(resolution=16),
}


@pytest.mark.parametrize("what", META)
def test_json_that_does_not_fit_is_told(make_sample, what):
    faults, _ = check(make_sample(KEY, 3, edit=META[what]))
    assert len({fault.what for fault in faults}) == 1
    assert what in faults[0].what


def replace(name, data):
    return lambda members: members.__setitem__(name, data)


GREY = codecs.encode_mask(np.zeros((8, 8), np.float32))
FLIPPED = GREY[:-17] + bytes([GREY[-17] ^ 1]) + GREY[-16:]
FAR = codecs.encode_depth(np.full((4, 4), 9, np.float32), 2.25, 9, "npy")
MEMBERS = {
    ("json", "not an object"): replace("json", b"[]"),
    ("json", "not an object "): replace("json", b"null"),
    ("json", "NaN in JSON"): replace("json", b'{"key":NaN}'),
    ("json", "does not decode"): replace("json", b"{"),
    ("json", "missing"): lambda members: members.pop("json"),
    ("view_00.rgb.png", "no rgb"): replace("view_00.rgb.png", GREY),
    ("view_01.depth.png", "no depth"): replace("view_01.depth.png", GREY),
    ("view_01.mask.png", "does not decode"): replace("view_01.mask.png", GREY[:-8]),
    ("view_01.mask.png", "damaged in its IDAT"): replace("view_01.mask.png", FLIPPED),
    ("view_01.mask.png", "1 bytes after"): replace("view_01.mask.png", GREY + b"x"),
    ("view_00.depth.npy", "depth not in [2.25, 3.3]"): replace("view_00.depth.npy", FAR),
}


Z_DEPTH = {"start": 0.0, "end": 3.3, "levels": None}
NEAR = codecs.encode_depth(np.full((4, 4), 3, np.float32), 0.0, 3.3, "npy")


@pytest.mark.parametrize(
    ("member", "data", "stated", "what"),
    [
        ("view_00.zdepth.npy", NEAR, Z_DEPTH, None),
        ("view_00.zdepth.npy", FAR, Z_DEPTH, "z_depth not in [0, 3.3]"),
        ("view_00.zdepth.npy", NEAR, Z_DEPTH | {"levels": 9}, "the JSON says levels otherwise"),
        ("json", NEAR, None, "z_depth does not say where it starts and ends"),
        ("view_00.normal.png", GREY, Z_DEPTH, "no normal"),
    ],
)
def test_z_depth_and_normals_are_looked_at(make_sample, member, data, stated, what):
    made = make_sample(KEY, 3, edit=lambda meta: stated and meta.update(z_depth=stated))
    json = made.pop("json")
    name = member if member != "json" else "view_00.zdepth.npy"
    faults, _ = check(made | {name: data, "json": json})
    assert [fault.member for fault in faults] == ([member] if what else [])
    assert all(what in fault.what for fault in faults)


@pytest.mark.parametrize(("member", "what"), MEMBERS)
def test_members_that_do_not_fit_are_told(make_sample, member, what):
    members = make_sample(KEY, 3, depth="npy" if member.endswith("npy") else "png16")
    MEMBERS[member, what](members)
    faults, _ = check(members)
    assert [fault.member for fault in faults] == [member]
    assert what.strip() in faults[0].what


def test_cameras_may_be_unknown_where_it_says_so(make_sample):
    members = {k: v for k, v in make_sample(KEY, 3).items() if ".rgb." in k or k == "json"}
    meta = json.loads(members["json"])
    meta["views"] = [{"name": view["name"]} for view in meta["views"]]

    def faults(**changes):
        return check(members | {"json": codecs.encode_json(meta | changes)})[0]

    assert faults(cameras="unknown") == []
    assert "camera is not given" in faults()[0].what
    assert "camera is not given" in faults(cameras="none")[0].what
    half = [meta["views"][0] | {"label": [0.0] * 25}, *meta["views"][1:]]
    assert "though cameras are unknown" in faults(cameras="unknown", views=half)[0].what
    assert "views are" in faults(cameras="unknown", views=meta["views"][1:])[0].what
