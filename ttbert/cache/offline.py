"""The local tier alone, where the shared store in front of which it stands may not be asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import IntegrityError
from .blob import Blob
from .cache import Cache, Cached
from .digest import Digest
from .manifest import FileEntry, PackEntry, TensorEntry


class OfflineCache(Cache):
    """Copies of what is in a shared store: whatever is wrong with one, the shared store has it right."""

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
        raise IntegrityError(error.message, "run the same command without --offline, which fetches it again") from error
