"""The verb `evaluate` as the command line takes it."""

from collections.abc import Callable
from pathlib import Path

import click
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.cli import cli
from pipeline.folders import RunFolder
from stylize import StylizerError
from tests.stylize.perceptual.networks import csd_state, write_lpips, write_onnx


def run(*arguments: object) -> None:
    cli.main(["evaluate", *map(str, arguments)], standalone_mode=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "MANIFEST"),
        (["run.yaml", "--protocol", "ffhq"], "not both"),
        (["--protocol", "ffhq", "--content", "x"], "takes --content and --stylized"),
        (["run.yaml", "--masks", "x"], "go with --protocol"),
        (["run.yaml", "--face", "0", "0", "1"], "goes with --arcface"),
        (["run.yaml", "--arcface", "x", "--face", "0.5", "0", "0.6"], "lie in the image"),
    ],
)
def test_what_does_not_go_together(arguments: list[str], message: str) -> None:
    with pytest.raises(click.UsageError, match=message):
        run(*arguments)


def test_weights_of_the_user_are_asked(
    write_manifest: Callable[..., Path], made_run: RunFolder, copied_run: RunFolder, tmp_path: Path
) -> None:
    start = made_run.run.finetune and made_run.run.finetune.start
    manifest = write_manifest({"finetune.start": str(start)})
    folder = tmp_path / "runs" / made_run.path.name
    folder.parent.mkdir()
    copied_run.path.rename(folder)
    torch.save(csd_state(), tmp_path / "csd.pth")
    network = write_onnx(tmp_path / "network.onnx")
    weights = ["--csd", tmp_path / "csd.pth", "--lpips", *write_lpips(tmp_path)]
    weights += ["--arcface", network, "--inception", network, "--face", "0.2", "0.2", "0.6"]
    run(manifest, "--out", folder.parent, "--device", "cpu", *weights)
    table = pq.read_table(folder / "metrics.parquet")
    for name in ("csd", "lpips", "content_lpips", "identity", "leakage", "fid", "kid", "artfid"):
        assert table[name].null_count < len(table), name
    assert table["clip"].null_count == len(table)


def test_a_weight_file_that_is_none(write_manifest: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "garbage.onnx").write_bytes(b"garbage")
    with pytest.raises(StylizerError, match="not a readable ONNX file"):
        run(write_manifest(), "--arcface", tmp_path / "garbage.onnx")
