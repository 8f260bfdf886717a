"""Which store a URL means."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from ...errors import InputError
from .access import SCHEMES
from .local import open_folder
from .store import Store

FOLDER = ("", "file", "local")
"""Schemes of what names a folder."""
_SLIP = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/(?!/)")


def open_store(url: str, on_retry: Callable[[], None] = lambda: None, group: str | None = None) -> Store:
    """The store in a folder (`/path`, `~/path`, `file:///path`), in a bucket (`s3://`, ...), or at another fsspec URL.

    `on_retry` is told of each attempt in vain; `group` is who a new folder is shared with.
    """
    scheme, rest = split_url(url)
    if scheme in SCHEMES:
        from .objects import ObjectStore  # takes its time, which a local folder need not wait for

        return ObjectStore(f"{scheme}://{rest}", on_retry=on_retry)
    if scheme not in FOLDER:
        from .foreign import FsspecStore  # likewise

        return FsspecStore(f"{scheme}://{rest}")
    if not rest or "\0" in rest:
        raise InputError(f"{url!r} cannot be a cache", "give a folder or a URL with --cache or TTBERT_CACHE")
    try:
        return open_folder(Path(rest).expanduser().absolute(), group)
    except RuntimeError as error:  # of a ~user who does not exist
        raise InputError(f"{url!r} cannot be a cache: {error}", "give a folder with --cache or TTBERT_CACHE") from error


def split_url(url: str) -> tuple[str, str]:
    """The scheme of a URL in lower case, and what follows the `://`; no scheme, and the path, for a folder.

    InputError for what is most likely neither, such as `s3:/lab` and `file://folder`.
    """
    if slip := _SLIP.match(url):
        right = f"{slip[1]}:{'///' if slip[1].lower() in FOLDER else '//'}{url[slip.end() :]}"
        raise InputError(
            f"{url!r} cannot be a cache: a slash is missing", f"write {right}, or ./{url} for a folder of that name"
        )
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "", url
    scheme = scheme.lower()
    if scheme not in FOLDER:
        return scheme, rest
    if not rest.startswith("/"):
        raise InputError(f"{url!r} cannot be a cache: its path is not absolute", f"write {scheme}:///FOLDER, or the path alone")
    return scheme, unquote(rest, errors="surrogateescape")  # as Python has the names of files
