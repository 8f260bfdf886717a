"""Loading a converted model into host memory that a device can take, from a folder: page cache warm, and cold.

Imports are not counted. Every case ends with the same payloads in memory and every page of them touched; which bytes those
are is compared by digest afterwards. Only ttbert checks digests while the clock runs: its peers have none to check.

The peers:
- tt-metal's way: transformers' from_pretrained, then ttnn.as_tensor with a cache file for every tensor, all of which are there.
  Once with the float32 weights in memory, as callers have them that transpose and fuse before they call as_tensor, and once
  as little as is possible with transformers 5: it maps the checkpoint, as_tensor looks at no weight, so nobody reads any;
- ttnn.load_tensor of every file, copied;
- safetensors' load_file of one file with all of the same payloads, copied.
The limit is reading the same packs into fresh memory on every core, and nothing else.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import blake3
import numpy as np

from ttbert.cache.cache import Cache, Cached, blob_key
from ttbert.cache.manifest import TensorEntry
from ttbert.cache.places import Places
from ttbert.memory import page_aligned
from ttbert.recipe.bert import bert_recipe
from ttbert.recipe.policy import POLICIES
from ttbert.recipe.recipe import Recipe, TensorRecipe
from ttbert.runtime.loader import CachedModel
from ttbert.threads import processors
from ttbert.tt import host_ttnn

from .inputs import make_cache, make_checkpoint, shape_of, stored_name
from .measure import Case, Clock, can_evict, compare, evict, warm
from .report import Limit, Report, Table

SAFETENSORS = "payloads.safetensors"


def run(folder: Path, small: bool, rounds: int) -> Report:
    checkpoint = make_checkpoint(folder, shape_of(small))
    cache = make_cache(folder, checkpoint)
    files = make_files(folder / f"files-{checkpoint.name}", Places(str(cache)).open())
    places = {"checkpoint": str(checkpoint), "cache": str(cache), "files": str(files)}
    cases = [
        Case("ttbert, digests checked", "load:load_ttbert", places),
        Case("from_pretrained, as_tensor", "load:load_upstream", {**places, "read": True}),
        Case("the same, no weight read", "load:load_upstream", {**places, "read": False}),
        Case("ttnn.load_tensor of each, copied", "load:load_files", places),
        Case("safetensors load_file, copied", "load:load_safetensors", places),
        Case("packs read into fresh memory", "load:read_packs", places),
    ]
    read = [path for place in (checkpoint, cache / "blobs", files) for path in place.rglob("*") if path.is_file()]
    size = sum(each.size for each in cached_model(Places(str(cache)).open()).manifest.packs)
    tables: list[Table] = []
    states = {"warm": partial(warm, read), "cold": partial(evict, read)}
    if not can_evict(folder):
        del states["cold"]
    for state, before in states.items():
        *rows, limit = compare(cases, rounds, before)
        title = f"loading {size / 1e6:,.0f} MB to host memory, page cache {state}"
        tables.append(Table(title, tuple(rows), Limit(limit.name, limit.seconds), size=size))
    notes = () if "cold" in states else (f"{folder} is not on a disk, so nothing of it is ever out of the page cache",)
    return Report("load", tuple(tables), notes)


def make_files(folder: Path, cache: Cache) -> Path:
    """The cached tensors as the peers want them: a file each, named as ttnn.as_tensor names it, and one safetensors file."""
    from safetensors.numpy import save_file

    if folder.exists():
        return folder
    unfinished = folder.with_suffix(".unfinished")
    unfinished.mkdir(exist_ok=True)
    payloads = {}
    for pack in cached_model(cache).manifest.packs:
        content = cache.store.get(blob_key(pack.blob))
        for tensor, offset in pack.places():
            file = content[offset : offset + tensor.size]
            (unfinished / file_name(tensor)).write_bytes(file)
            payloads[tensor.name] = np.frombuffer(file, np.uint8)
    for each in recipe_of(cache).tensors:
        payloads[each.name] = payloads[each.name][-each.payload :]
    save_file(payloads, unfinished / SAFETENSORS)
    return unfinished.rename(folder)


def file_name(tensor: TensorEntry | TensorRecipe) -> str:
    """A tensor's file, as ttnn.as_tensor names it."""
    return f"{tensor.name}_dtype_{tensor.dtype.upper()}_layout_{_LAYOUTS[tensor.layout]}.tensorbin"


def open_model(cache: str) -> CachedModel:
    """The one model in a cache."""
    opened = Places(cache).open()
    return CachedModel(opened, cached_model(opened))


