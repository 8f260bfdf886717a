"""The packs of a model on their way from a maker into a cache, by threads of their own."""

from __future__ import annotations

from concurrent.futures import Future
from threading import Event
from types import TracebackType

from ..cache.cache import BlobDraft, Cache
from ..cache.manifest import PackEntry
from ..recipe.recipe import PackRecipe
from ..threads import Threads
from .maker import Made, Maker

_THREADS = 4
"""Packs that are written at once. Writing is mostly waiting: for the disk to confirm, or for a server."""


class Publisher:
    """Inside of `with`, takes every pack that is made, and publishes it, but none before `publish` is called.

    After `start` they wait for that in memory, as far as the maker lets them, or on the disk, as drafts. Drafts that are not
    published are dropped in the end.
    """

    def __init__(self, maker: Maker, cache: Cache) -> None:
        self._maker, self._cache = maker, cache
        self._threads = Threads(_THREADS)
        self._written: list[Future[tuple[PackEntry, BlobDraft | None]]] = []
        self._drafts: list[BlobDraft] = []
        self._is_wanted, self._is_over = Event(), False

    @property
    def packer(self) -> str:
        """Who packs, for the record."""
        return self._maker.packer

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._is_over = True
        self._is_wanted.set()  # for those who wait
        self._threads.shutdown(cancel_futures=True)
        for draft in self._drafts:
            draft.close()

    def start(self, drafts: bool = False) -> None:
        """Take packs from now on; with `drafts`, which the cache must have, write them."""
        for pack, made in self._maker.packs():
            self._written.append(self._threads.submit(self._write, pack, made, drafts))

    def publish(self) -> tuple[PackEntry, ...]:
        """Publish all packs; their entries, in their order. Raises what making and publishing them does."""
        self._is_wanted.set()
        self._maker.hurry()
        self.start()
        written = [each.result() for each in self._written]  # the first error ends all of it
        return tuple(self._threads.map(self._finish, written))

    def _write(self, pack: PackRecipe, made: Future[Made], drafts: bool) -> tuple[PackEntry, BlobDraft | None]:
        content, tensors = made.result()
        try:
            if drafts and not self._is_wanted.is_set():
                draft = self._cache.draft_blob(content)
                self._drafts.append(draft)
                return PackEntry(pack.name, draft.digest, tensors), draft
            self._is_wanted.wait()
            if self._is_over:
                raise RuntimeError("nobody waits for this pack any more")
            return PackEntry(pack.name, self._cache.publish_blob(content), tensors), None
        finally:
            self._maker.give_back(content)

    def _finish(self, written: tuple[PackEntry, BlobDraft | None]) -> PackEntry:
        entry, draft = written
        if draft:
            draft.publish()
        return entry
