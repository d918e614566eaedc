"""Every kind of error in a run manifest is one line with file, key and reason."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import manifests
from manifests import ManifestError, load_manifest, load_run

Write = Callable[..., Path]


def complaint(path: Path) -> str:
    with pytest.raises(ManifestError) as caught:
        load_run(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


RUNS = Path(manifests.__file__).parent / "runs"


@pytest.mark.parametrize("name", [path.name for path in sorted(RUNS.glob("*.yaml"))])
def test_shipped_manifests_load_where_their_checkpoints_are(name: str, tmp_path: Path) -> None:
    for folder in ("checkpoints", "manifests/runs"):
        (tmp_path / folder).mkdir(parents=True)
    text = (RUNS / name).read_text()
    for checkpoint in re.findall(r"source: .*checkpoints/([\w.-]+)", text):
        (tmp_path / "checkpoints" / checkpoint).touch()
    for image in re.findall(r"\.\./\.\./(styles/[\w.-]+)", text):
        (tmp_path / "styles").mkdir(exist_ok=True)
        (tmp_path / image).touch()
    for stylizer in re.findall(r"(?:start|model): .*checkpoints/([\w.-]+)", text):
        for file in ("config.json", "model.safetensors"):
            (tmp_path / "checkpoints" / stylizer).mkdir(exist_ok=True)
            (tmp_path / "checkpoints" / stylizer / file).touch()
    copy = tmp_path / "manifests" / "runs" / name
    copy.write_text(text)
    assert load_manifest(copy).name == copy.stem


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("sed", 1, "sed: unknown key; did you mean 'seed'?"),
        ("rig.vews", 4, "rig.vews: unknown key; did you mean 'views'?"),
        ("styles.statue.hue", 4, "styles.statue.hue: unknown key; known here: source, instance"),
        ("finetune.hints.contnt", 1, "finetune.hints.contnt: unknown key; did you mean 'content'?"),
        ("seed", None, "seed: missing, and it has no default"),
        ("rig.views", None, "rig.views: missing, and it has no default"),
        ("rig.views", "16", 'rig.views: must be a valid integer, not "16"'),
        ("rig.views", 0, "rig.views: must be greater than or equal to 1, not 0"),
        ("rig.elevation", 90.0, "rig.elevation: must be less than 90, not 90.0"),
        ("rig.elevation", float("nan"), "rig.elevation: must be a finite number, not NaN"),
        ("rig", 3, "rig: must be a mapping of kind, radius, pivot, focal, views, elevation"),
        ("outputs.rgb", "gif", "outputs.rgb: must be 'png', 'webp' or 'jpeg', not \"gif\""),
        ("outputs.mask", 1, "outputs.mask: must be a valid boolean, not 1"),
        ("name", "Demo 1", "name: 'Demo 1': use up to 64 of a-z"),
        ("styles", {"a.b": {"source": "x"}}, "styles.a.b: 'a.b': use up to 64 of a-z"),
        ("identities.train", 0, "identities.train: 0 is neither a count nor seeds"),
        ("identities.train", "9-3", "identities.train: seed range '9-3' is empty"),
        ("identities.train", "0-4294967296", "identities.train: seed range"),
        ("identities.train", True, "identities.train: True is neither a count nor"),
        (
            "finetune.styles",
            ["statu"],
            "finetune.styles: 'statu' is not under styles; did you mean",
        ),
        ("finetune.views", 5, "finetune.views: 5 views in a clip, but the rig has 4"),
        ("finetune.strides", [2, 1], "finetune.strides: 2 to 1: the lower first, from 1 on"),
        ("finetune.strides", [0, 1], "finetune.strides: 0 to 1: the lower first, from 1 on"),
        ("finetune.strides", [1, 3], "finetune.strides: 2 views 3 apart go more than once round"),
        ("finetune.hints", {"content": 0.0}, "finetune.hints: content and camera are both 0"),
        ("stylize.split", "tset", "stylize.split: 'tset' is not under identities; did you mean"),
        ("stylize.references.statue", {}, "stylize.references.statue: give exactly one of"),
        ("stylize.references.statue.style", "x", "stylize.references.statue.style: 'x' is not"),
        ("stylize.references", {}, "stylize.references: needs at least one entry"),
        ("stylize.references.statue", {"image": "no.png"}, "stylize.references.statue.image: no"),
        ("stylize.model", "nowhere", "stylize.model: no config.json in"),
        ("finetune.start", "nowhere", "finetune.start: no config.json in"),
        ("finetune.losses", {"identitty": 1.0}, "finetune.losses.identitty: unknown key; did you"),
        ("finetune.losses", {"style": -1.0}, "finetune.losses.style: must be greater than or"),
        ("finetune.train", "style", "finetune.train: takes a stylizer to start from; give fine"),
        ("finetune.cache_latents", True, "finetune.cache_latents: takes a stylizer to start from"),
        ("finetune.validation", {}, "finetune.validation.every: missing"),
        ("finetune.validation", {"every": 1, "split": "tset"}, "finetune.validation.split: 'tset'"),
        ("finetune.validation", {"every": 1, "split": "train"}, "finetune.validation.split: 'trai"),
        (
            "finetune.validation",
            {"every": 1, "styles": ["statu"]},
            "finetune.validation.styles: 's",
        ),
        (
            "finetune.validation",
            {"every": 1, "styles": ["statue"]},
            "finetune.validation.styles: all styles are held out, none is left to train on",
        ),
        ("finetune.resolution", 8, "finetune.resolution: must be greater than or equal to 16"),
        ("finetune.plain", 1.5, "finetune.plain: must be less than or equal to 1"),
        ("finetune", None, "stylize: needs a finetune section, or stylize.model: a folder"),
        ("identities", {"test": 1}, "finetune: needs a split named 'train' under identities"),
        ("styles", {}, "finetune: needs an entry under styles, or plain: 1.0"),
        ("allow_failed", 1.5, "allow_failed: must be less than or equal to 1, not 1.5"),
    ],
)
def test_wrong_value_is_named(write_manifest: Write, key: str, value: Any, expected: str) -> None:
    assert complaint(write_manifest({key: value})).startswith(expected)


def test_what_is_held_out_is_not_trained_on(write_manifest: Write) -> None:
    validation = {"every": 1, "styles": ["statue"]}
    trained = {"finetune.styles": ["statue"], "finetune.validation": validation}
    assert complaint(write_manifest(trained)).startswith(
        "finetune.validation.styles: 'statue' is under finetune.styles as well"
    )


def test_view_consistency_takes_depth(write_manifest: Write) -> None:
    changes = {"finetune.losses": {"view_consistency": 1.0}, "outputs.depth": "none"}
    assert complaint(write_manifest(changes)).startswith("finetune.losses.view_consistency: takes")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "must be a mapping of keys"),
        (b"- a\n", "must be a mapping of keys"),
        (b"name: [a\nseed: 1\n", "line 2: "),
        (b"name: a\nname: b\n", "line 2: key 'name' given twice"),
        (b"{{a: 1}: 2}\n", "line 1: a key must be a plain word"),
        (b"a: *nothing\n", "line 1: found undefined alias"),
        (b"a: !!python/object/apply:os.system [ls]\n", "line 1: could not determine a constructor"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"\x00", "not readable as YAML"),
        (b"[" * 3000, "nested too deeply"),
        (b"#" * (1 << 20) + b"#", "larger than 1048576 bytes"),
    ],
)
def test_bad_file_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    assert complaint(path).startswith(expected)


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    assert complaint(tmp_path / "none.yaml") == "cannot read it: No such file or directory"
    assert complaint(tmp_path) == "cannot read it: Is a directory"


def test_exponent_without_dot_is_a_number(tmp_path: Path, write_manifest: Write) -> None:
    path = write_manifest()
    path.write_text(
        path.read_text().replace("checkpoint_every", "learning_rate: 1e-3\n  checkpoint_every")
    )
    run = load_run(path)
    assert run.finetune is not None
    assert run.finetune.learning_rate == 1e-3


def test_paths_are_taken_from_the_manifests_folder(tmp_path: Path, write_manifest: Write) -> None:
    (tmp_path / "mine.png").write_bytes(b"png")
    run = load_run(write_manifest({"stylize.references.mine": {"image": "mine.png"}}))
    assert run.stylize is not None
    assert run.stylize.references["mine"].image == tmp_path / "mine.png"


def test_missing_checkpoint_is_named() -> None:
    with pytest.raises(ManifestError, match=r"generator.source: no such file: .*easy-khair"):
        load_run(RUNS / "panohead.yaml")


@pytest.mark.parametrize("name", ["demo", "demo:statue", "procedural"])
def test_a_name_is_no_folder_that_happens_to_be_there(
    name: str, write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / name).mkdir()
    assert load_run(write_manifest({"generator.source": name})).generator.source == name
    folder = load_run(write_manifest({"generator.source": f"./{name}"})).generator.source
    assert folder == str((tmp_path / name).resolve())


def test_plain_clips_need_more_than_the_style_to_train(
    write_manifest: Write, tiny_model: Path
) -> None:
    changes = {"finetune.start": str(tiny_model), "finetune.train": "style", "finetune.plain": 0.1}
    assert complaint(write_manifest(changes)).startswith("finetune.plain: such clips train no part")


@pytest.mark.parametrize("key", ["finetune.recolour", "finetune.faint"])
def test_cached_latents_keep_their_colours(
    key: str, write_manifest: Write, tiny_model: Path
) -> None:
    changes = {"finetune.start": str(tiny_model), "finetune.cache_latents": True}
    assert complaint(write_manifest(changes | {key: 0.5})).startswith(
        f"{key}: cached latents have the colours that were rendered"
    )


def test_faint_clips_are_not_compared_with_their_style_image(write_manifest: Write) -> None:
    changes = {"finetune.faint": 0.5, "finetune.losses.style": 0.1}
    assert complaint(write_manifest(changes)).startswith("finetune.faint: such clips are not in")


@pytest.mark.parametrize("key", ["finetune.start", "stylize.model"])
def test_demo_is_the_stylizer_in_the_package(
    key: str, write_manifest: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setattr("manifests.shipped.stylizer_folder", lambda: tmp_path)
    run = load_run(write_manifest({key: "demo"}))
    assert run.finetune is not None
    assert run.stylize is not None
    assert (run.finetune.start if key == "finetune.start" else run.stylize.model) == tmp_path
