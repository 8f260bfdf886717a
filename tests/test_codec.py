"""Who packs on which machine: real conversions with and without ttnn, its known and other versions, and the extension."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tiny
from program import Done, environment, imported, make_hook, objects, ttbert

from ttbert.convert.packing import has_extension

NO_EXTENSION = "import sys; sys.modules['ttbert.convert._pack'] = None"

ROUNDS_DOWN = """
import sys, types
import numpy as np
def pack(array, buffer, format):
    "An extension that cuts bfloat16 off where it should round."
    if format == 0:
        np.frombuffer(buffer, "<u2")[:] = (np.ascontiguousarray(array).view("<u4") >> 16).ravel()
sys.modules["ttbert.convert._pack"] = types.ModuleType("_pack")
sys.modules["ttbert.convert._pack"].pack = pack
"""

OTHER_TTNN = """
TILE_LAYOUT = ROW_MAJOR_LAYOUT = bfloat16 = bfloat8_b = bfloat4_b = None
def Tensor(array, data_type, layout):
    return array
def dump_tensor(path, tensor):
    "A ttnn of times to come, with another format."
    with open(path, "wb") as file:
        file.write(b"TENSOR2" + tensor.tobytes())
"""


@dataclass(frozen=True)
class Converted:
    folder: Path
    done: Done
    blobs: dict[str, bytes]


def blobs(cache: Path) -> dict[str, bytes]:
    return {path: content for path, content in objects(cache).items() if path.startswith("blobs/")}


def packer(name: str, cache: Path) -> str:
    shown = ttbert("cache", "show", name, "--json", "--cache", cache).succeeded()
    return str(shown.document["provenance"]["versions"]["packer"])


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """The tiny model, packed as it is on this machine."""
    root = tmp_path_factory.mktemp("converted")
    folder = tiny.write(root / "tiny", tiny.checkpoint())
    done = ttbert("convert", folder, "--cache", root / "cache", PYTHONPROFILEIMPORTTIME="1").succeeded()
    return Converted(folder, done, blobs(root / "cache"))


def install(folder: Path, version: str) -> Path:
    """A folder that says, first of all on the path, that this version of ttnn is installed."""
    info = folder / f"ttnn-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ttnn\nVersion: {version}\n")
    return folder


def test_a_known_ttnn_is_not_even_imported(converted: Converted) -> None:
    assert not imported(converted.done) & {"ttnn", "torch", "transformers"}


@pytest.mark.skipif(not has_extension(), reason="the C extension was not built: no compiler?")
def test_with_the_extension_nothing_is_said_of_packing(converted: Converted) -> None:
    said = [line for line in converted.done.err.splitlines() if not line.startswith("import time:")]
    assert [line.split()[:2] for line in said] == [["converting", str(converted.folder) + ":"], ["note:", "local/tiny:bfp8"]]


@pytest.mark.parametrize("hook", [NO_EXTENSION, ROUNDS_DOWN], ids=["not built", "wrong"])
def test_without_a_right_extension_numpy_packs_the_same_and_says_so(converted: Converted, hook: str, tmp_path: Path) -> None:
    made = make_hook(tmp_path / "hook", hook)
    done = ttbert("convert", converted.folder, "--cache", tmp_path / "cache", hook=made).succeeded()
    assert [line for line in done.err.splitlines() if line.startswith("packing with numpy")]
    assert blobs(tmp_path / "cache") == converted.blobs
    assert packer("local/tiny", tmp_path / "cache") == "numpy"


def test_with_another_version_of_ttnn_it_packs_itself_and_that_is_said(converted: Converted, tmp_path: Path) -> None:
    done = ttbert("convert", converted.folder, "--cache", tmp_path / "cache", hook=install(tmp_path / "new", "9.9")).succeeded()
    assert [line for line in done.err.splitlines() if line.startswith("ttnn 9.9 packs, which takes longer")]
    assert blobs(tmp_path / "cache") == converted.blobs
    assert packer("local/tiny", tmp_path / "cache") == "ttnn 9.9"


def test_ttnn_that_packs_in_another_way_is_refused(converted: Converted, tmp_path: Path) -> None:
    folder = install(tmp_path / "new", "9.9")
    (folder / "ttnn.py").write_text(OTHER_TTNN)
    done = ttbert("convert", converted.folder, "--cache", tmp_path / "cache", hook=folder)
    done.failed(1, "ttnn 9.9 packs tensors in another way than tensorbin/1", "install ttnn 0.81.1")
    assert not [path for path in objects(tmp_path / "cache") if path.startswith("manifests/")]


def test_conversion_needs_neither_ttnn_nor_torch_to_be_installed(converted: Converted, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    for entry in Path(np.__file__).parent.parent.iterdir():
        if not entry.name.startswith(("ttnn", "torch", "transformers", "__pycache__")):
            (site / entry.name).symlink_to(entry)
    path = [str(site), str(Path(__file__).parent.parent)]
    done = subprocess.run(
        [sys.executable, "-S", "-m", "ttbert", "convert", converted.folder, "--cache", tmp_path / "cache", "--json"],
        env={**environment(), "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert not json.loads(done.stdout)["hit"] and "packs" not in done.stderr
    assert blobs(tmp_path / "cache") == converted.blobs
