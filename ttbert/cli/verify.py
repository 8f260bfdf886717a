"""`ttbert cache verify`: is everything in a cache what its name says?"""

from __future__ import annotations

import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..console import Progress, say, show, tell
from ..errors import InputError, StoreReadOnly, StoreUnavailable
from ..text import count_text, size_text
from .options import complete_commands, json_option, places_option, progress_option

if TYPE_CHECKING:
    from ..cache.cache import Cache
    from ..cache.census import Model
    from ..cache.places import Places
    from ..cache.verify import Verdict


@click.command("verify")
@click.argument("ref", required=False)
@click.option("--fast", is_flag=True, help="Compare the sizes of blobs, and read none.")
@click.option("--repair", is_flag=True, help="Move what is damaged to quarantine, and restore it if there is a copy.")
@progress_option
@places_option
@json_option
def verify_command(ref: str | None, fast: bool, repair: bool, places: Places, as_json: bool) -> None:
    """Read every blob and document in the cache, or of one model: is each what its digest, or what leads to it, says?

    Leaves with exit code 7 if something was damaged or missing, with 6 if there is no cache, and with 5, 9 or 11 if
    something could not be looked at. Nothing is ever deleted: --repair moves what is damaged to the folder `quarantine`. It
    puts back what the local tier has a sound copy of, and says which models to convert again for the rest.

    \b
    ttbert cache verify
    ttbert cache verify --repair
    ttbert cache verify --fast
    """
    from ..cache.census import find_model, take_census
    from ..cache.verify import entries_to_verify, survey, verify

    if fast and repair:
        raise InputError("--fast cannot tell what is damaged, so there is nothing to repair", "leave out --fast or --repair")
    cache = places.open()
    census = take_census(cache.authority)
    only = find_model(census, ref) if ref else None
    stored = entries_to_verify(cache, census, only)
    if fast:
        verdict = survey(cache, census, only)
    else:
        with Progress("verifying", len(stored), sum(entry.size for entry in stored.values())) as progress:
            verdict = verify(cache, census, only, repair, lambda entry: progress.advance(entry.size))
    findings = tuple(replace(finding, advice=complete_commands(finding.advice)) for finding in verdict.findings)
    verdict = replace(verdict, findings=findings)
    unseen = (StoreReadOnly.exit_code, StoreUnavailable.exit_code)  # converting again would not help
    hurt = {
        name
        for finding in verdict.findings
        if not finding.restored and finding.exit_code not in unseen
        for name in finding.models
    }
    commands = [_convert_command(_as_named(cache, model), places) for model in census.models if str(model.ref) in hurt]
    if as_json:
        show({"cache": cache.store.url, "sound": verdict.sound, "fast": fast, **asdict(verdict), "convert": commands})
    else:
        _print_verdict(verdict, "looked at" if fast else "read")
        if not repair and any(finding.is_movable and finding.key in stored for finding in verdict.findings):
            repair_command = complete_commands("`ttbert cache verify --repair`")
            tell(f"hint: {repair_command} moves what is damaged to quarantine, and says which models to convert again then")
        elif commands:
            tell("hint: convert again what is not whole any more, or pull it where these are copies of a shared cache:")
            for command in commands:
                tell(f"  {command}")
    if not verdict.sound:
        click.get_current_context().exit(verdict.exit_code)


def _as_named(cache: Cache, model: Model) -> Model:
    """A model whose name cannot be read as it was when it could be."""
    from ..cache.refs import read_meanings

    return model if model.entry else replace(model, entry=next(read_meanings(cache.store, model.ref), None))


def _convert_command(model: Model, places: Places) -> str:
    """The command that makes a model anew where it is, on a machine that may publish there.

    Under a name that somebody chose, or that a folder has, only the entry of the name tells of what the model was made:
    without it, MODEL stands for that.
    """
    from ..convert.wanted import BUNDLED

    is_named = not model.ref.revision and model.ref.name != BUNDLED
    repo = model.entry.repo if model.entry else "MODEL" if is_named else model.ref.name
    words = ["ttbert", "convert", repo, "--policy", model.ref.policy]
    if model.ref.revision:
        words += ["--revision", model.ref.revision]
    elif is_named and model.ref.name != f"local/{Path(repo).name}":
        words += ["--name", model.ref.name]
    return shlex.join([*words, *replace(places, read_only=False).options()])


def _print_verdict(verdict: Verdict, done: str) -> None:
    for finding in verdict.findings:
        needed = f", needed by {', '.join(finding.models)}" if finding.models else ""
        say(f"{finding.key}: {finding.problem}{needed}")
        if finding.advice:
            say(f"  {finding.advice}")
        if finding.moved:
            say(f"  moved to {finding.moved}")
        if finding.restored:
            say("  restored from the local tier")
    wrong = sum(finding.is_damage for finding in verdict.findings)
    unknown = sum(finding.exit_code != 0 for finding in verdict.findings) - wrong
    results = [*([f"{wrong} wrong"] if wrong else []), *([f"{unknown} could not be checked"] if unknown else [])]
    say(f"{count_text(verdict.objects, 'object')}, {size_text(verdict.size)} {done}: {', '.join(results) or 'all sound'}")
