"""The bulk manifest: images of any origin, stylized by a run of their own.

Its keys are the options of `diffstyle360 stylize --content`. `manifests/runs/stylize-folder.yaml`
is the annotated example; `manifests.loading` reads the YAML and tells it from a run manifest. A
``content: pipe:COMMAND`` is run by whoever plans the run: trust such a manifest as you trust a
program. Nothing else in a manifest is executed.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BeforeValidator, Field

from manifests import shipped
from manifests.digests import digest_path
from manifests.names import style_name
from manifests.run import name_of
from manifests.sections import FilePath, Fraction, Name, Section
from manifests.stylizer import MODEL_FILES, Sampling
from manifests.urls import is_url


def _name_styles(given: Any) -> Any:
    """A list of files as a mapping: each is called after its file."""
    if not isinstance(given, list):
        return given
    named: dict[str, str] = {}
    for file in given:
        if not isinstance(file, str):
            raise ValueError(f"{json.dumps(file, default=str)} is not the name of a file")
        name = style_name(Path(file))
        if name in named:
            raise ValueError(f"two files are called {name!r}; name them, as {{NAME: FILE}}")
        named[name] = file
    return named


def _read_switch(given: Any) -> Any:
    """``align: true`` is all defaults, ``false`` is off."""
    return ({} if given else None) if isinstance(given, bool) else given


class Align(Section):
    """How lone portraits are brought to the crop that the model knows."""

    template: FilePath = None  # JSON of five points in [0, 1]; else pipeline.inputs.alignment's
    detector: FilePath = None  # YuNet as ONNX, for portraits that come without landmarks
    smallest_face: Annotated[float, Field(ge=0, le=4)] = 0.25  # pixels there for one of the crop


Styles = Annotated[dict[Name, Annotated[Path, Field(strict=False)]], BeforeValidator(_name_styles)]


class BulkManifest(Section):
    """A whole bulk stylization. Build it with `load_manifest`, which also finds its files."""

    name: Name
    content: Annotated[str | None, Field(min_length=1)] = None  # folder, image, tars, column, URL
    portraits: bool = False  # every image below the folder, at any depth, is one
    align: Annotated[Align | None, BeforeValidator(_read_switch)] = None  # else centred squares
    table: FilePath = None  # CSV or Parquet: content, style, presence, temperature, name, landmarks
    styles: Styles = Field(default_factory=dict)  # a column each
    model: Annotated[Path, Field(strict=False)] = Path(shipped.DEMO)  # a stylizer's folder
    hint: Literal["auto", "content", "camera"] = "auto"  # what shows structure
    generator: Annotated[str, Field(min_length=1)] = shipped.DEMO  # of the hint `camera`
    views: Annotated[int, Field(ge=2, le=720)] = 32  # around a portrait
    sampling: Sampling = Sampling()
    seed: Annotated[int, Field(ge=0)] = 0
    rgb: Literal["png", "webp", "jpeg"] = "png"
    shard_size: Annotated[int, Field(ge=1)] = 64  # samples; on a CPU it changes no byte of one
    allow_failed: Fraction = 0.0  # of all samples, before the run counts as failed

    @pydantic.model_validator(mode="after")
    def _keys_go_together(self) -> "BulkManifest":
        if self.content is None and self.table is None:
            raise ValueError("content: missing; what is to be stylized? (or give a table)")
        if self.table is None and not self.styles:
            raise ValueError("styles: missing; give style images, or a table that names them")
        if self.table is not None and self.styles:
            raise ValueError("styles: the table names them; leave one out")
        if self.portraits and self.content is None:
            raise ValueError("portraits: goes with content, and there is none")
        return self

    @pydantic.model_serializer(mode="wrap")
    def _leave_out_what_is_off(self, dump: pydantic.SerializerFunctionWrapHandler) -> Any:
        said = dump(self)
        if self.align is None:  # so that what such a run writes names no key that it has no use for
            said.pop("align", None)
        return said

    def digest(self) -> str:
        """SHA-256 of all that decides what the run writes, but for what lies in the content.

        Styles, table, template, detector, model and generator count by what is in their files, the
        content by its path or URL: what was there when it was planned, the plan keeps.
        """
        said = self.model_dump(mode="json", exclude={"name", "allow_failed"})
        if self.content and not is_url(self.content):
            said["content"] = os.path.abspath(self.content)
        said["styles"] = {
            name: [image.name, digest_path(image)] for name, image in self.styles.items()
        }
        if self.table:  # paths in it are seen from its folder
            said["table"] = [os.path.abspath(self.table.parent), digest_path(self.table)]
        if self.align:
            files = {"template": self.align.template, "detector": self.align.detector}
            said["align"] |= {name: path and digest_path(path) for name, path in files.items()}
        said["model"] = [digest_path(self.model / name) for name in MODEL_FILES]
        if Path(self.generator).is_absolute():
            said["generator"] = digest_path(Path(self.generator))
        elif name_of(self.generator) == shipped.DEMO:
            weights = shipped.generator_folder() / "manifest.json"  # has the files' hashes
            said["weights"] = digest_path(weights) if weights.is_file() else None
        text = json.dumps(said, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def is_newer_than(self, plan: str | Path) -> bool:
        """Whether the content, a folder or a file, was changed after this file was written.

        A folder counts as changed by what came into it, went or was renamed, not by what is in
        folders below it; a glob or a URL never does. False where either is not there.
        """
        try:
            return os.stat(self.content or "").st_mtime > os.stat(plan).st_mtime
        except OSError:
            return False

    def folder_name(self) -> str:
        """The run's folder: its name and the head of its digest."""
        return f"{self.name}-{self.digest()[:10]}"