def load_ttbert(clock: Clock, cache: str, **places: str) -> Any:
    ttnn = host_ttnn()
    with clock:
        tensors = {entry.name: tensor for entry, tensor in open_model(cache).tensors()}
        payloads = {name: payload_of(ttnn, tensor) for name, tensor in tensors.items()}
        touch(payloads)
    return facts(payloads)


def load_upstream(clock: Clock, checkpoint: str, cache: str, files: str, read: bool) -> Any:
    import torch
    from transformers import BertForQuestionAnswering

    ttnn, recipe = host_ttnn(), recipe_of(Places(cache).open())
    with clock:
        weights = BertForQuestionAnswering.from_pretrained(checkpoint, dtype=torch.float32).state_dict()
        if read:
            weights = {name: weight.clone() for name, weight in weights.items()}
        tensors = {
            each.name: ttnn.as_tensor(
                weights[stored_name(next(iter(each.sources)))],
                dtype=getattr(ttnn, each.dtype),
                layout=getattr(ttnn, f"{_LAYOUTS[each.layout]}_LAYOUT"),
                cache_file_name=str(Path(files, each.name)),
            )
            for each in recipe.tensors
        }
        payloads = {name: payload_of(ttnn, tensor) for name, tensor in tensors.items()}
        touch(payloads)
    return facts(payloads)


def load_files(clock: Clock, cache: str, files: str, **places: str) -> Any:
    ttnn, recipe = host_ttnn(), recipe_of(Places(cache).open())
    with clock:
        payloads = {}
        for each in recipe.tensors:
            payloads[each.name] = payload_of(ttnn, ttnn.load_tensor(str(Path(files, file_name(each))))).copy()
        touch(payloads)
    return facts(payloads)


def load_safetensors(clock: Clock, cache: str, files: str, **places: str) -> Any:
    from safetensors.numpy import load_file

    recipe = recipe_of(Places(cache).open())
    with clock:
        loaded = load_file(Path(files, SAFETENSORS))
        payloads = {each.name: loaded[each.name].copy() for each in recipe.tensors}
        touch(payloads)
    return facts(payloads)


def read_packs(clock: Clock, cache: str, **places: str) -> Any:
    opened = Places(cache).open()
    recipe, packs = recipe_of(opened), cached_model(opened).manifest.packs

    def read(key: str) -> memoryview:
        with opened.store.open(key) as stream:
            size = os.fstat(stream.fileno()).st_size
            content = page_aligned(size)
            position = 0
            while position < size:
                position += stream.readinto(content[position : position + (4 << 20)])  # type: ignore[attr-defined]
        return content

    with clock, ThreadPoolExecutor(processors()) as threads:
        contents = list(threads.map(read, [blob_key(pack.blob) for pack in packs]))
    ends: dict[str, memoryview] = {}
    for pack, content in zip(packs, contents, strict=True):
        ends |= {tensor.name: content[: offset + tensor.size] for tensor, offset in pack.places()}
    return facts({each.name: np.asarray(ends[each.name][-each.payload :]) for each in recipe.tensors})


_LAYOUTS = {"tile": "TILE", "row_major": "ROW_MAJOR"}

_Payloads = dict[str, "np.typing.NDArray[np.uint8]"]


def cached_model(cache: Cache) -> Cached:
    """The one model in a cache."""
    (ref,) = cache.list_refs()
    found = cache.resolve(ref)
    assert found
    return found


def recipe_of(cache: Cache) -> Recipe:
    """What that model is made of, in the order in which it is converted."""
    return bert_recipe(CachedModel(cache, cached_model(cache)).shape, POLICIES["bfp8"])


def payload_of(ttnn: Any, tensor: Any) -> Any:
    """The packed bytes of a host tensor, where they are."""
    return np.from_dlpack(tensor.host_buffer().get_shard(ttnn.MeshCoordinate(0, 0))).view(np.uint8).reshape(-1)


def touch(payloads: _Payloads) -> int:
    """Read a byte of every page, as whoever uploads it would all of them."""
    return sum(int(each[::4096].sum()) for each in payloads.values())


def facts(payloads: _Payloads) -> Any:
    """What was loaded, for the comparison with what another case had in its hands."""
    hasher = blake3.blake3()
    for name in sorted(payloads):
        hasher.update(payloads[name].data)
    return {"bytes": sum(each.nbytes for each in payloads.values()), "blake3": hasher.hexdigest()}
