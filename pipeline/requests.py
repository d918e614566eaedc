"""Runs that are asked for on the command line, without a manifest file."""

from pathlib import Path
from typing import Any

import yaml

from manifests.loading import build_run
from pipeline.errors import PipelineError
from pipeline.folders import RunFolder
from pipeline.shards.files import write_whole


def open_request(content: dict[str, Any], out: Path) -> RunFolder:
    """The run of these manifest keys in the folder `out`, which keeps them as its run.yaml.

    Keys that are None, and sections without any, are left out. Raises ManifestError where the keys
    make no run, PipelineError where the folder holds shards of another one, or foreign files.
    """
    content = {"name": "request", "seed": 0, **_without_none(content)}
    if content["rig"].get("file"):
        content["rig"]["file"] = str(Path(content["rig"]["file"]).absolute())
    run = build_run(content, Path("command line"))
    content["generator"]["source"] = run.generator.source  # absolute, where it is a path
    path, text = out / "run.yaml", yaml.safe_dump(content, sort_keys=False)
    known = path.is_file() and path.read_text(encoding="utf-8") == text
    if path.is_file() and not known and any(out.glob("*/*.parquet")):
        raise PipelineError(f"{path}: this folder holds another rendering; choose another")
    if not path.is_file() and out.is_dir() and any(out.iterdir()):
        raise PipelineError(f"{out}: not empty, and no rendering of ours; choose another folder")
    if not known:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    return RunFolder(run, out)


def _without_none(content: dict[str, Any]) -> dict[str, Any]:
    filled = {k: _without_none(v) if isinstance(v, dict) else v for k, v in content.items()}
    return {key: value for key, value in filled.items() if value is not None and value != {}}
