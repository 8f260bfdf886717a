"""Copies of a model's tensors as files, under the names that another program looks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .cache.manifest import TensorEntry
from .cache.space import require_space
from .cache.stores.local import LocalStore, open_folder
from .errors import CacheError, InputError
from .frozen import Frozen
from .recipe.tensorbin import HEADER_SIZE, check_header
from .recipe.tt_metal import check_for_demo, file_name
from .runtime.loader import CachedModel

_ELSEWHERE = "choose another folder to export to"


class Export(Frozen):
    """What was done: files written, files that were there already, bytes of all of them, and what is to be known."""

    written: int
    kept: int
    size: int
    remark: str | None


def export_for_tt_metal(
    model: CachedModel, folder: Path, check_space: bool = True, progress: Callable[[TensorEntry], None] = lambda entry: None
) -> Export:
    """Write the files that tt-metal's BERT-large demo looks for, each checked against its digest.

    A file that is there with the same bytes is kept. InputError for a model that the demo cannot read, and for a folder that
    holds other bytes under one of the names; a file is never overwritten, and none is there in part.
    """
    manifest = model.manifest
    remark = check_for_demo(model.shape, manifest.policy)
    try:
        store = open_folder(folder.absolute())
    except CacheError as error:  # a file is in its place
        raise InputError(error.message, _ELSEWHERE) from error
    missing = 0
    for entry in manifest.tensors:
        found = store.head(file_name(entry))
        if found and found.size != entry.size:
            raise _taken(folder, entry)
        missing += 0 if found else entry.size
    if check_space:
        require_space(store, missing, "the files", _ELSEWHERE)
    written = 0
    for pack in manifest.packs:
        for entry, blob in model.cache.load_pack(pack):
            with blob:
                check_header(blob.bytes(HEADER_SIZE), entry, model.cache.where(pack, entry))
                written += _write(store, folder, entry, blob.bytes())
            progress(entry)
    return Export(written, len(manifest.tensors) - written, sum(entry.size for entry in manifest.tensors), remark)


def _write(store: LocalStore, folder: Path, entry: TensorEntry, content: bytes) -> bool:
    name = file_name(entry)
    try:
        if store.put(name, content):
            return True
        if store.get(name) == content:
            return False
    except CacheError as error:
        error.hint = _ELSEWHERE
        raise
    raise _taken(folder, entry)


def _taken(folder: Path, entry: TensorEntry) -> InputError:
    return InputError(
        f"{folder / file_name(entry)} is there already, with other bytes", "export to an empty folder, or remove what is there"
    )
