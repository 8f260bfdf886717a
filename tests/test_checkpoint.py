"""What reading a checkpoint's tensors promises; hostile and damaged files each meet one named error."""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import save, save_file

from ttbert.convert.checkpoint import Checkpoint, open_checkpoint, weight_files
from ttbert.convert.hub import HubCacheSource
from ttbert.convert.source import Source
from ttbert.convert.wanted import open_source
from ttbert.errors import CheckpointError, NotCached

VALUES = np.array([[0.0, -0.0, 1.0], [-1.5, 0.1, 65504.0]])


def source_with(folder: Path, *names: str) -> Source:
    for name in names:
        (folder / name).write_bytes(b"x")
    return open_source(str(folder))


def write_shards(folder: Path, shards: dict[str, dict[str, Any]], index: dict[str, str] | None = None) -> None:
    for shard, tensors in shards.items():
        save_file(tensors, folder / shard)
    index = {name: shard for shard, names in shards.items() for name in names} if index is None else index
    write_index(folder, {"metadata": {}, "weight_map": index})


def write_index(folder: Path, document: object, name: str = "model.safetensors.index.json") -> None:
    (folder / name).write_text(document if isinstance(document, str) else json.dumps(document))


def memory_for(checkpoint: Checkpoint, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.empty(int(np.prod(checkpoint.shapes[name])), np.float32)


def ones(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.ones(shape, np.float32)


# Which files


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        (["model.safetensors", "pytorch_model.bin"], "model.safetensors"),
        (["model.safetensors", "model.safetensors.index.json"], "model.safetensors"),
        (["pytorch_model.bin", "tf_model.h5"], "pytorch_model.bin"),
    ],
)
def test_safetensors_come_before_pickles_and_one_file_before_shards(tmp_path: Path, there: list[str], chosen: str) -> None:
    assert weight_files(source_with(tmp_path, *there)) == (chosen,)


