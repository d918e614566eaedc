"""What is asked for on the command line, without a manifest file."""

from collections.abc import Iterator
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
    claim_folder(out / "run.yaml", yaml.safe_dump(content, sort_keys=False), "rendering")
    return RunFolder(run, out)


def claim_folder(path: Path, text: str, what: str) -> None:
    """Make a folder the place of one request, which the file `path` in it keeps: `text` is YAML.

    A request of which no shard was begun yet may be replaced: a slip is mended so. Raises
    PipelineError where the folder holds shards of another one (`what` says of which kind), or
    files that are not of this program.
    """
    folder = path.parent
    # before the claim is read: jobs of the same request may claim and go on meanwhile
    strange = folder.is_dir() and any(_strangers(path))
    there = path.read_text(encoding="utf-8") if path.is_file() else None
    if there == text:
        return
    if there is None and strange:
        raise PipelineError(f"{folder}: not empty, and no {what} of ours; choose another folder")
    if there is not None and _is_begun(folder):
        where = _first_difference(yaml.safe_load(there), yaml.safe_load(text))
        raise PipelineError(
            f"{path}: this folder holds another {what}: its {where} differs; choose another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())


def _strangers(path: Path) -> Iterator[Path]:
    """Files beside `path`, but for what another job that starts at the same time writes there."""
    return (file for file in path.parent.iterdir() if file != path and file.name[0] != ".")


def _is_begun(folder: Path) -> bool:
    """Whether a shard was made there, or is being made."""
    return any(folder.glob("*/*.parquet")) or any(folder.glob("*/.*.tmp"))


def _first_difference(one: Any, other: Any) -> str:
    """The key, with the keys above it, at which two mappings differ first."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return ""
    for key in [*other, *one]:
        if one.get(key) != other.get(key):
            return f"{key}.{_first_difference(one.get(key), other.get(key))}".rstrip(".")
    return ""


def _without_none(content: dict[str, Any]) -> dict[str, Any]:
    filled = {k: _without_none(v) if isinstance(v, dict) else v for k, v in content.items()}
    return {key: value for key, value in filled.items() if value is not None and value != {}}
