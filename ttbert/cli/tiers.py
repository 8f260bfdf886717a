"""What the command line does with two tiers: `ttbert cache push` and `pull`, and getting a model near before it is run."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

import click

from ..console import Progress, progress_options, say, show, tell
from ..errors import CacheError, InputError, IntegrityError, StoreReadOnly, StoreUnavailable
from ..text import size_text
from .cache import note_beginning
from .options import json_option, places_option, progress_option, sign_option

if TYPE_CHECKING:
    from ..cache.cache import Begin, Cache, Cached
    from ..cache.digest import Digest
    from ..cache.keys import PrivateKey
    from ..cache.places import Places
    from ..cache.refs import Ref
    from ..convert.convert import Conversion, Plan
    from ..convert.wanted import Wanted
    from ..model import BertShape


Require = Callable[["BertShape"], object]
"""Refuses the shape of a model by an error."""


def supply(wanted: Wanted, places: Places, cache: Cache, require: Require = lambda shape: None) -> Cached:
    """The wanted model, converted first if it is not in the cache, and copied to this machine if there is a tier for that.

    `require` is asked before it is converted.
    """
    found = _find_or_convert(wanted, places, cache, require)
    bring_near(wanted.model, cache, found.cached, found.ref)
    return found.cached


def supply_to_load(wanted: Wanted, places: Places, cache: Cache) -> Cached:
    """As `supply`, for a model that this process loads next: it is copied to this machine while it is loaded."""
    found = _find_or_convert(wanted, places, cache)
    command = click.get_current_context()
    cache.fetch_as_read(found.cached, found.ref, _shown(f"fetching {wanted.model}", command.with_resource))
    command.call_on_close(partial(_flush, cache))
    return found.cached


def _flush(cache: Cache) -> None:
    try:
        cache.flush()
    except CacheError as error:  # what was asked for is done all the same
        tell(f"warning: {error.message}; the copy here may not last, or not be found offline")


def _find_or_convert(wanted: Wanted, places: Places, cache: Cache, require: Require = lambda shape: None) -> Conversion:
    from ..cache.stores.readonly import WAY_OUT
    from ..convert.supply import supply_model

    def on_miss(plan: Plan) -> None:
        require(plan.recipe.shape)
        is_there = cache.read_action(plan.action.key) is not None
        state, what = ("is not whole", "converting it again") if is_there else ("is not", "converting it first")
        missed = f"{wanted} {state} in the cache {cache.store.url}"
        if places.read_only:
            raise StoreReadOnly(f"{missed}, which is used for reading only here (--read-only)", WAY_OUT)
        tell(f"{missed}: {what}")

    try:
        found = supply_model(wanted, cache, [*places.options(), *progress_options()], on_miss)
    except StoreUnavailable as error:
        here = _find_whole(wanted, cache.near) if cache.near else None
        if here is None or cache.near is None:
            raise
        error.hint += f"; or add --offline: all of {here.ref} is in {cache.near.store.url}"
        raise
    if found.ref != wanted.ref:
        tell(f"note: {found.ref} is this cache's own name; the hub was not asked for one of that id, as --revision main does")
    return found


def _find_whole(wanted: Wanted, near: Cache) -> Conversion | None:
    """A model that can be used from the local tier alone."""
    from ..convert.convert import find_by_name

    with suppress(CacheError):
        return find_by_name(wanted, near)
    return None


def bring_near(label: str, cache: Cache, cached: Cached, ref: Ref | None) -> int:
    """Fetch what is not on this machine yet, with progress; how many bytes that was."""
    with ExitStack() as stack:
        return sum(cache.fetch(cached, ref, _shown(f"fetching {label}", stack.enter_context)).values())


def _shown(what: str, enter: Callable[[Progress], Progress]) -> Begin:
    """Shows the progress of what is copied or read, if anything is, in a context that `enter` enters."""

    def begin(blobs: dict[Digest, int]) -> Callable[[int], None]:
        return enter(Progress(what, len(blobs), sum(blobs.values()))).advance if blobs else lambda size: None

    return begin


@click.command("pull")
@click.argument("ref")
@places_option
@progress_option
@json_option
def pull_command(ref: str, places: Places, as_json: bool) -> None:
    """Copy the model REF from the cache to the local tier, so that it can be used from here, --offline too.

    Copies that are there are read, and damaged ones fetched again.

    \b
    ttbert cache pull bundled --cache s3://lab/ttbert
    """
    from ..cache.census import look_up

    cache, near = _both(places)
    model = look_up(cache.authority, ref)
    if model.cached is None:
        raise IntegrityError(f"{model.ref}: {model.problem}", "convert it again on a machine that may publish")
    # Refused here, before a blob is fetched, if it may not be used.
    cached = cache.resolve(model.ref) or cache.manifest(model.cached.digest)
    started = time.perf_counter()
    with ExitStack() as stack:
        cache.check_copies(cached, _shown(f"checking {model.ref}", stack.enter_context))
    size = bring_near(str(model.ref), cache, cached, model.ref)
    seconds = time.perf_counter() - started
    lacking = len(cache.to_fetch(cached.manifest))
    if lacking:
        raise StoreReadOnly(
            f"{near.store.url} holds no copy of {model.ref}: {lacking} of its blobs could not be written there",
            "choose a folder that can be written to with --local",
        )
    _report(model.ref, "pulled", cached, size, seconds, cache, near, as_json)


@click.command("push")
@click.argument("ref")
@places_option
@progress_option
@sign_option
@json_option
def push_command(ref: str, places: Places, sign_with: str | None, as_json: bool) -> None:
    """Publish the model REF of the local tier in the cache, for everybody. Each of its bytes is checked on the way.

    \b
    ttbert cache push local/my-bert --cache s3://lab/ttbert
    """
    from ..cache.census import find_model, take_census
    from ..cache.keys import find_signer
    from ..cache.transfer import push

    cache, near = _both(places, find_signer(sign_with))
    model = find_model(take_census(near), ref, shlex.join(["ttbert", "cache", "ls", "--cache", near.store.url]))
    if model.cached is None or model.entry is None or near.missing(model.cached.manifest):
        raise IntegrityError(f"{model.ref} is not whole in {near.store.url}: {model.problem}", "pull or convert it again")
    cached = near.manifest(model.cached.digest)  # what may not be used here is not published for others
    started = time.perf_counter()
    with ExitStack() as stack:
        begin = _shown(f"pushing {model.ref}", stack.enter_context)
        size = sum(push(near, cache.authority, model.ref, model.entry, cached, begin).values())
    _report(model.ref, "pushed", cached, size, time.perf_counter() - started, cache, near, as_json)
    if size:
        note_beginning(cache, model.ref)


def _both(places: Places, signer: PrivateKey | None = None) -> tuple[Cache, Cache]:
    """The cache, and its local tier."""
    cache = places.open(signer=signer)
    if cache.near is None:
        why = ": --local leads to that very folder" if places.local else ""
        raise InputError(
            f"{cache.store.url} has no local tier{why}", "name the shared cache with --cache and a folder here with --local"
        )
    return cache, cache.near


def _report(ref: Ref, done: str, cached: Cached, size: int, seconds: float, cache: Cache, near: Cache, as_json: bool) -> None:
    if as_json:
        show(
            {
                "ref": str(ref),
                "manifest": str(cached.digest),
                "bytes": cached.manifest.size,
                f"bytes_{done}": size,
                "seconds": round(seconds, 3),
                "cache": cache.store.url,
                "local": near.store.url,
                "counters": cache.counters.document(),
            }
        )
        return
    if size:
        say(f"{ref}: {done} {size_text(size)} of {size_text(cached.manifest.size)} in {seconds:.1f} s")
    else:
        say(f"{ref}: already there, nothing to do")
    say(f"  cache  {cache.store.url}")
    say(f"  local  {near.store.url}")
