"""Caches of many models, for measuring what depends on their number.

Manifests, actions and refs are published by the cache's own code, as after a conversion, but without syncing them to the
disk. Packs are there in their sizes, as sparse files under made-up digests, since nobody is to read them. Of ten models,
one after another, all share their embeddings.
"""

from __future__ import annotations

import os
from pathlib import Path

from ttbert.cache.cache import Cache, blob_key
from ttbert.cache.digest import Digest, blake3_of
from ttbert.cache.manifest import FileEntry, Manifest, PackEntry, Provenance, SourceEntry, TensorEntry
from ttbert.cache.refs import Ref
from ttbert.cache.stores.local import LocalStore
from ttbert.model import BertShape
from ttbert.recipe.bert import bert_recipe
from ttbert.recipe.policy import POLICIES
from ttbert.recipe.recipe import CONFIG, MEMORY, RECIPE, TOKENIZER, PackRecipe
from ttbert.recipe.tensorbin import HEADER_SIZE

_SHARING = 10


class _UnsyncedStore(LocalStore):
    def put(self, key: str, content: bytes | memoryview) -> bool:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return True


def fill_cache(root: Path, models: int, shape: BertShape) -> Path:
    """A cache with so many models of a shape in it, made unless it is there."""
    if root.exists():
        return root
    unfinished = root.with_suffix(".unfinished")
    cache = Cache(_UnsyncedStore(unfinished))
    recipe = bert_recipe(shape, POLICIES["bfp8"])
    for i in range(models):
        manifest = Manifest(
            action=_digest(f"action {i}"),
            architecture=shape.architecture,
            policy=recipe.policy,
            packs=tuple(_pack(each, i // _SHARING if each.name == "embeddings" else i) for each in recipe.packs),
            files=tuple(FileEntry(name, _digest(name), 1000) for name in (CONFIG, TOKENIZER, RECIPE)),
            provenance=Provenance(f"someone/model-{i}", f"{i:040x}", (SourceEntry("w", _digest(f"w{i}"), 1),), {"ttbert": "0"}),
        )
        for blob, size in manifest.blobs.items():
            cache.store.put(blob_key(blob), b"")
            os.truncate(unfinished / blob_key(blob), size)
        cached = cache.publish_manifest(manifest)
        cache.move_ref(Ref(f"someone/model-{i}", "main", "bfp8"), cached, manifest.provenance.repo, manifest.provenance.commit)
    return unfinished.rename(root)


def _pack(pack: PackRecipe, model: int) -> PackEntry:
    tensors = [
        TensorEntry(
            each.name, each.shape, each.dtype, each.layout, each.tile, MEMORY, _digest(f"{each.name} {model}"),
            HEADER_SIZE + each.payload,
        )
        for each in pack.tensors
    ]  # fmt: skip
    return PackEntry(pack.name, _digest(f"{pack.name} {model}"), tuple(tensors))


def _digest(text: str) -> Digest:
    return blake3_of(text.encode())
