"""From a manifest to TT-NN tensors: every tensor checked, every header compared, nothing of Hugging Face opened.

A model is taken only if it was made by the very recipe that this version of the runtime is written for, so that
tensors laid out in another way, by an older or newer ttbert, are never mistaken for these.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cache.blob import Blob, damaged
from ..cache.cache import Cache, Cached
from ..cache.digest import blake3_of
from ..cache.manifest import PackEntry, TensorEntry
from ..errors import IncompatibleError, IntegrityError
from ..model import BertShape, parse_config
from ..recipe.bert import bert_recipe
from ..recipe.policy import POLICIES
from ..recipe.recipe import CONFIG, RECIPE, TOKENIZER, matches
from ..recipe.tensorbin import HEADER_SIZE, check_header, check_size
from ..threads import begun_ahead
from ..tt import first_line, import_ttnn

if TYPE_CHECKING:
    from .tokens import Encoder

_AHEAD = 12
"""Packs that are read before they are asked for, which bounds the memory that waits: 150 MB of a BERT-large in bfp8."""


Packs = Generator[tuple[PackEntry, list[tuple[TensorEntry, Blob]]], None, None]
"""Packs with all their tensors, checked."""


class CachedModel:
    """A model in the cache, opened for reading: its shape and tokenizer now, its tensors when they are asked for."""

    def __init__(self, cache: Cache, cached: Cached) -> None:
        """Read and check the small files. IntegrityError for damage, IncompatibleError for a model of another ttbert."""
        self.cache = cache
        self.manifest = cached.manifest
        self.digest = cached.digest
        self.shape: BertShape = parse_config(self._file(CONFIG), f"{cached.digest}: {CONFIG}")
        self.tokenizer: bytes = self._file(TOKENIZER)
        self._check_recipe()
        self._begun: Packs | None = None
        cache.note_use(cached.digest)

    def require_answer_head(self) -> None:
        """CheckpointError for a model that cannot answer questions."""
        self.shape.require_answer_head(self.manifest.provenance.repo)

    def encoder(self, tokens: int) -> Encoder:
        """What makes windows of at most `tokens` tokens for it.

        CheckpointError for a tokenizer that is not the model's, and for an encoder without token types, which takes no pairs.
        """
        self.shape.require_pairs(self.manifest.provenance.repo)
        from .tokens import Encoder  # and tokenizers, which nobody needs for the weights alone

        return Encoder(self.tokenizer, tokens, vocabulary=self.shape.vocabulary)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Inside of `with`, the packs that `tensors` gives first are read while whoever takes them gets ready."""
        with self._read_ahead() as self._begun:
            try:
                yield
            finally:
                self._begun = None

    def tensors(self) -> Iterator[tuple[TensorEntry, Any]]:
        """Each tensor as a TT-NN host tensor, in the manifest's order, its bytes checked before TT-NN sees them."""
        with ExitStack() as stack:
            packs, self._begun = self._begun or stack.enter_context(self._read_ahead()), None
            yield from self._loaded(packs)

    def _loaded(self, packs: Packs) -> Iterator[tuple[TensorEntry, Any]]:
        ttnn = import_ttnn()
        with tempfile.TemporaryDirectory(prefix="ttbert-") as folder, Path(os.devnull).open("rb") as file:
            current = file.fileno()
            # TT-NN maps a file by its name, which must end in .tensorbin; the name leads to the checked memory, by way of a
            # descriptor that stands for one blob after another, since a link for each of them is a file for each.
            link = Path(folder, "checked.tensorbin")
            link.symlink_to(f"/proc/{os.getpid()}/fd/{current}")
            for pack, blobs in packs:
                for entry, blob in blobs:
                    with blob:
                        check_header(blob.bytes(HEADER_SIZE), entry, self.cache.where(pack, entry))
                        blob.stand_at(current)
                        try:
                            tensor = ttnn.load_tensor(str(link))
                        except RuntimeError as error:
                            where = self.cache.where(pack, entry)
                            raise damaged(where, f"TT-NN cannot read it: {first_line(error)}") from error
                    found = (tuple(tensor.shape), tensor.dtype.name.lower(), tensor.layout.name.lower())
                    if found != (entry.shape, entry.dtype, entry.layout):
                        raise damaged(self.cache.where(pack, entry), f"its header says {found}")
                    yield entry, tensor

    def _read_ahead(self) -> AbstractContextManager[Packs]:
        """The packs in their order with all their tensors, read and checked by threads that are some packs ahead."""

        def read(pack: PackEntry) -> tuple[PackEntry, list[tuple[TensorEntry, Blob]]]:
            return pack, list(self.cache.load_pack(pack))

        return begun_ahead(self.cache.store.streams, read, self.manifest.packs, _AHEAD)

    def _file(self, name: str) -> bytes:
        entry = self.manifest.file(name)
        if entry is None:
            raise IntegrityError(f"manifest {self.digest.short} names no {name}", "convert the model again")
        return self.cache.load(entry)

    def _check_recipe(self) -> None:
        document = self._file(RECIPE)
        if blake3_of(document) != self.manifest.action:
            raise IntegrityError(
                f"manifest {self.digest.short} is not of the recipe it carries",
                "convert the model again, and look at who wrote it",
            )
        policy = POLICIES.get(self.manifest.policy)
        if policy is None or not matches(bert_recipe(self.shape, policy), document, self.manifest.packs):
            raise IncompatibleError(
                f"manifest {self.digest.short} was converted by a recipe that this version of ttbert does not run",
                "convert the model again; both results can stay in the cache",
            )
        for tensor in self.manifest.tensors:  # before anybody reads so many bytes into memory
            check_size(tensor, f"manifest {self.digest.short}")
