"""Where a cache is: the shared store, a local tier in front of it, and what may be done there."""

from __future__ import annotations

from dataclasses import replace
from os.path import realpath
from pathlib import Path

from ..errors import CacheError, InputError, NotCached
from ..frozen import Frozen
from ..settings import chosen, default_cache
from .cache import Cache
from .counters import Counters
from .keys import PrivateKey
from .offline import OfflineCache
from .stores.local import LocalStore
from .stores.open import FOLDER, open_store, split_url
from .stores.readonly import ReadOnlyStore
from .stores.store import Store
from .tiered_cache import TieredCache
from .trust import user_trust

NO_LOCAL = "none"
"""What --local, TTBERT_LOCAL and the settings say for no local tier."""


class Places(Frozen):
    """What the user chose. `cache` and `local` are as `open_store` takes them, `local` a folder or None."""

    cache: str
    local: str | None = None
    read_only: bool = False
    accept_weak: bool = False
    shared_group: str | None = None
    check_space: bool = True

    def open(self, offline: bool = False, signer: PrivateKey | None = None) -> Cache:
        """The cache, with its local tier. Nothing is sent or made yet.

        Offline, the local tier stands for a store that is reached over a network: NotCached where there is none.
        It is used as this user trusts; what is published is signed by `signer`, if there is one.
        """
        cache = self._open(offline, signer)
        cache.check_space = self.check_space
        return cache

    def _open(self, offline: bool, signer: PrivateKey | None) -> Cache:
        near = _folder(self.local) if self.local else None
        if offline and is_remote(self.cache):
            if near is None:
                raise NotCached(
                    f"{self.cache} is reached over the network, and there is no local tier (offline)",
                    "name one with --local, or leave --offline away",
                )
            return OfflineCache(near, user_trust(signer), self.read_only)
        counters = Counters()
        far: Store = open_store(self.cache, lambda: counters.count("retry"), self.shared_group)
        if isinstance(far, LocalStore) and near:
            if _is_one_folder(far.root, near.root):
                near = None
            elif _are_nested(far.root, near.root):
                raise InputError(
                    f"of the cache {far.url} and the local tier {near.url} one is inside of the other",
                    "choose a folder beside it with --local",
                )
        if self.read_only:
            far = ReadOnlyStore(far)
        if near:
            return TieredCache(far, near, user_trust(signer), self.accept_weak, counters)
        return Cache(far, user_trust(signer), self.accept_weak, counters)

    @property
    def absolute(self) -> Places:
        """The same for a process that has another working folder."""
        return replace(self, cache=open_store(self.cache).url, local=_folder(self.local).url if self.local else None)

    def options(self) -> list[str]:
        """The command line's options that mean the same."""
        options = ["--cache", self.cache]
        options += ["--local", self.local] if self.local else ["--no-local"]
        options += ["--shared-group", self.shared_group] if self.shared_group else []
        options += ["--read-only"] if self.read_only else []
        options += [] if self.check_space else ["--no-space-check"]
        return options + (["--accept-weak-store"] if self.accept_weak else [])


def user_places(cache: str | None = None, local: str | None = None) -> Places:
    """The places of a command that is given these as --cache and --local; the rest is as the user's variables and settings say.

    Errors as of `chosen`.
    """
    cache = cache or chosen("cache") or default_cache()
    return Places(
        cache,
        local_tier(cache, local or chosen("local")),
        read_only=bool(chosen("read_only")),
        accept_weak=bool(chosen("accept_weak_store")),
        shared_group=chosen("shared_group"),
        check_space=not chosen("no_space_check"),
    )


def local_tier(cache: str, chosen: str | None) -> str | None:
    """The folder of the local tier: the chosen one, none for `NO_LOCAL`, by default one where a network is in between."""
    if chosen is None and is_remote(cache):
        return default_cache()
    return None if chosen == NO_LOCAL else chosen


def is_remote(url: str) -> bool:
    """Whether a network may be between this machine and the store."""
    return split_url(url)[0] not in (*FOLDER, "memory")


def _folder(url: str) -> LocalStore:
    if split_url(url)[0] not in FOLDER:
        raise InputError(f"{url!r} cannot be a local tier", "give a folder with --local or TTBERT_LOCAL")
    try:
        store = open_store(url)
    except CacheError as error:  # a file is in its place
        error.hint = "choose another folder with --local or TTBERT_LOCAL"
        raise
    assert isinstance(store, LocalStore)
    store.chosen_with = "--local or TTBERT_LOCAL"
    return store


def _is_one_folder(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same place, by whatever links and mounts, and though nothing may be there yet."""
    try:
        return realpath(one) == realpath(other) or one.samefile(other)
    except OSError:  # one that is not there, or may not be looked into
        return False


def _are_nested(one: Path, other: Path) -> bool:
    """Whether a folder is below another one, by whatever links."""
    places = Path(realpath(one)), Path(realpath(other))
    return places[0] in places[1].parents or places[1] in places[0].parents
