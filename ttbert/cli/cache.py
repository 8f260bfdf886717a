"""`ttbert cache ...`: look at a cache, check it, and make room in it."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ..console import agree, say, show, table, tell
from ..errors import IntegrityError, NoSpaceError
from ..settings import default_cache
from ..text import count_text, origin_text, size_text
from .lazy import LazyGroup
from .options import cache_option, chosen_by, complete_commands, json_option, places_option
from .trust import signed_by

if TYPE_CHECKING:
    from ..cache.cache import Cache
    from ..cache.census import Census, Model
    from ..cache.places import Places
    from ..cache.refs import Ref


_MODULES = {
    "doctor": ".doctor",
    "export": ".export",
    "gc": ".space",
    "keygen": ".trust",
    "log": ".trust",
    "pull": ".tiers",
    "push": ".tiers",
    "sign": ".trust",
    "trust": ".trust",
    "verify": ".verify",
}


@click.group("cache", cls=LazyGroup, modules=_MODULES)
def cache_command() -> None:
    """Look at the cache, check it, and make room in it."""


@cache_command.command("info")
@places_option
@json_option
@click.pass_context
def info_command(context: click.Context, places: Places, as_json: bool) -> None:
    """Where the cache is and who decided that, how it is reached, what it promises and how much is in it.

    \b
    ttbert cache info
    """
    from ..cache.census import take_census

    cache = places.open()
    local = cache.near.store.url if cache.near else None
    source, local_source = chosen_by(context, "cache"), chosen_by(context, "local")
    access = cache.store.access
    trusted = [key.name for key in cache.trust.keys]
    in_force = [f"cache        {cache.store.url}  (from {source})"]
    if access:
        in_force += [
            f"reached at   {access.endpoint or access.kind}{f', region {access.region}' if access.region else ''}",
            f"credentials  from {access.credentials}",
        ]
    in_force += [
        f"local tier   {local or 'none'}  (from {local_source})",
        f"may publish  {_may_publish(cache, places)}",
        f"signatures   {'required, of ' + ', '.join(trusted) if trusted else 'not required: no key is trusted'}",
    ]
    if access and not as_json:
        say("\n".join(in_force))  # now, since it helps most where the next step fails, which is to ask the store
    census = take_census(cache.authority)
    note_absence(cache, census)
    near = take_census(cache.near) if cache.near else None
    document: dict[str, Any] = {
        "cache": cache.store.url,
        "chosen_by": source,
        "default": default_cache(),
        "kind": access.kind if access else "fsspec" if "://" in cache.store.url else "folder",
        "endpoint": access.endpoint if access else None,
        "region": access.region if access else None,
        "credentials": access.credentials if access else None,
        "local": local,
        "local_chosen_by": local_source,
        "read_only": places.read_only,
        "trusted_keys": trusted,
        **asdict(cache.store.capabilities),
        "models": len(census.models),
        "blobs": len(census.blobs),
        "bytes": census.size,
        "by_kind": _by_kind(census),
        "local_bytes": near.size if near else None,
        "local_by_kind": _by_kind(near) if near else None,
        "local_bytes_free": cache.near.store.free() if cache.near else None,
        "quarantined": len(census.quarantine),
        "left_behind": len(census.debris),
        "bytes_free": cache.store.free(),
        "counters": cache.counters.document(),
    }
    if as_json:
        show(document)
        return
    if not access:
        say("\n".join(in_force))
    exact = "exactly once" + (", if the server does as it says: tried out before the first write" if access else "")
    say(f"publishing   {exact if document['creates_atomically'] else 'not exactly once: two writers can collide'}")
    say(f"models       {document['models']}")
    say(f"blobs        {document['blobs']}, {size_text(sum(entry.size for entry in census.blobs.values()))}")
    for kind, of in document["by_kind"].items():
        if kind not in ("blobs", "quarantine", "temporary") and of["objects"]:
            say(f"{kind:<12} {of['objects']}, {size_text(of['bytes'])}")
    if near:
        say(f"copies here  {count_text(len(near.blobs), 'blob')}, {size_text(near.size)} in all")
    moved, left = (sum(entry.size for entry in entries) for entries in (census.quarantine, census.debris))
    say(f"quarantine   {count_text(document['quarantined'], 'object')}, {size_text(moved)}")
    say(f"left behind  {count_text(document['left_behind'], 'temporary file')} of killed writers, {size_text(left)}")
    if document["bytes_free"] is not None:
        say(f"free         {size_text(document['bytes_free'])}")


@cache_command.command("ls")
@click.option(
    "--sort",
    type=click.Choice(("name", "size", "age", "used")),
    default="name",
    show_default=True,
    help="What comes first: the largest, the one converted longest ago, or the one used longest ago.",
)
@cache_option
@json_option
def ls_command(sort: str, places: Places, as_json: bool) -> None:
    """The models in the cache: their size, and how much of it they share with others.

    \b
    ttbert cache ls --sort size
    """
    from ..cache.census import take_census

    cache = places.open()
    census = take_census(cache)
    note_absence(cache, census)
    keys = {"name": _name, "size": lambda model: -_size(model), "age": _created, "used": census.last_used}
    models = sorted(census.models, key=keys[sort])
    if as_json:
        show([{**_model_row(model, census), "signed_by": _signed_by(cache, model)} for model in models])
    elif not models:
        say(
            f"The cache {cache.store.url} {'holds no model' if census.blobs else 'is empty'}. "
            f"{complete_commands('`ttbert convert bundled`')} puts a small {'one' if census.blobs else 'model'} into it."
        )
    else:
        rows = [("model", "manifest", "size", "own", "converted", "state")]
        for row in (_model_row(model, census) for model in models):
            manifest = (row["manifest"] or "").removeprefix("blake3:")[:12]
            created = (row["created"] or "")[:16].replace("T", " ")
            rows.append((row["ref"], manifest, size_text(row["bytes"]), size_text(row["own_bytes"]), created, row["state"]))
        say(table(rows, right=(2, 3)))


@cache_command.command("show")
@click.argument("ref")
@cache_option
@json_option
def show_command(ref: str, places: Places, as_json: bool) -> None:
    """Everything about one model: where it came from, what made it, its tensors.

    REF is NAME, NAME@REVISION, NAME@REVISION:POLICY or the beginning of a manifest's digest, 4 characters at least.

    \b
    ttbert cache show bundled
    """
    from ..cache.census import find_model, take_census

    cache = places.open()
    census = take_census(cache)
    model = find_model(census, ref)
    if model.cached is None:
        raise IntegrityError(
            f"{model.ref}: {model.problem}", "`ttbert cache verify` says more; converting it again restores it"
        )
    manifest = cache.read_manifest(model.cached.digest).manifest
    if as_json:
        document = {
            **_model_row(model, census),
            "signed_by": _signed_by(cache, model),
            "action": str(manifest.action),
            "architecture": manifest.architecture,
            "provenance": manifest.provenance.document(),
            "files": [each.document() for each in manifest.files],
            "packs": [each.document() for each in manifest.packs],
        }
        show(document)
        return
    provenance = manifest.provenance
    row = _model_row(model, census)
    say(f"model         {model.ref}  ({row['state']})")
    say(f"manifest      {model.cached.digest}")
    say(f"signed by     {', '.join(each['name'] or each['key'] for each in _signed_by(cache, model)) or 'nobody: unsigned'}")
    say(f"action key    {manifest.action}")
    say(f"architecture  {manifest.architecture}, policy {manifest.policy}")
    if model.entry:
        say(f"asked as      {origin_text(model.entry.repo, model.entry.commit)}, {model.entry.created}")
    say(f"converted of  {origin_text(provenance.repo, provenance.commit)}")
    for source in provenance.sources:
        say(f"              {source.name}  {source.digest}  {size_text(source.size)}")
    say(f"versions      {', '.join(f'{name} {version}' for name, version in sorted(provenance.versions.items()))}")
    say(f"size          {size_text(manifest.size)}, of which {size_text(row['own_bytes'])} are of this model alone")
    say()
    rows = [("tensor", "shape", "dtype", "layout", "bytes", "digest", "pack")]
    for pack in manifest.packs:
        for each in pack.tensors:
            shape = " x ".join(map(str, each.shape))
            rows.append((each.name, shape, each.dtype, each.layout, f"{each.size:,}", each.digest.short, pack.name))
    say(table(rows, right=(4,)))
    say()
    blobs = [("blob", "", "bytes", "digest")]
    blobs += [
        (each.name, count_text(len(each.tensors), "tensor"), f"{each.size:,}", each.blob.short) for each in manifest.packs
    ]
    blobs += [(each.name, "file", f"{each.size:,}", each.blob.short) for each in manifest.files]
    say(table(blobs, right=(2,)))


@cache_command.command("rm")
@click.argument("ref")
@click.option("--dry-run", is_flag=True, help="Say what would be forgotten, and forget nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@cache_option
@json_option
def rm_command(ref: str, dry_run: bool, yes: bool, places: Places, as_json: bool) -> None:
    """Forget the name REF. Its bytes stay until `ttbert cache gc`, as far as no other model shares them.

    \b
    ttbert cache rm bundled
    """
    from ..cache.census import find_model, take_census

    cache = places.open()
    census = take_census(cache)
    model = find_model(census, ref)
    frees = census.own_size(model.cached) if model.cached and _names(census, model) == 1 else 0
    collect = complete_commands("`ttbert cache gc`")
    if (dry_run and not as_json) or not (dry_run or yes):
        tell(f"{model.ref}: once the name is forgotten, {collect} frees {size_text(frees)}")
    if not dry_run:
        agree(yes, f"Forget it in {cache.store.url}?")
        try:
            cache.remove_ref(model.ref)
        except NoSpaceError as error:
            command = complete_commands("`ttbert cache gc --grace 0`")
            error.hint = f"that is written down: free a few kB of that disk with {command}, or in another way, then try again"
            raise
    if as_json:
        show({"ref": str(model.ref), "removed": not dry_run, "bytes_freed_by_gc": frees})
    elif not dry_run:
        say(f"forgot {model.ref}; {collect} then frees {size_text(frees)}")


def _may_publish(cache: Cache, places: Places) -> str:
    from ..cache.stores.local import LocalStore
    from ..cache.stores.mounts import nearest_existing

    if places.read_only:
        return "no: --read-only"
    place = nearest_existing(cache.store.root) if isinstance(cache.store, LocalStore) else None
    if place and not os.access(place, os.W_OK | os.X_OK):
        return f"no: {place} cannot be written to; {complete_commands('`ttbert cache doctor`')} says why"
    return "yes, where its owner permits it"


def note_absence(cache: Cache, census: Census) -> None:
    """Tell of a cache that is not there, which looks like an empty one."""
    from ..cache.census import SLIP

    if not census.is_there:
        tell(f"note: there is no cache in {cache.store.url} yet; {SLIP}")


def note_beginning(cache: Cache, ref: Ref) -> None:
    """Tell of a cache that begins with the model just filed under `ref`, unless it is in the usual place."""
    from ..cache.census import SLIP

    url = cache.store.url
    if url != default_cache() and set(cache.authority.list_refs()) == {ref}:
        tell(f"note: {ref} is the first model in {url}; if there should be others: {SLIP}")


def _by_kind(census: Census) -> dict[str, dict[str, int]]:
    """Everything that is stored, by the folder it is in; the largest first."""
    sizes = sorted(census.sizes.items(), key=lambda item: -item[1][1])
    return {kind: {"objects": objects, "bytes": size} for kind, (objects, size) in sizes}


def _model_row(model: Model, census: Census) -> dict[str, Any]:
    return {
        "ref": str(model.ref),
        "repo": model.entry.repo if model.entry else None,
        "commit": model.entry.commit if model.entry else None,
        "manifest": str(model.entry.manifest) if model.entry else None,
        "bytes": _size(model),
        "own_bytes": census.own_size(model.cached) if model.cached else 0,
        "created": _created(model),
        "last_used": census.last_day(model),
        "state": model.problem or "complete",
    }


def _signed_by(cache: Cache, model: Model) -> list[dict[str, Any]]:
    from ..cache.trust import signers

    return signed_by(signers(cache.store, "manifest", model.entry.manifest)) if model.entry else []


def _name(model: Model) -> Any:
    return str(model.ref)


def _size(model: Model) -> int:
    return model.cached.manifest.size if model.cached else 0


def _created(model: Model) -> str:
    return model.entry.created if model.entry else ""


def _names(census: Census, model: Model) -> int:
    """How many names lead to a model's manifest."""
    return sum(1 for other in census.models if other.cached and model.cached and other.cached.digest == model.cached.digest)
