"""`ttbert convert`."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from ..console import Progress, say, show, table, tell
from ..errors import InputError, NoSpaceError, NotCached, StoreUnavailable
from ..text import size_text
from .options import (
    complete_commands,
    json_option,
    offline_option,
    places_option,
    progress_option,
    sign_option,
    wanted_option,
)

if TYPE_CHECKING:
    from ..cache.cache import Cache
    from ..cache.manifest import TensorEntry
    from ..cache.places import Places
    from ..convert.convert import Conversion, Plan
    from ..convert.wanted import Wanted


@click.command("convert")
@click.argument("model")
@wanted_option
@click.option("--name", metavar="NAME", help="File the model under this name in the cache.")
@places_option
@offline_option
@progress_option
@click.option("--dry-run", is_flag=True, help="Print the plan and the action key, and convert nothing.")
@click.option("--rebuild", is_flag=True, help="Convert even what is there already, and compare the two; heal what is damaged.")
@sign_option
@json_option
def convert_command(
    wanted: Wanted,
    name: str | None,
    places: Places,
    dry_run: bool,
    rebuild: bool,
    sign_with: str | None,
    as_json: bool,
) -> None:
    """Convert MODEL and publish it in the cache, unless it is there already.

    MODEL is an id on the Hugging Face hub, a folder in the Hugging Face format, or `bundled`. A model is known by the
    content of its files: what was converted once, under whatever name, is not converted again.

    With --rebuild it is, and every byte is compared with what is stored. Leaves with exit code 7, and changes nothing, where
    the result is another one. What is damaged or missing in the cache is replaced; the damaged goes to `quarantine`.

    \b
    ttbert convert phiyodr/bert-large-finetuned-squad2
    ttbert convert ./my-finetuned-bert --policy bf16
    ttbert convert bundled --rebuild
    """
    from ..cache.cache import require_lasting
    from ..cache.keys import find_signer
    from ..convert.convert import convert, find_by_name, plan_conversion

    # Nothing here multiplies matrices, and the threads that numpy has for that would spin for a tenth of a second.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if dry_run and rebuild:
        raise InputError("--dry-run converts nothing, so there is nothing to compare", "leave out --dry-run or --rebuild")

    wanted = replace(wanted, name=name)
    cache = places.open(wanted.offline, find_signer(sign_with))
    if not dry_run:
        require_lasting(cache)
    started = time.perf_counter()
    try:
        plan = plan_conversion(wanted)
    except NotCached:
        found = find_by_name(wanted, cache)
        if found is None or dry_run or rebuild:
            raise
        tell(f"{wanted.model} is in the cache under this name; whether the hub has newer files was not checked (offline)")
        _report_conversion(found, cache, 0.0, as_json)
        return
    if dry_run:
        _report_plan(plan, cache, as_json)
        return
    conversion: Conversion | None = None
    with Progress(f"converting {wanted.model}", len(plan.recipe.tensors), plan.stored_size) as progress:

        def advance(entry: TensorEntry) -> None:
            progress.advance(entry.size)

        if rebuild:
            from ..convert.rebuild import rebuild as convert_again  # and numpy, which takes as long as all other imports

            conversion = convert_again(plan, cache, advance, tell)
        conversion = conversion or convert(plan, cache, advance, tell)
    if not conversion.hit:
        _keep_copy(conversion, cache)
    _report_conversion(conversion, cache, time.perf_counter() - started, as_json)
    if not conversion.hit:
        from .cache import note_beginning  # and the commands beside it

        note_beginning(cache, conversion.ref)


def _keep_copy(conversion: Conversion, cache: Cache) -> None:
    """Have what was published here, too: its blobs are, as far as there was room, and what leads to them comes now."""
    try:
        cache.fetch(conversion.cached, conversion.ref)
    except (NoSpaceError, StoreUnavailable) as error:  # what was asked for is done all the same
        tell(f"warning: {error.message}; the model is in {cache.store.url}, and not whole here")


def _report_plan(plan: Plan, cache: Cache, as_json: bool) -> None:
    from ..convert.convert import find_converted

    recipe = plan.recipe
    hit = find_converted(plan, cache) is not None
    if as_json:
        show(
            {
                "ref": str(plan.ref),
                "action": str(plan.action.key),
                "hit": hit,
                "commit": plan.source.commit,
                "sources": {name: str(plan.source.digest(name)) for name in (*plan.weights, *plan.tokenizer)},
                "bytes": plan.size,
                "recipe": recipe.document(),
            }
        )
        return
    rows = [("tensor", "shape", "dtype", "layout", "bytes", "made of")]
    for each in recipe.tensors:
        shape = " x ".join(map(str, each.shape))
        made_of = (
            ", ".join(each.sources)
            if len(each.sources) == 1
            else f"{len(each.sources)} tensors, {next(iter(each.sources))} first"
        )
        rows.append((each.name, shape, each.dtype, each.layout, f"{each.payload:,}", made_of))
    say(table(rows, right=(4,)))
    say()
    say(f"ref         {plan.ref}")
    say(f"action key  {plan.action.key}")
    say(f"weights     {', '.join(plan.weights)}")
    say(f"tensors     {len(recipe.tensors)}, {size_text(plan.size)} on the device")
    say(f"in cache    {'yes: nothing to convert' if hit else 'no: `ttbert convert` would convert it'}")


def _report_conversion(conversion: Conversion, cache: Cache, seconds: float, as_json: bool) -> None:
    from ..cache.trust import has_signature
    from ..convert.convert import Rebuilt

    cached = conversion.cached
    healed = conversion.healed if isinstance(conversion, Rebuilt) else None
    manifest = cached.manifest
    signer = cache.trust.signer
    signed = signer is not None and has_signature(cache.store, "manifest", cached.digest, signer.public)
    if as_json:
        show(
            {
                "ref": str(conversion.ref),
                "manifest": str(cached.digest),
                "action": str(manifest.action),
                "hit": conversion.hit,
                "rebuilt": healed is not None,
                "healed": list(healed or ()),
                "tensors": len(manifest.tensors),
                "bytes": manifest.size,
                "seconds": round(seconds, 3),
                "cache": cache.store.url,
                "counters": cache.counters.document(),
                "signed_with": signer.name if signer and signed else None,
            }
        )
        return
    if healed is not None:
        done = f"converted again in {seconds:.1f} s: the very bytes that are stored"
    else:
        done = "already in the cache, nothing converted" if conversion.hit else f"converted in {seconds:.1f} s"
    say(f"{conversion.ref}: {done}")
    if healed:
        say(f"  healed    {', '.join(healed)}: damaged or missing in the cache, and sound now")
    say(f"  manifest  {cached.digest}")
    say(f"  tensors   {len(manifest.tensors)}, {size_text(manifest.size)} with the files beside them")
    shared = ", the shared tier; copies are kept in " + cache.near.store.url if cache.near else ""
    say(f"  cache     {cache.store.url}{shared}")
    if signer and signed:
        say(f"  signed    with the key {signer.name!r}")
    elif signer:
        sign = complete_commands(f"`ttbert cache sign {conversion.ref}`")
        tell(f"note: it was there already, and {signer.name!r} has not signed it; {sign} does that")