def test_sharded_safetensors_come_before_a_pickle(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a.safetensors": {"x": ones(1)}, "b.safetensors": {"y": ones(1)}})
    assert weight_files(source_with(tmp_path, "pytorch_model.bin")) == ("a.safetensors", "b.safetensors")


def test_checkpoint_without_weights_says_what_is_there_and_what_is_looked_for(tmp_path: Path) -> None:
    source = source_with(tmp_path, "config.json", "tf_model.h5", "flax_model.msgpack")
    with pytest.raises(CheckpointError) as caught:
        weight_files(source)
    for part in ("config.json", "model.safetensors", "pytorch_model.bin", "TensorFlow", "Flax"):
        assert part in caught.value.message
    assert "\n" not in caught.value.message


def test_missing_shards_are_listed(tmp_path: Path) -> None:
    index = {"x": "a.safetensors", "y": "b.safetensors", "z": "c.safetensors"}
    write_shards(tmp_path, {"a.safetensors": {"x": ones(1)}}, index)
    with pytest.raises(CheckpointError, match=r"b\.safetensors, c\.safetensors that are not there"):
        weight_files(open_source(str(tmp_path)))


def test_weights_missing_in_a_local_cache_are_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "1" * 40
    snapshot = tmp_path / "models--org--bert" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (snapshot / "config.json").write_text("{}")
    with pytest.raises(NotCached, match="org/bert has none of"):
        weight_files(HubCacheSource("org/bert", commit))
    write_index(snapshot, {"weight_map": {"x": "a.safetensors"}})
    with pytest.raises(NotCached, match=r"a\.safetensors"):
        weight_files(HubCacheSource("org/bert", commit))


@pytest.mark.parametrize(
    "shard",
    ["../a.safetensors", "/etc/a.safetensors", "sub/a.safetensors", "..\\a.safetensors", ".a.safetensors", "a.bin", ""],
)
def test_index_cannot_name_a_file_outside_or_of_another_kind(tmp_path: Path, shard: str) -> None:
    write_index(tmp_path, {"weight_map": {"x": shard}})
    with pytest.raises(CheckpointError, match=r"not a \.safetensors file"):
        weight_files(source_with(tmp_path, "a.bin"))


@pytest.mark.parametrize(
    "document",
    [
        "{",
        "[]",
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": []}',
        '{"weight_map": {"x": 1}}',
        '{"weight_map": {"x": "a.safetensors", "x": "b.safetensors"}}',
        "[" * 100_000,
        "\udcff",
    ],
    ids=range(9),
)
def test_malformed_index_is_refused(tmp_path: Path, document: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_bytes(document.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"index\.json is damaged"):
        weight_files(source_with(tmp_path, "a.safetensors", "b.safetensors"))


# Tensors


@pytest.mark.parametrize(
    ("dtype", "name"), [(np.float32, "F32"), (np.float16, "F16"), (np.float64, "F64"), (ml_dtypes.bfloat16, "BF16")]
)
def test_stored_types_are_read_as_float32(tmp_path: Path, dtype: Any, name: str) -> None:
    stored = VALUES.astype(dtype)
    # An odd number of bytes in front, since tensors need not be aligned.
    save_file({"a": np.zeros(3, np.uint8), "x": stored, "scalar": np.array(stored[1, 1])}, tmp_path / "x.safetensors")
    checkpoint = Checkpoint([tmp_path / "x.safetensors"])
    assert checkpoint.shapes["x"] == (2, 3) and checkpoint.shapes["scalar"] == () and checkpoint.dtypes["x"] == name
    array = checkpoint.read("x")
    assert array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable
    assert array.tobytes() == stored.astype(np.float32).tobytes()
    assert checkpoint.read("scalar") == stored[1, 1].astype(np.float32)


def test_every_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    finite = every[np.isfinite(every.astype(np.float32))]
    save_file({"x": finite}, tmp_path / "x.safetensors")
    assert Checkpoint([tmp_path / "x.safetensors"]).read("x").tobytes() == finite.astype(np.float32).tobytes()


def test_empty_tensor_is_read(tmp_path: Path) -> None:
    save_file({"x": np.zeros((0, 4), np.float32)}, tmp_path / "x.safetensors")
    assert Checkpoint([tmp_path / "x.safetensors"]).read("x").shape == (0, 4)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_other_types_are_refused_when_read_and_not_before(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    if suffix == "bin":
        torch.save({"ids": torch.arange(3), "x": torch.ones(2)}, path)
    else:
        save_file({"ids": np.arange(3), "x": ones(2)}, path)
    checkpoint = Checkpoint([path])
    assert checkpoint.dtypes["ids"] == "I64"
    assert checkpoint.read("x").tolist() == [1, 1]
    with pytest.raises(CheckpointError, match="'ids' is stored as I64"):
        checkpoint.read("ids")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
def test_nan_and_infinity_are_refused_with_their_number(tmp_path: Path, dtype: Any) -> None:
    save_file({"x": np.array([1, np.nan, np.inf, -np.inf], dtype)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="'x' holds 3 values"):
        Checkpoint([tmp_path / "x.safetensors"]).read("x")


def test_double_too_large_for_float32_is_refused(tmp_path: Path) -> None:
    save_file({"x": np.array([1e300, 1.0])}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="'x' holds 1 value that is"):
        Checkpoint([tmp_path / "x.safetensors"]).read("x")


def test_unknown_name_is_a_key_error(tmp_path: Path) -> None:
    save_file({"x": ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(KeyError):
        Checkpoint([tmp_path / "x.safetensors"]).read("y")


# Shards


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a.safetensors": {"x": ones(2)}, "b.safetensors": {"y": 2 * ones(3)}})
    with open_checkpoint(open_source(str(tmp_path))) as checkpoint:
        assert dict(checkpoint.shapes) == {"x": (2,), "y": (3,)}
        assert checkpoint.read("y").tolist() == [2, 2, 2]


def test_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a.safetensors": {"x": ones(2)}, "b.safetensors": {"x": ones(2)}})
    with pytest.raises(CheckpointError, match=r"x in a\.safetensors and again in b\.safetensors"):
        Checkpoint([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])


@pytest.mark.parametrize("index", [{"x": "a.safetensors", "z": "b.safetensors"}, {"y": "a.safetensors", "z": "b.safetensors"}])
def test_tensor_that_is_not_in_its_shard_is_listed(tmp_path: Path, index: dict[str, str]) -> None:
    write_shards(tmp_path, {"a.safetensors": {"x": ones(1)}, "b.safetensors": {"y": ones(1)}}, index)
    with pytest.raises(CheckpointError, match=r"its shards do not have: .*z"):
        open_checkpoint(open_source(str(tmp_path)))


# Damaged and lying safetensors


def _safetensors(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def _entry(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


WHOLE = save({"x": np.ones((64, 64), np.float32)})
LARGE = save({"x": np.ones((256, 128), np.float32)})
"""Of a tensor that is worth looking for in the page cache."""
HOSTILE = {
    "empty": b"",
    "truncated in the length": WHOLE[:5],
    "truncated in the header": WHOLE[:20],
    "truncated in the data": WHOLE[:-1],
    "trailing bytes": WHOLE + b"x",
    "html": b"<!doctype html><html>not found</html>",
    "huge header length": _safetensors({}, length=1 << 62),
    "header is a list": _safetensors([1, 2]),
    "overlap": _safetensors({"a": _entry(0, 8, [2]), "b": _entry(4, 12, [2])}, bytes(12)),
    "gap": _safetensors({"a": _entry(0, 4, [1]), "b": _entry(8, 12, [1])}, bytes(12)),
    "beyond the end": _safetensors({"a": _entry(0, 4000, [1000])}, bytes(8)),
    "negative offset": _safetensors({"a": _entry(-4, 4, [2])}, bytes(8)),
    "shape larger than bytes": _safetensors({"a": _entry(0, 8, [1 << 40])}, bytes(8)),
    "shape that overflows": _safetensors({"a": _entry(0, 0, [1 << 33, 1 << 33])}),
    "unknown type": _safetensors({"a": _entry(0, 8, [2], "F33")}, bytes(8)),
    "same name twice": _safetensors(
        b'{"a":' + json.dumps(_entry(0, 4, [1])).encode() + b',"a":' + json.dumps(_entry(0, 4, [1])).encode() + b"}",
        bytes(4),
    ),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_damaged_or_lying_safetensors_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged") as caught:
        Checkpoint([path])
    assert "\n" not in caught.value.message and caught.value.__cause__ is not None


def test_file_cut_after_it_was_opened_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(WHOLE)
    checkpoint = Checkpoint([path])
    path.write_bytes(WHOLE[:5000])
    with pytest.raises(CheckpointError, match="ends inside of tensor 'x'"):
        checkpoint.read("x")


def test_file_cut_before_it_is_looked_at_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(LARGE)
    checkpoint = Checkpoint([path])
    path.write_bytes(LARGE[:5000])
    with pytest.raises(CheckpointError, match="ends inside of tensor 'x'"), checkpoint.look("x", memory_for(checkpoint, "x")):
        pass


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
def test_what_is_looked_at_is_what_is_read(tmp_path: Path, dtype: Any) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"x": np.random.default_rng(1).standard_normal((32, 1024)).astype(dtype), "none": np.zeros((0, 3), dtype)}, path)
    checkpoint = Checkpoint([path])
    for name in ("x", "none"):
        with checkpoint.look(name, memory_for(checkpoint, name)) as array:
            assert array.tobytes() == checkpoint.read(name).tobytes() and array.shape == checkpoint.shapes[name]


def test_where_a_file_cannot_be_looked_at_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(LARGE)
    checkpoint = Checkpoint([path])
    memory = memory_for(checkpoint, "x")
    with checkpoint.look("x", memory) as array:
        assert not np.shares_memory(array, memory)
    with path.open("r+b"), checkpoint.look("x", memory) as array:  # nobody gets a lease on it
        assert np.shares_memory(array, memory) and array.tobytes() == checkpoint.read("x").tobytes()


def test_tensors_at_an_odd_place_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    header = json.dumps({"x": {"dtype": "F32", "shape": [40_000], "data_offsets": [0, 160_000]}}).encode()
    header += b" " * (3 - len(header) % 4)
    path.write_bytes(struct.pack("<Q", len(header)) + header + np.arange(40_000, dtype="<f4").tobytes())
    checkpoint = Checkpoint([path])
    with checkpoint.look("x", memory_for(checkpoint, "x")) as array:
        assert array.tolist() == [*range(40_000)]


def test_absent_file_is_a_checkpoint_error(tmp_path: Path) -> None:
    for name in ("model.safetensors", "pytorch_model.bin"):
        with pytest.raises(CheckpointError, match=re.escape(name)):
            Checkpoint([tmp_path / name])


# Pickles


def _save_legacy(tensors: object, path: Path) -> None:
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [torch.save, _save_legacy], ids=["zip", "legacy"])
def test_tensors_of_a_pickle_are_read_as_float32(tmp_path: Path, write: Callable[[object, Path], None]) -> None:
    path = tmp_path / "pytorch_model.bin"
    values = torch.tensor(VALUES)
    shared = values.float()
    tensors = OrderedDict(
        f32=shared,
        view=shared.t(),
        f64=values,
        f16=values.half(),
        bf16=values.bfloat16(),
        parameter=torch.nn.Parameter(values.float()),
        scalar=torch.tensor(0.5),
    )
    write(tensors, path)
    checkpoint = open_checkpoint(open_source(str(tmp_path)))
    assert dict(checkpoint.dtypes) == {
        "f32": "F32", "view": "F32", "f64": "F64", "f16": "F16", "bf16": "BF16", "parameter": "F32", "scalar": "F32",
    }  # fmt: skip
    for name, tensor in tensors.items():
        array = checkpoint.read(name)
        assert array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable
        assert checkpoint.shapes[name] == array.shape == tuple(tensor.shape)
        assert array.tobytes() == tensor.detach().float().contiguous().numpy().tobytes()


def test_what_is_read_of_a_pickle_is_a_copy(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(2)}, tmp_path / "x.bin")
    checkpoint = Checkpoint([tmp_path / "x.bin"])
    checkpoint.read("x")[:] = 7
    assert checkpoint.read("x").tolist() == [1, 1]


def test_sharded_pickle_is_read(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(2)}, tmp_path / "a.bin")
    torch.save({"y": torch.zeros(1)}, tmp_path / "b.bin")
    write_index(tmp_path, {"weight_map": {"x": "a.bin", "y": "b.bin"}}, "pytorch_model.bin.index.json")
    assert dict(open_checkpoint(open_source(str(tmp_path))).shapes) == {"x": (2,), "y": (1,)}


class _Payload:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.marker, "w"))


@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
def test_pickle_that_would_run_code_is_refused_and_runs_nothing(
    tmp_path: Path, form: str, recwarn: pytest.WarningsRecorder
) -> None:
    path, marker = tmp_path / "pytorch_model.bin", tmp_path / "owned"
    hostile = {"x": torch.ones(1), "y": _Payload(str(marker))}
    if form == "plain":
        path.write_bytes(pickle.dumps(_Payload(str(marker))))
    else:
        (torch.save if form == "zip" else _save_legacy)(hostile, path)  # type: ignore[operator]
    with pytest.raises(CheckpointError) as caught:
        Checkpoint([path])
    assert str(path) in caught.value.message and "safetensors" in caught.value.hint
    assert "weights_only" not in caught.value.message
    assert "\n" not in caught.value.message and not marker.exists() and not recwarn.list


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"state_dict": {"x": torch.ones(1)}, "epoch": 3}, "'state_dict' is a dict"),
        ({"x": torch.ones(1), "epoch": 3}, "'epoch' is a int"),
        ({1: torch.ones(1)}, "not a flat dictionary"),
        ([torch.ones(1)], "holds a list"),
        (torch.ones(1), "holds a Tensor"),
        ({"x": torch.ones(2, 2).to_sparse()}, "'x' is a Tensor"),
    ],
    ids=range(6),
)
def test_pickle_that_is_not_a_flat_dictionary_of_tensors_is_refused(tmp_path: Path, content: Any, found: str) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=found):
        Checkpoint([tmp_path / "pytorch_model.bin"])


