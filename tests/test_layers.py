"""Imports point one way, those within functions too: what is below knows nothing of what is above."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ttbert

ROOT = Path(ttbert.__file__).parent

LAYERS = [
    {"__init__", "errors", "files", "frozen", "memory", "paths", "text", "child", "threads", "tt"},
    {"settings", "given"},
    {"boards", "model", "cache"},
    {"recipe"},
    {"convert", "runtime"},
    {"api", "demo", "squad", "export", "picture"},
    {"console"},
    {"cli"},
    {"__main__"},
]
"""Packages and single modules from the bottom to the top; those beside each other do not import each other."""


def level(name: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if name in layer)


def imported(path: Path) -> Iterator[str]:
    """The packages of ttbert, or its modules that are in none, from which a file imports."""
    package = path.relative_to(ROOT.parent).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("ttbert")):
            above = package[: len(package) - node.level + 1] if node.level else ()
            _, *inner = [*above, *(node.module or "").split(".")]
            yield from [inner[0]] if inner and inner[0] else ["__init__"]


@pytest.mark.parametrize("name", sorted(name for layer in LAYERS for name in layer))
def test_imports_point_down(name: str) -> None:
    found = ROOT / name
    files = found.rglob("*.py") if found.is_dir() else [found.with_suffix(".py")]
    up = {(str(file.relative_to(ROOT)), each) for file in files for each in imported(file) if each != name}
    assert {(file, each) for file, each in up if level(each) >= level(name)} == set()


def test_every_module_has_its_layer() -> None:
    names = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert names == {name for layer in LAYERS for name in layer}
