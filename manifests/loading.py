"""From a YAML file to a validated manifest, or to one line that says what is wrong with it."""

import difflib
import json
import re
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from manifests import shipped
from manifests.bulk import BulkManifest
from manifests.run import Generator, RunManifest, Style, name_of
from manifests.stylizer import MODEL_FILES
from manifests.urls import is_url

MAX_BYTES = 1 << 20

Sourced = TypeVar("Sourced", Generator, Style)


class ManifestError(ValueError):
    """What a manifest says cannot be done: one line with file, key and reason."""


def load_manifest(path: str | Path) -> RunManifest | BulkManifest:
    """Read and validate a manifest of either kind; its keys say which it is.

    Relative paths in it are taken from its own folder. Raises ManifestError, one line:
    ``FILE: KEY: reason``.
    """
    path = Path(path)
    content = _read(path)
    return build_bulk(content, path) if _is_bulk(content) else build_run(content, path)


def load_run(path: str | Path) -> RunManifest:
    """Read and validate a run manifest. Raises ManifestError as `load_manifest` does."""
    path = Path(path)
    content = _read(path)
    if _is_bulk(content):
        raise ManifestError(
            f"{path}: a bulk manifest, for plan, stylize, verify, report, status and retry-failed; "
            "this takes one of a run, such as manifests/runs/demo.yaml"
        )
    return build_run(content, path)


