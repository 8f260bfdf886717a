"""Exporting for tt-metal: the names that its BERT-large demo looks for, and in them the bytes that it would write itself."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from forks import Forks
from models import files, flip_bit
from program import Done, ttbert

from ttbert.cache.cache import blob_key
from ttbert.cache.places import Places
from ttbert.recipe.tt_metal import file_name

HIDDEN, INNER, LAYERS, HEADS = 256, 512, 2, 8

# What the demo's classes compute on a miss (tenstorrent/tt-metal, models/demos/metal_BERT_large_11/tt, as of 2026-05), in our
# words: file by file, from the checkpoint's tensors, by TT-NN's from_torch. Biases are one row, as since #43063.
DUMPED_BY_THE_DEMO = """
import sys, numpy, torch
from pathlib import Path
from safetensors.torch import load_file
from ttbert.tt import host_ttnn
ttnn = host_ttnn()
weights, folder = load_file(sys.argv[1]), Path(sys.argv[2])
B8, B16, TILE, ROWS = ttnn.bfloat8_b, ttnn.bfloat16, ttnn.TILE_LAYOUT, ttnn.ROW_MAJOR_LAYOUT
def dump(name, tensor, dtype, layout, suffix=""):
    made = ttnn.from_torch(tensor.contiguous(), dtype=dtype, layout=layout)
    ttnn.dump_tensor(str(folder / f"{name}_{dtype.name}{suffix}.tensorbin"), made)
def matrix(tensor):
    return tensor.T.reshape(1, 1, tensor.shape[1], tensor.shape[0])
def row(tensor):
    return tensor.reshape(1, 1, 1, -1)
def norm(name, source, bias="bias"):
    dump(f"{name}.weight", weights[f"{source}.weight"].reshape(1, 1, -1, 32), B16, ROWS)
    dump(f"{name}.{bias}", weights[f"{source}.bias"].reshape(1, 1, -1, 32), B16, ROWS)
for table in ("word", "position", "token_type"):
    dump(f"bert.embeddings.{table}_embeddings.weight", weights[f"bert.embeddings.{table}_embeddings.weight"], B16, ROWS)
norm("bert.embeddings.LayerNorm", "bert.embeddings.LayerNorm", "beta")
for i in range(int(sys.argv[3])):
    layer = f"bert.encoder.layer.{i}"
    parts = [weights[f"{layer}.attention.self.{part}.weight"].T for part in ("query", "key", "value")]
    fused = torch.cat([part.reshape(part.shape[0], 8, -1) for part in parts], -1)
    dump(f"{layer}.attention.self.qkv.weight_interleaved_8", fused.reshape(1, 1, parts[0].shape[0], -1), B8, TILE)
    parts = [weights[f"{layer}.attention.self.{part}.bias"].reshape(8, -1) for part in ("query", "key", "value")]
    dump(f"{layer}.attention.self.qkv.bias_interleaved_8", row(torch.cat(parts, -1).reshape(-1)), B8, TILE, "_v2")
    for name in ("attention.output.dense", "intermediate.dense", "output.dense"):
        dump(f"{layer}.{name}.weight", matrix(weights[f"{layer}.{name}.weight"]), B8, TILE)
        dump(f"{layer}.{name}.bias", row(weights[f"{layer}.{name}.bias"]), B8, TILE)
    for name in ("attention.output.LayerNorm", "output.LayerNorm"):
        norm(f"{layer}.{name}", f"{layer}.{name}")
pad = torch.nn.functional.pad
dump("qa_outputs.weight", pad(matrix(weights["qa_outputs.weight"]), (0, 30)), B8, TILE)
dump("qa_outputs.bias", pad(row(weights["qa_outputs.bias"]), (0, 30)), B8, TILE)
"""

LOADED_BY_TTNN = """
import json, sys
from pathlib import Path
from ttbert.tt import host_ttnn
ttnn = host_ttnn()
found = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    tensor = ttnn.load_tensor(str(path))
    found[path.name] = [list(tensor.shape), tensor.dtype.name, tensor.layout.name]
print(json.dumps(found))
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """A model whose heads spread over eight cores, its checkpoint, and a cache with it."""

    checkpoint: Path
    cache: Path

    def run(self, *arguments: object, **variables: str) -> Done:
        return ttbert("cache", *arguments, "--cache", self.cache, **variables)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Case:
    root = tmp_path_factory.mktemp("export")
    random = np.random.default_rng(7)
    sizes = {tiny.HIDDEN: HIDDEN, tiny.INNER: INNER}
    arrays = {
        name: random.standard_normal([sizes.get(size, size) for size in array.shape]).astype(np.float32)
        for name, array in tiny.arrays(layers=LAYERS).items()
    }
    files = tiny.checkpoint(
        arrays, hidden_size=HIDDEN, intermediate_size=INNER, num_attention_heads=HEADS, num_hidden_layers=LAYERS
    )
    checkpoint, cache = tiny.write(root / "wide", files), root / "cache"
    forks.ttbert("convert", checkpoint, cache=cache).succeeded()
    return Case(checkpoint, cache)


