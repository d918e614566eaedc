"""The rig section: what each kind takes, how many views it has, and that the renderer makes it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from eg3d_renderer import cameras
from manifests import ManifestError, load_run

Write = Callable[..., Path]
LABEL = cameras.orbit(1)[0].tolist()
ALONE = {"finetune": None, "stylize": None}  # these two take an orbit only


@pytest.mark.parametrize(
    ("rig", "count", "made"),
    [
        ({"views": 3}, 3, lambda: cameras.orbit(3)),
        ({"kind": "orbit", "views": 3, "elevation": 5}, 3, lambda: cameras.orbit(3, elevation=5)),
        ({"kind": "grid", "columns": 3, "rows": 2}, 6, lambda: cameras.grid(3, 2)),
        ({"kind": "spiral", "views": 5}, 5, lambda: cameras.spiral(5)),
        (
            {"kind": "spiral", "views": 5, "elevation": [30, -10], "pivot": [0, 0, 0.2]},
            5,
            lambda: cameras.spiral(5, elevation=(30, -10), pivot=(0, 0, 0.2)),
        ),
        ({"kind": "random", "views": 4}, 4, lambda: cameras.random(4)),
        (
            {"kind": "random", "views": 4, "seed": 7, "radius": [2, 3]},
            4,
            lambda: cameras.random(4, seed=7, radius=(2, 3)),
        ),
        (
            {"kind": "random", "views": 4, "radius": 2, "focal": 3},
            4,
            lambda: cameras.random(4, radius=2, focal=3),
        ),
        ({"kind": "explicit", "cameras": [LABEL] * 2}, 2, lambda: cameras.explicit([LABEL] * 2)),
    ],
)
def test_a_section_is_the_rig_of_the_same_name(
    write_manifest: Write, rig: dict[str, Any], count: int, made: Callable[[], torch.Tensor]
) -> None:
    run = load_run(write_manifest({"rig": rig, **ALONE}))
    assert run.rig.count == count
    assert torch.equal(cameras.make_rig(**run.rig.model_dump()), made())
    assert torch.equal(cameras.make_rig(**json.loads(run.rig.model_dump_json())), made())


@pytest.mark.parametrize("text", ["orbit:8", "grid:3x2", "spiral:6", "random:9,radius=2..3"])
def test_a_command_lines_rig_is_a_section(write_manifest: Write, text: str) -> None:
    fields = cameras.parse_rig(text)
    run = load_run(write_manifest(ALONE))
    rig = type(run).model_validate(run.model_dump() | {"rig": fields}).rig
    assert torch.equal(cameras.make_rig(**rig.model_dump()), cameras.make_rig(**fields))


def test_a_file_is_beside_the_manifest_and_counts_by_content(
    tmp_path: Path, write_manifest: Write
) -> None:
    label = cameras.orbit(3)
    contents = [label.tolist(), cameras.to_transforms(label, ["a", "b", "c"], 64)]
    digests = []
    for name, content in [("a", contents[0]), ("b", contents[0]), ("b", contents[1])]:
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        run = load_run(
            write_manifest({"rig": {"kind": "explicit", "file": f"{name}.json"}, **ALONE})
        )
        assert run.rig.count == 3
        assert torch.equal(cameras.make_rig(**run.rig.model_dump()), label)
        digests.append(run.digest())
    assert digests[0] == digests[1] != digests[2]


def test_a_section_that_says_its_defaults_is_the_same_run(write_manifest: Write) -> None:
    grid: dict[str, Any] = {"kind": "grid", "columns": 2, "rows": 2}
    spelt = grid | {"yaw": [-45, 45], "elevation": [-20.0, 20.0]}
    runs = [
        load_run(write_manifest({"rig": rig, **ALONE})) for rig in (grid, spelt, grid | {"rows": 3})
    ]
    assert runs[0].digest() == runs[1].digest() != runs[2].digest()


@pytest.mark.parametrize(
    ("rig", "expected"),
    [
        (
            {"kind": "orbti"},
            "rig.kind: must be one of 'orbit', 'grid', 'spiral', 'random', 'explicit', "
            'not "orbti"',
        ),
        ({"kind": None}, "rig.kind: must be one of"),
        ({"kind": "grid", "columns": 2, "row": 1}, "rig.row: unknown key; did you mean 'rows'?"),
        ({"kind": "grid", "columns": 2}, "rig.rows: missing, and it has no default"),
        ({"kind": "grid", "columns": 99, "rows": 9}, "rig: a rig has 1 to 720 views, not 891"),
        ({"kind": "grid", "columns": 2, "rows": 2, "views": 4}, "rig.views: unknown key; known"),
        ({"kind": "grid", "columns": 2, "rows": 2, "yaw": [9, -9]}, "rig.yaw: 9 to -9: the lower"),
        ({"kind": "grid", "columns": 2, "rows": 2, "yaw": [0, 361]}, "rig.yaw: 0 to 361: the"),
        ({"kind": "grid", "columns": 2, "rows": 2, "yaw": 9}, "rig.yaw: must be two numbers of"),
        ({"kind": "grid", "columns": 2, "rows": 2, "elevation": [0, 90]}, "rig.elevation: 0 to 90"),
        ({"kind": "grid", "columns": 2, "rows": 2, "elevation": [9, 0]}, "rig.elevation: 9 to 0"),
        ({"kind": "spiral", "views": 4, "elevation": [-90, 0]}, "rig.elevation: -90 to 0: keep"),
        ({"kind": "spiral", "views": 4, "turns": 0}, "rig.turns: must be greater than 0, not 0"),
        ({"kind": "random", "views": 4, "radius": [3, 2]}, "rig.radius: [3, 2]: must be above 0"),
        ({"kind": "random", "views": 4, "radius": [-1, 2]}, "rig.radius: [-1, 2]: must be above"),
        ({"kind": "random", "views": 4, "radius": []}, "rig.radius: must be a number, or two"),
        ({"kind": "random", "views": 4, "radius": True}, "rig.radius: must be a number, or two"),
        ({"kind": "random", "views": 4, "seed": 2**32}, "rig.seed: must be less than 4294967296"),
        ({"kind": "random", "views": 4, "yaw": [0, 10**400]}, "rig.yaw: must be two numbers of"),
        ({"kind": "orbit", "views": 4, "radius": [2, 3]}, "rig.radius: must be a valid number"),
        ({"kind": "orbit", "views": 4, "pivot": [0, "1", 2]}, "rig.pivot: must be three numbers"),
        ({"kind": "orbit", "views": 4, "pivot": [0, float("nan"), 2]}, "rig.pivot: must be three"),
        ({"kind": "explicit"}, "rig: give exactly one of 'file' (a JSON file) and 'cameras'"),
        ({"kind": "explicit", "cameras": []}, "rig: a rig has 1 to 720 views, not 0"),
        ({"kind": "explicit", "cameras": [LABEL, [1]]}, "rig.cameras.1: must be 25 numbers, not"),
        ({"kind": "explicit", "file": "no.json"}, "rig.file: {folder}/no.json: cannot read it: No"),
    ],
)
def test_wrong_rig_is_named(write_manifest: Write, rig: dict[str, Any], expected: str) -> None:
    path = write_manifest({"rig": rig})
    with pytest.raises(ManifestError) as caught:
        load_run(path)
    expected = f"{path}: {expected.format(folder=path.parent)}"
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[", "not a JSON file of cameras"),
        (b"\xff", "not a JSON file of cameras"),
        (b"[" * 10**5, "not a JSON file of cameras"),
        (b'{"cameras": []}', "neither a list of cameras nor a NeRF transforms.json"),
    ],
)
def test_a_bad_file_is_named(
    tmp_path: Path, write_manifest: Write, content: bytes, said: str
) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    path = write_manifest({"rig": {"kind": "explicit", "file": "bad.json"}})
    with pytest.raises(ManifestError) as caught:
        load_run(path)
    assert str(caught.value) == f"{path}: rig.file: {tmp_path / 'bad.json'}: {said}"


def test_a_style_may_be_called_as_a_kind(write_manifest: Write) -> None:
    path = write_manifest({"styles": {"orbit": {"source": "procedural:statue", "hue": 1}}})
    with pytest.raises(ManifestError, match=r"styles\.orbit\.hue: unknown key; known here: source"):
        load_run(path)


@pytest.mark.parametrize("section", ["finetune", "stylize"])
def test_what_goes_round_takes_an_orbit(write_manifest: Write, section: str) -> None:
    other = "stylize" if section == "finetune" else "finetune"
    path = write_manifest({"rig": {"kind": "random", "views": 4}, other: None})
    with pytest.raises(ManifestError, match=f"{section}: takes the views of a full circle"):
        load_run(path)
