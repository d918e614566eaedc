"""What a run manifest says: names of shards and columns, and the digest that names the run."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests import load_run
from manifests.run import parse_seeds

Write = Callable[..., Path]


def test_shards_and_columns(write_manifest: Write) -> None:
    run = load_run(write_manifest({"identities": {"train": 5, "test": "10-11"}}))
    assert run.shard_names() == ["train-00000", "train-00001", "train-00002", "test-00000"]
    assert run.shard_names("test") == ["test-00000"]
    assert run.columns == ("render", "style-statue")
    assert run.stylized_columns == ("stylized-statue",)
    assert run.count("test") == 2


def test_run_may_only_render(write_manifest: Write) -> None:
    run = load_run(write_manifest({"finetune": None, "stylize": None, "styles": None}))
    assert run.columns == ("render",)
    assert run.stylized_columns == ()
    assert run.finetuned_styles == ()


def test_digest_names_the_data_and_not_the_file(tmp_path: Path, write_manifest: Write) -> None:
    path = write_manifest()
    digest = load_run(path).digest()
    path.write_text("# a comment\n" + path.read_text())
    assert load_run(path).digest() == digest
    assert load_run(write_manifest({"name": "other"})).digest() == digest
    assert load_run(write_manifest({"allow_failed": 0.5})).digest() == digest
    assert load_run(write_manifest({"rig.elevation": 0.0})).digest() == digest  # the default
    assert load_run(write_manifest({"rig.elevation": 1.0})).digest() != digest
    assert load_run(write_manifest({"seed": 2})).digest() != digest


@pytest.mark.parametrize(
    "changes", [{"generator.source": "demo"}, {"styles.statue.source": "demo:statue"}]
)
def test_other_demo_weights_are_another_run(
    changes: dict[str, str], write_manifest: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain, demo = load_run(write_manifest()), load_run(write_manifest(changes))
    before = plain.digest(), demo.digest()
    assert before[0] != before[1] == demo.digest()
    (tmp_path / "manifest.json").write_text("other weights")
    monkeypatch.setattr("manifests.shipped.generator_folder", lambda: tmp_path)
    assert plain.digest() == before[0]
    assert demo.digest() != before[1]


def test_styles_held_out_are_rendered_and_not_trained_on(write_manifest: Write) -> None:
    styles = {name: {"source": f"procedural:{name}"} for name in ("statue", "ink", "clay")}
    validation = {"every": 1, "styles": ["ink"]}
    run = load_run(write_manifest({"styles": styles, "finetune.validation": validation}))
    assert run.finetuned_styles == ("statue", "clay")
    assert run.columns == ("render", "style-statue", "style-ink", "style-clay")
    assert run.encoded_columns == run.latent_columns == ()


def test_cached_latents_are_columns(tmp_path: Path, write_manifest: Write) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    run = load_run(write_manifest({"finetune.start": ".", "finetune.cache_latents": True}))
    assert run.encoded_columns == ("render", "style-statue")
    assert run.latent_columns == ("latents-render", "latents-style-statue")


def test_digest_leaves_out_what_changes_no_result(write_manifest: Write) -> None:
    digest = load_run(write_manifest()).digest()
    changed = load_run(write_manifest({"finetune.gradient_checkpointing": True})).digest()
    assert changed == digest
    assert load_run(write_manifest({"finetune.accumulate": 2})).digest() != digest


def test_digest_follows_a_files_content(tmp_path: Path, write_manifest: Write) -> None:
    digests = []
    for name, content in [("a.png", b"1"), ("b.png", b"1"), ("b.png", b"2")]:
        (tmp_path / name).write_bytes(content)
        path = write_manifest({"stylize.references.mine": {"image": name}})
        digests.append(load_run(path).digest())
    assert digests[0] == digests[1] != digests[2]


def test_digest_follows_a_models_content(tmp_path: Path, write_manifest: Write) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    digests = set()
    for weights in (b"1", b"2"):
        (tmp_path / "model" / "model.safetensors").write_bytes(weights)
        digests.add(load_run(write_manifest({"stylize.model": "model"})).digest())
        digests.add(load_run(write_manifest({"finetune.start": "model"})).digest())
    assert len(digests) == 4


@given(st.integers(0, 2**32 - 1), st.integers(0, 100))
def test_parse_seeds_holds_both_ends(first: int, more: int) -> None:
    last = min(first + more, 2**32 - 1)
    seeds = parse_seeds(f"{first}-{last}")
    assert (seeds[0], seeds[-1], len(seeds)) == (first, last, last - first + 1)
    assert parse_seeds(str(first)) == range(first, first + 1)


@pytest.mark.parametrize("text", ["", "-", "1-", "-1", "a-b", "1-2-3", "1.5", "4294967296", "²"])
def test_parse_seeds_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="seed"):
        parse_seeds(text)


def test_lists_of_seeds() -> None:
    assert list(parse_seeds("3,17,20-22")) == [3, 17, 20, 21, 22]
    with pytest.raises(ValueError, match="gives a seed twice"):
        parse_seeds("3,1-4")
    with pytest.raises(ValueError, match="lists more than"):
        parse_seeds("0-2000000,3000000")


@pytest.mark.parametrize("key", ["finetune.start", "stylize.model"])
def test_a_stylizer_counts_by_what_is_loaded_of_it(
    key: str, tmp_path: Path, write_manifest: Write
) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    run = load_run(write_manifest({key: "."}))
    before = run.digest()
    (tmp_path / "README.md").write_text("a card")
    assert run.digest() == before
    (tmp_path / "model.safetensors").write_text("other weights")
    assert run.digest() != before