def python(code: str, *arguments: object) -> str:
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def test_the_files_are_byte_for_byte_those_that_the_demo_writes_itself(case: Case, tmp_path: Path) -> None:
    done = case.run("export", "wide", tmp_path / "ours", "--layout", "tt-metal").succeeded()
    assert f"{5 + 12 * LAYERS + 2} files written" in done.out and "not those of BERT-large" in done.err
    (tmp_path / "theirs").mkdir()
    python(DUMPED_BY_THE_DEMO, case.checkpoint / "model.safetensors", tmp_path / "theirs", LAYERS)
    ours, theirs = files(tmp_path / "ours"), files(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_ttnn_loads_every_file(case: Case, tmp_path: Path) -> None:
    case.run("export", "wide", tmp_path / "out", "--layout", "tt-metal").succeeded()
    found = json.loads(python(LOADED_BY_TTNN, tmp_path / "out"))
    assert len(found) == 5 + 12 * LAYERS + 2
    name = "bert.encoder.layer.1.attention.self.qkv.weight_interleaved_8_BFLOAT8_B.tensorbin"
    assert found[name] == [[1, 1, HIDDEN, 3 * HIDDEN], "BFLOAT8_B", "TILE"]
    assert found["bert.embeddings.LayerNorm.beta_BFLOAT16.tensorbin"] == [[1, 1, HIDDEN // 32, 32], "BFLOAT16", "ROW_MAJOR"]


def test_exporting_again_keeps_what_is_there_and_never_overwrites(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    case.run("export", "wide", folder, "--layout", "tt-metal").succeeded()
    before = files(folder)
    (folder / "qa_outputs.bias_BFLOAT8_B.tensorbin").unlink()
    again = case.run("export", "wide", folder, "--layout", "tt-metal", "--json").succeeded().document
    assert (again["written"], again["kept"]) == (1, 4 + 12 * LAYERS + 2) and files(folder) == before
    flip_bit(folder / "qa_outputs.bias_BFLOAT8_B.tensorbin", -1)
    damaged = files(folder)
    case.run("export", "wide", folder, "--layout", "tt-metal").failed(2, "qa_outputs.bias", "other bytes", "empty folder")
    assert files(folder) == damaged
    (folder / "qa_outputs.bias_BFLOAT8_B.tensorbin").write_bytes(b"short")
    case.run("export", "wide", folder, "--layout", "tt-metal").failed_at_once(2, "other bytes")


def test_a_cache_that_is_only_read_here_is_not_told_of_the_use(case: Case, tmp_path: Path) -> None:
    shutil.rmtree(case.cache / "used")
    before = files(case.cache)
    case.run("export", "wide", tmp_path / "out", "--layout", "tt-metal", TTBERT_READ_ONLY="1").succeeded()
    assert files(case.cache) == before
    case.run("export", "wide", tmp_path / "out", "--layout", "tt-metal").succeeded()
    assert [name.partition("/")[0] for name in files(case.cache).keys() - before.keys()] == ["used"]


def test_damaged_bytes_are_not_exported(case: Case, tmp_path: Path) -> None:
    cache = Places(str(case.cache)).open()
    (ref,) = cache.list_refs()
    cached = cache.resolve(ref)
    assert cached is not None
    path = case.cache / blob_key(cached.manifest.packs[1].blob)
    flip_bit(path, 1000)
    try:
        case.run("export", "wide", tmp_path / "out", "--layout", "tt-metal").failed(7, "damaged")
        exported = files(tmp_path / "out")
        assert all("encoder" not in name for name in exported), "only what came before it"
    finally:
        flip_bit(path, 1000)


def test_what_the_demo_cannot_read_is_refused(case: Case, tmp_path: Path, forks: Forks) -> None:
    narrow = tiny.write(tmp_path / "narrow", tiny.checkpoint())
    headless = tiny.checkpoint(
        {name: array for name, array in tiny.arrays(layers=1, prefix="").items() if "qa_outputs" not in name},
        architectures=["BertModel"],
        num_hidden_layers=1,
    )
    cache = tmp_path / "cache"
    forks.ttbert("convert", narrow, cache=cache).succeeded()
    forks.ttbert("convert", narrow, "--policy", "bf16", cache=cache).succeeded()
    forks.ttbert("convert", tiny.write(tmp_path / "headless", headless), cache=cache).succeeded()
    for name, says in (("narrow:bfp8", "over 8 cores"), ("narrow:bf16", "--policy bfp8"), ("headless", "no head")):
        done = ttbert("cache", "export", name, tmp_path / "out", "--layout", "tt-metal", "--cache", cache)
        done.failed_at_once(2, says)
    assert not (tmp_path / "out").exists()


def test_a_file_where_the_folder_should_be_is_named(case: Case, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    done = case.run("export", "wide", tmp_path / "out", "--layout", "tt-metal")
    done.failed_at_once(2, f"{tmp_path}/out is a file", "another folder to export to")


def test_a_full_disk_is_found_before_the_first_file(case: Case, small_disk: Path) -> None:
    done = case.run("export", "wide", small_disk / "out", "--layout", "tt-metal")
    done.failed_at_once(10, "bytes needed", "free", "--no-space-check", "another folder to export to")
    assert "cache gc" not in done.err
    assert not (small_disk / "out").exists()
    forced = case.run("export", "wide", small_disk / "out", "--layout", "tt-metal", "--no-space-check")
    forced.failed(10, "no space left", "another folder")
    cache = Places(str(case.cache)).open()
    (ref,) = cache.list_refs()
    cached = cache.resolve(ref)
    assert cached is not None
    sizes = {file_name(entry): entry.size for entry in cached.manifest.tensors}
    whole = {path.name: path.stat().st_size for path in (small_disk / "out").iterdir()}
    assert 0 < len(whole) < len(sizes) and whole.items() <= sizes.items(), "no file is there in part"
