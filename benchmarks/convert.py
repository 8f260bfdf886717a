"""Converting a checkpoint in a folder, each case a whole process: from its start until every file is on the disk.

tt-metal's way is transformers' from_pretrained, the same steps in torch, and ttnn.as_tensor with a cache file for every tensor;
afterwards the files are fsynced, as those of ttbert are. Both read the checkpoint from the page cache, and both end with the
same payloads, compared by digest when the clock has stopped.

A full hit is `ttbert convert` of what is converted already: once where this user met the weights before and their SHA-256 is
noted, so that BLAKE3 of them is computed, and once where it is not, so that SHA-256 is computed and tensors are packed
meanwhile.

The limit is reading the checkpoint and writing as many bytes as a conversion makes, with one fsync, and nothing else.

Then packing alone, in memory, by one thread: the extension, numpy, and TT-NN.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ttbert.cache.cache import Cache, blob_key
from ttbert.cache.digest import blake3_of
from ttbert.cache.manifest import PackEntry
from ttbert.cache.places import Places
from ttbert.convert.codec import EXTENSION, NUMPY, Codec, TtnnCodec
from ttbert.convert.packing import has_extension
from ttbert.convert.tensorbin import file_bytes
from ttbert.memory import page_aligned
from ttbert.recipe.bert import bert_recipe
from ttbert.recipe.policy import POLICIES
from ttbert.recipe.recipe import Recipe
from ttbert.recipe.steps import run_steps

from .inputs import make_checkpoint, shape_of, stored_name
from .measure import Case, Clock, compare, environment, warm
from .report import Limit, Report, Table

_UPSTREAM = "from_pretrained, as_tensor"


def run(folder: Path, small: bool, rounds: int) -> Report:
    checkpoint = make_checkpoint(folder, shape_of(small))
    weights = checkpoint / "model.safetensors"
    known, work = folder / "known", folder / "work"
    places = {"checkpoint": str(checkpoint), "known": str(known), "work": str(work), "small": small}
    _convert(checkpoint, known / "cache", known)
    cases = [
        Case("ttbert convert", "convert:convert_anew", places),
        Case(_UPSTREAM, "convert:convert_upstream", places),
        Case("ttbert convert, a hit, weights met before", "convert:convert_hit", {**places, "met": True}),
        Case("ttbert convert, a hit, weights not met before", "convert:convert_hit", {**places, "met": False}),
        Case("checkpoint read, as much written", "convert:read_and_write", places),
    ]
    anew, upstream, hit, hit_unmet, limit = compare(cases, rounds, partial(warm, [weights]))
    shutil.rmtree(work)
    size = weights.stat().st_size
    title = f"converting {size / 1e6:,.0f} MB of float32, whole processes"
    names = [*(["extension"] if has_extension() else []), "numpy", "ttnn"]
    packing = compare([Case(f"packing by {name}", "convert:pack", {"name": name, "small": small}) for name in names], rounds)
    return Report(
        "convert",
        (
            Table(title, (anew, upstream), Limit(limit.name, limit.seconds)),
            Table(f"{title}: nothing to do", (hit, hit_unmet, upstream), None),
            Table("packing a layer in memory, one thread", tuple(packing), None),
        ),
    )


def convert_anew(clock: Clock, checkpoint: str, work: str, small: bool, **others: Any) -> Any:
    folder = _emptied(work)
    with clock:
        _convert(Path(checkpoint), folder / "cache", folder)
    return _facts_of_cache(folder / "cache", small)


def convert_hit(clock: Clock, checkpoint: str, known: str, work: str, met: bool, small: bool) -> Any:
    notes = Path(known) if met else _emptied(work)
    with clock:
        _convert(Path(checkpoint), Path(known, "cache"), notes)
    return _facts_of_cache(Path(known, "cache"), small)


def convert_upstream(clock: Clock, checkpoint: str, work: str, small: bool, **others: Any) -> Any:
    folder = _emptied(work)
    program = f"from benchmarks.convert import upstream; upstream({checkpoint!r}, {str(folder)!r}, {small})"
    with clock:
        subprocess.run([sys.executable, "-c", program], env=environment(), stdout=subprocess.DEVNULL, check=True)
    digests = {}
    for each in _recipe(small).tensors:
        (file,) = folder.glob(f"{each.name}_dtype_*")
        digests[each.name] = blake3_of(file.read_bytes()[-each.payload :]).hex
    return _facts(digests)


def upstream(checkpoint: str, folder: str, small: bool) -> None:
    """tt-metal's way: everything in memory, the steps in torch, a file for each tensor."""
    import torch
    from transformers import BertForQuestionAnswering

    from ttbert.tt import host_ttnn

    ttnn = host_ttnn()
    weights = BertForQuestionAnswering.from_pretrained(checkpoint, dtype=torch.float32).state_dict()
    for each in _recipe(small).tensors:
        sources = [weights[stored_name(name)].numpy() for name in each.sources]
        tensor = torch.from_numpy(np.ascontiguousarray(run_steps(each.steps, sources)))
        ttnn.as_tensor(
            tensor,
            dtype=getattr(ttnn, each.dtype),
            layout=ttnn.TILE_LAYOUT if each.layout == "tile" else ttnn.ROW_MAJOR_LAYOUT,
            cache_file_name=str(Path(folder, each.name)),
        )
    for path in Path(folder).iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def read_and_write(clock: Clock, checkpoint: str, known: str, work: str, small: bool) -> Any:
    folder = _emptied(work)
    size = sum(pack.size for pack in _packs(Places(str(Path(known, "cache"))).open()))
    buffer = page_aligned(4 << 20)
    with clock:
        with Path(checkpoint, "model.safetensors").open("rb", buffering=0) as source:
            while source.readinto(buffer):
                pass
        with (folder / "written").open("wb", buffering=0) as target:
            for start in range(0, size, len(buffer)):
                target.write(buffer[: size - start])
            os.fsync(target.fileno())
    return _facts_of_cache(Path(known, "cache"), small)