def _zip() -> bytes:
    file = io.BytesIO()
    torch.save({"x": torch.ones(64, 64)}, file)
    return file.getvalue()


def _foreign_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("word/document.xml", "<w/>")
    return file.getvalue()


DAMAGED = {
    "empty": b"",
    "truncated": _zip()[: len(_zip()) // 2],
    "without its end": _zip()[:-30],
    "html": b"<!doctype html><html>not found</html>",
    "another zip": _foreign_zip(),
    "garbage": bytes(range(256)) * 64,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_pickle_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is damaged") as caught:
        Checkpoint([path])
    assert "\n" not in caught.value.message


# Memory

PEAK = """
import re, sys
from pathlib import Path
from ttbert.convert.checkpoint import Checkpoint
def memory(field):
    return int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
path = Path(sys.argv[1])
checkpoint = Checkpoint([path])
checkpoint.read("small")
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
for name in checkpoint.shapes:
    checkpoint.read(name)
print(memory("VmHWM") - before, before)
"""


@pytest.mark.parametrize(("suffix", "bound"), [("safetensors", 160), ("bin", 400)])
def test_reading_all_tensors_does_not_hold_the_file_in_memory(tmp_path: Path, suffix: str, bound: int) -> None:
    path = tmp_path / f"model.{suffix}"
    tensors = {f"layer.{i}": np.full((16, 1 << 19), i + 1, np.float32) for i in range(19)} | {"small": ones(1)}
    if suffix == "bin":
        torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, path)
    else:
        save_file(tensors, path)
    assert path.stat().st_size > 600e6
    del tensors
    done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    path.unlink()
    peak = float(done.stdout.split()[0])
    print(f"{suffix}: peak {peak:.0f} MiB above the start")
    assert peak < bound
