"""Imports run one way: pipeline -> {eg3d_renderer, stylize, manifests}."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "manifests": {"manifests"},
    "eg3d_renderer": {"eg3d_renderer"},
    "stylize": {"stylize"},
    "pipeline": {"pipeline", "eg3d_renderer", "stylize", "manifests"},
}


def imported_packages(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_package_imports_only_what_it_may(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        ours = imported_packages(file.read_text()) & MAY_IMPORT.keys()
        assert ours <= MAY_IMPORT[package], f"{file} imports {ours - MAY_IMPORT[package]}"


@pytest.mark.parametrize("file", ["Snakefile", *(p.name for p in ROOT.glob("rules/*.smk"))])
def test_workflow_imports_only_manifests(file: str) -> None:
    path = ROOT / file if file == "Snakefile" else ROOT / "rules" / file
    lines = [line.strip() for line in path.read_text().splitlines()]
    imports = "\n".join(line for line in lines if line.startswith(("import ", "from ")))
    assert imported_packages(imports) & MAY_IMPORT.keys() <= {"manifests"}


@pytest.mark.parametrize("module", ["manifests", "pipeline.cli"])
def test_torch_is_not_loaded_by(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