def pack(clock: Clock, name: str, small: bool) -> Any:
    codec: Codec = {"extension": EXTENSION, "numpy": NUMPY}.get(name) or TtnnCodec()
    random = np.random.default_rng(0)
    work = []
    for each in _recipe(small).tensors:
        if each.name.startswith("layers.0."):
            sources = [random.standard_normal(shape, np.float32) for shape in each.sources.values()]
            target = np.zeros(file_bytes(each.shape, each.dtype, each.layout), np.uint8)
            work.append((target, run_steps(each.steps, sources), each.dtype, each.layout))
    with clock:
        for target, array, dtype, layout in work:
            codec.pack_into(target.data, array, dtype, layout)
    return _facts({str(i): blake3_of(target.data).hex for i, (target, *_) in enumerate(work)})


def _convert(checkpoint: Path, cache: Path, notes: Path) -> None:
    """`ttbert convert`, with the notes of digests in a folder of their own."""
    command = [sys.executable, "-m", "ttbert", "convert", str(checkpoint), "--cache", str(cache)]
    subprocess.run(command, env=environment() | {"XDG_CACHE_HOME": str(notes)}, stdout=subprocess.DEVNULL, check=True)


def _emptied(folder: str) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    Path(folder).mkdir(parents=True)
    return Path(folder)


def _recipe(small: bool) -> Recipe:
    return bert_recipe(shape_of(small), POLICIES["bfp8"])


def _packs(cache: Cache) -> tuple[PackEntry, ...]:
    (ref,) = cache.list_refs()
    found = cache.resolve(ref)
    assert found
    return found.manifest.packs


def _facts_of_cache(folder: Path, small: bool) -> Any:
    cache = Places(str(folder)).open()
    payloads = {each.name: each.payload for each in _recipe(small).tensors}
    digests = {}
    for pack in _packs(cache):
        content = cache.store.get(blob_key(pack.blob))
        for tensor, offset in pack.places():
            digests[tensor.name] = blake3_of(content[: offset + tensor.size][-payloads[tensor.name] :]).hex
    return _facts(digests)


def _facts(digests: dict[str, str]) -> Any:
    """What has to be the same: the payloads of all tensors."""
    return {"tensors": len(digests), "blake3": blake3_of("".join(digests[name] for name in sorted(digests)).encode()).hex}
