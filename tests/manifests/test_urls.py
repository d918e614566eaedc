from pathlib import Path

import pytest
import yaml

from manifests import BulkManifest, load_manifest
from manifests.urls import absolute, is_url

URLS = ["s3://b/x.tar", "pipe:cat x.tar", "file:///x.tar", "simplecache::s3://b/x.tar"]
PATHS = ["in", "./s3", "/abs/x:y.tar", "C:/x.tar", "pipes/x.tar", "a b://c", "http:/x", ""]


@pytest.mark.parametrize("url", URLS)
def test_url_stays_as_it_is(url: str) -> None:
    assert is_url(url)
    assert absolute(url) == url


@pytest.mark.parametrize("path", PATHS)
def test_path_is_none(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_url(path)
    monkeypatch.chdir(tmp_path)
    assert absolute(path) == str(tmp_path / path)


@pytest.mark.parametrize("url", ["s3://b/x-{00000..00063}.tar", "pipe:aws s3 cp s3://b/x.tar -"])
def test_manifest_with_a_url_is_the_same_from_everywhere(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    (tmp_path / "ink.png").write_bytes(b"ink")
    content = {"name": "inked", "content": url, "styles": ["ink.png"], "model": str(tiny_model)}
    path = tmp_path / "bulk.yaml"
    path.write_text(yaml.safe_dump(content))
    bulk = load_manifest(path)
    assert isinstance(bulk, BulkManifest)
    assert bulk.content == url
    monkeypatch.chdir(tmp_path)
    assert load_manifest("bulk.yaml").digest() == bulk.digest()
    (tmp_path / "moved").mkdir()
    content["styles"] = ["../ink.png"]
    (tmp_path / "moved" / "bulk.yaml").write_text(yaml.safe_dump(content))
    assert load_manifest("moved/bulk.yaml").digest() == bulk.digest()
    path.write_text(yaml.safe_dump(content | {"content": f"{url}x", "styles": ["ink.png"]}))
    assert load_manifest(path).digest() != bulk.digest()
    assert not bulk.is_newer_than(path)