def _read(path: Path) -> dict[Any, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ManifestError(f"{path}: larger than {MAX_BYTES} bytes; is this a run manifest?")
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ManifestError(f"{path}: cannot read it: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ManifestError(f"{path}: not UTF-8 text; is this a run manifest?") from None
    except yaml.YAMLError as error:
        raise ManifestError(f"{path}: {_yaml_reason(error)}") from None
    except RecursionError:
        raise ManifestError(f"{path}: nested too deeply; is this a run manifest?") from None
    if not isinstance(content, dict):
        raise ManifestError(f"{path}: must be a mapping of keys, such as 'name: demo'")
    return content


def _is_bulk(content: dict[Any, Any]) -> bool:
    """Whether more keys, misspelt ones too, are those of a bulk manifest alone than of a run's."""
    run, bulk = set(RunManifest.model_fields), set(BulkManifest.model_fields)
    near = [difflib.get_close_matches(str(key), run | bulk, n=1, cutoff=0.5) for key in content]
    found = [name for names in near for name in names]
    return sum(name in bulk - run for name in found) > sum(name in run - bulk for name in found)


def build_run(content: dict[str, Any], path: Path) -> RunManifest:
    """Validate what a manifest at `path` would say, whether it lies there or not.

    Raises ManifestError as `load_run` does.
    """
    try:
        run = RunManifest.model_validate(content, context={"folder": path.parent})
    except pydantic.ValidationError as error:
        raise ManifestError(f"{path}: {_first_reason(error, RunManifest)}") from None
    return _resolve_paths(run, path)


def build_bulk(content: dict[str, Any], path: Path) -> BulkManifest:
    """Validate what a bulk manifest at `path` would say, whether it lies there or not.

    What the content is, is not looked at. Raises ManifestError as `load_manifest` does.
    """
    try:
        bulk = BulkManifest.model_validate(content)
    except pydantic.ValidationError as error:
        raise ManifestError(f"{path}: {_first_reason(error, BulkManifest)}") from None
    found: dict[str, Any] = {
        "styles": {
            name: _find_file(image, path, f"styles.{name}") for name, image in bulk.styles.items()
        },
        "model": _find_model(bulk.model, path, "model"),
        "generator": _find_source(Generator(source=bulk.generator), path, "generator").source,
    }
    if bulk.content is not None:
        here = not is_url(bulk.content)
        found["content"] = str(path.parent / bulk.content) if here else bulk.content
    if bulk.align is not None:
        given = {"template": bulk.align.template, "detector": bulk.align.detector}
        files = {n: p and _find_file(p, path, f"align.{n}") for n, p in given.items()}
        found["align"] = bulk.align.model_copy(update=files)
    if bulk.table is not None:
        found["table"] = _find_file(bulk.table, path, "table")
    return bulk.model_copy(update=found)


def _resolve_paths(run: RunManifest, manifest: Path) -> RunManifest:
    """The same run with its paths taken from the manifest's folder, each looked at."""
    generator = _find_source(run.generator, manifest, "generator.source")
    styles = {
        name: _find_source(style, manifest, f"styles.{name}.source")
        for name, style in run.styles.items()
    }
    run = run.model_copy(update={"generator": generator, "styles": styles})
    if run.finetune and run.finetune.start:
        start = _find_model(run.finetune.start, manifest, "finetune.start")
        run = run.model_copy(update={"finetune": run.finetune.model_copy(update={"start": start})})
    if run.stylize:
        references = dict(run.stylize.references)
        for name, reference in references.items():
            if reference.image:
                key = f"stylize.references.{name}.image"
                image = _find_file(reference.image, manifest, key)
                references[name] = reference.model_copy(update={"image": image})
        update: dict[str, Any] = {"references": references}
        if run.stylize.model:
            update["model"] = _find_model(run.stylize.model, manifest, "stylize.model")
        run = run.model_copy(update={"stylize": run.stylize.model_copy(update=update)})
    return run


def _find_source(section: Sourced, manifest: Path, key: str) -> Sourced:
    """The section with its source taken from the manifest's folder, where it is a path."""
    if name_of(section.source):
        return section
    path = manifest.parent / section.source
    if path.exists():
        return section.model_copy(update={"source": str(path.resolve())})
    if "/" in section.source or path.suffix:
        raise ManifestError(f"{manifest}: {key}: no such file: {path}")
    return section


def _find_file(given: Path, manifest: Path, key: str) -> Path:
    path = manifest.parent / given
    if not path.is_file():
        raise ManifestError(f"{manifest}: {key}: no such file: {path}")
    return path


def _find_model(given: Path, manifest: Path, key: str) -> Path:
    folder = manifest.parent / given
    if given == Path(shipped.DEMO):
        folder = shipped.stylizer_folder()
    for name in MODEL_FILES:
        if not (folder / name).is_file():
            raise ManifestError(
                f"{manifest}: {key}: no {name} in {folder}; give a folder that a fine-tune wrote"
            )
    return folder


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but a key given twice is an error, and 1e-3 a number (YAML 1.2)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            problem = None
            if not isinstance(key, yaml.ScalarNode):
                problem = "a key must be a plain word"
            elif key.value in seen:
                problem = f"key {key.value!r} given twice"
            if problem:
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _yaml_reason(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "not readable as YAML"
    return f"line {mark.line + 1}: {problem}" if mark else problem


def _first_reason(error: pydantic.ValidationError, manifest: type[pydantic.BaseModel]) -> str:
    """The first complaint; an unknown key before all else, for it often causes the others."""
    errors = error.errors(include_url=False)
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    parts, section = _follow(first["loc"], manifest)
    key = ".".join(parts)
    match first["type"]:
        case "extra_forbidden":
            return f"{key}: {_unknown_key(parts[-1], list(section.model_fields))}"
        case "union_tag_invalid":
            kinds = first["ctx"]["expected_tags"]
            return f"{key}.kind: must be one of {kinds}, not {json.dumps(first['ctx']['tag'])}"
        case "missing":
            return f"{key}: missing, and it has no default"
        case "value_error":
            reason = str(first["ctx"]["error"])
        case "too_short":
            reason = "needs at least one entry"
        case "model_type":
            reason = f"must be a mapping of {', '.join(section.model_fields)}"
        case _:
            given = json.dumps(first["input"], default=str)[:60]
            reason = f"{first['msg'].replace('Input should', 'must')}, not {given}"
    return f"{key}: {reason}" if key else reason


def _unknown_key(unknown: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(unknown, known, n=1, cutoff=0.5)
    if near:
        return f"unknown key; did you mean {near[0]!r}?"
    return f"unknown key; known here: {', '.join(known)}"


def _follow(
    location: Sequence[int | str], manifest: type[pydantic.BaseModel]
) -> tuple[list[str], type[pydantic.BaseModel]]:
    """The key at `location`, as the file spells it, and the section that it is or is in."""
    key: list[str] = []
    section = manifest
    kinds: dict[Any, type[pydantic.BaseModel]] = {}
    for part in location:
        if part in kinds:  # pydantic's word for the kind of a section, not a key
            section, kinds = kinds[part], {}
            continue
        if part != "[key]":
            key.append(str(part))
        field = section.model_fields.get(str(part))
        choices = list(_sections_in(field.annotation)) if field else []
        if choices:  # else the name of an entry, such as a style's: section was reached
            section = choices[0]
        kinds = {c.model_fields["kind"].default: c for c in choices if "kind" in c.model_fields}
    return key, section


def _sections_in(annotation: Any) -> Iterator[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _sections_in(argument)
