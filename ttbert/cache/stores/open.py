"""Which store a URL means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...errors import InputError
from .access import SCHEMES
from .local import open_folder
from .store import Store


def open_store(url: str, on_retry: Callable[[], None] = lambda: None, group: str | None = None) -> Store:
    """The store in a folder (`/path`, `~/path`, `file:///path`), in a bucket (`s3://`, ...), or at another fsspec URL.

    `on_retry` is told of each attempt in vain; `group` is who a new folder is shared with.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme in SCHEMES:
        from .objects import ObjectStore  # takes its time, which a local folder need not wait for

        return ObjectStore(url, on_retry=on_retry)
    if separator and scheme not in ("file", "local"):
        from .foreign import FsspecStore  # likewise

        return FsspecStore(url)
    folder = rest if separator else url
    if not folder:
        raise InputError(f"{url!r} cannot be a cache", "give a folder or a URL with --cache or TTBERT_CACHE")
    try:
        return open_folder(Path(folder).expanduser().absolute(), group)
    except RuntimeError as error:  # of a ~user who does not exist
        raise InputError(f"{url!r} cannot be a cache: {error}", "give a folder with --cache or TTBERT_CACHE") from error
