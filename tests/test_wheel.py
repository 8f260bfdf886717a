"""What a user gets from `pip install`: the wheel, built from a copy of this tree without a network."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOT_SOURCE = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "*.so")


def build(root: Path, **variables: str) -> zipfile.ZipFile:
    """The wheel of a copy, for building leaves files behind, and an older build/ would get into the wheel."""
    tree, out = root / "tree", root / "wheel"
    tree.mkdir()
    for name in ["ttbert", "tests", "scripts"]:
        shutil.copytree(ROOT / name, tree / name, ignore=NOT_SOURCE)
    for name in ["setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"]:
        shutil.copy(ROOT / name, tree / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", out, tree]
    built = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (path,) = out.iterdir()
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    with build(tmp_path_factory.mktemp("wheel")) as opened:
        yield opened


def extensions(wheel: zipfile.ZipFile) -> list[str]:
    return [name for name in wheel.namelist() if name.endswith(".so")]


def metadata(wheel: zipfile.ZipFile, name: str) -> str:
    """The text of a file of the wheel's dist-info."""
    (path,) = (path for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def test_wheel_has_every_file_of_the_package_and_no_other(wheel: zipfile.ZipFile) -> None:
    files = {path.relative_to(ROOT) for path in (ROOT / "ttbert").rglob("*") if path.is_file()}
    ours = {path.as_posix() for path in files if "__pycache__" not in path.parts and path.suffix not in (".c", ".so")}
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} - {*extensions(wheel)} == ours


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_wheel_carries_the_extension_that_this_python_can_import(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    (name,) = extensions(wheel)
    wheel.extract(name, tmp_path)
    spec = importlib.util.spec_from_file_location("ttbert.convert._pack", tmp_path / name)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    packed = bytearray(4)
    module.pack(memoryview(struct.pack("2f", 1, -2)).cast("B").cast("f", (1, 1, 2)), packed, 0)
    assert packed == bytes.fromhex("803f00c0")


def test_without_a_compiler_the_wheel_is_built_and_packs_with_numpy(tmp_path: Path) -> None:
    with build(tmp_path, CC="/does/not/exist") as wheel:
        assert not extensions(wheel) and "ttbert/convert/packing.py" in wheel.namelist()


@pytest.mark.parametrize(
    "path",
    [
        "ttbert/py.typed",
        "ttbert/demo/inputs.json",
        "ttbert/mock/n150.yaml",
        "ttbert/models/bundled/config.json",
        "ttbert/models/bundled/model.safetensors",
        "ttbert/models/bundled/tokenizer.json",
        "ttbert/models/bundled/tokenizer_config.json",
        "ttbert/models/bundled/vocab.txt",
    ],
)
def test_wheel_has_the_files_that_the_package_reads(wheel: zipfile.ZipFile, path: str) -> None:
    assert wheel.read(path) == (ROOT / path).read_bytes()


@pytest.mark.parametrize("name", ["LICENSE", "NOTICE"])
def test_wheel_has_the_license_and_the_notice(wheel: zipfile.ZipFile, name: str) -> None:
    assert metadata(wheel, f"licenses/{name}") == (ROOT / name).read_text()


def test_wheel_states_license_pythons_and_command(wheel: zipfile.ZipFile) -> None:
    about = metadata(wheel, "METADATA").splitlines()
    assert "License-Expression: Apache-2.0" in about
    assert "Requires-Python: !=3.11.*,<3.13,>=3.10" in about
    assert metadata(wheel, "entry_points.txt").split("\n")[:2] == ["[console_scripts]", "ttbert = ttbert.__main__:main"]


def test_what_is_installed_with_the_wheel_is_imported_by_it(wheel: zipfile.ZipFile) -> None:
    required = {
        re.split("[>=<!;\\[ ]", line.removeprefix("Requires-Dist: "))[0].replace("-", "_")
        for line in metadata(wheel, "METADATA").splitlines()
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    }
    sources = "\n".join(wheel.read(name).decode() for name in wheel.namelist() if name.endswith(".py"))
    imported = set(re.findall(r"^ *(?:import|from) (\w+)", sources, re.MULTILINE))
    assert required - imported == set()
