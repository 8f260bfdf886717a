"""The local tier alone, where the shared store in front of which it stands may not be asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import IntegrityError
from .blob import Blob
from .cache import Cache, Cached
from .digest import Digest
from .manifest import FileEntry, PackEntry, TensorEntry
from .stores.local import LocalStore
from .stores.readonly import ReadOnlyStore
from .trust import Trust


class OfflineCache(Cache):
    """Copies of what is in a shared store: whatever is wrong with one, the shared store has it right."""

    def __init__(self, near: LocalStore, trust: Trust, read_only: bool) -> None:
        """With `read_only` nothing is published here either; that a copy was used is noted all the same."""
        super().__init__(near, trust)
        self._read_only = read_only

    def check_may_publish(self) -> None:
        if self._read_only:
            ReadOnlyStore(self.store).refuse()
        super().check_may_publish()

    def load(self, entry: FileEntry) -> bytes:
        with _mended_online():
            return super().load(entry)

    def load_pack(self, pack: PackEntry, start: int = 0) -> Iterator[tuple[TensorEntry, Blob]]:
        with _mended_online():
            yield from super().load_pack(pack, start)

    def read_manifest(self, digest: Digest) -> Cached:
        with _mended_online():
            return super().read_manifest(digest)


@contextmanager
def _mended_online() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        error.hint = "run the same command without --offline, which fetches it again"
        raise
