"""`ttbert cache keygen | sign | trust | log`: who published a model, and what a name meant before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..console import plain, say, show, table, tell
from ..errors import InputError, UntrustedError
from ..text import origin_text
from .options import cache_option, json_option, sign_option

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..cache.keys import PublicKey
    from ..cache.places import Places


@click.command("keygen")
@click.argument("name", default="default", metavar="[NAME]")
@json_option
def keygen_command(name: str, as_json: bool) -> None:
    """Make a pair of keys to sign models with. The key called `default` signs what `convert` publishes.

    The private key stays in your configuration folder; the public one is a line to give to whoever loads your models.

    \b
    ttbert cache keygen
    """
    from ..cache.keys import key_folder, make_key

    key = make_key(name)
    path = key_folder() / name
    if as_json:
        show({"name": name, "key": key.id, "private": str(path), "public": f"{path}.pub", "line": key.line()})
        return
    say(f"private key  {path}")
    say(f"public key   {path}.pub")
    say(f"             {key.line()}")
    tell("Give the public key to those who load your models: ttbert cache trust FILE")


@click.command("sign")
@click.argument("ref")
@sign_option
@cache_option
@json_option
def sign_command(ref: str, sign_with: str | None, places: Places, as_json: bool) -> None:
    """Vouch for the model REF: for its manifest, and for the name's leading to it.

    Sign what you converted, or what you have reason to believe in: the signature says so to all who trust your key.

    \b
    ttbert cache sign bundled
    """
    from ..cache.census import look_up
    from ..cache.keys import find_signer

    key = find_signer(sign_with)
    if key is None:
        raise InputError("there is no key to sign with", "make one with `ttbert cache keygen`")
    public = key.public
    cache = places.open()
    model = look_up(cache, ref)
    cached = cache.sign(model.ref, key)
    if as_json:
        show({"ref": str(model.ref), "manifest": str(cached.digest), "key": public.id, "name": key.name})
        return
    provenance = cached.manifest.provenance
    say(f"signed {model.ref} with the key {key.name!r}")
    say(f"  manifest      {cached.digest}")
    say(f"  converted of  {origin_text(provenance.repo, provenance.commit)}")


class _KeyOrVerb(click.Group):
    """`trust KEY` means `trust add KEY`."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        return super().resolve_command(ctx, args if args[0] in self.commands else ["add", *args])


@click.group("trust", cls=_KeyOrVerb)
def trust_command() -> None:
    """Use only models that certain keys signed.

    As soon as one key is trusted, a model that is unsigned or signed by another is refused before any of it is fetched.

    \b
    ttbert cache trust alice.pub
    ttbert cache trust list
    """


@trust_command.command("add")
@click.argument("key")
@click.option("--name", metavar="NAME", help="Call the key so.  [default: as it calls itself]")
@json_option
def trust_add_command(key: str, name: str | None, as_json: bool) -> None:
    """Trust KEY: the file of a public key, its one line, or the name of a key of your own.

    \b
    ttbert cache trust add alice.pub
    """
    from ..cache.keys import list_trusted, read_public_key, trust

    first = not list_trusted()
    trusted = trust(read_public_key(key), name)
    if name and trusted.name != name:
        hint = f"to call it otherwise, `ttbert cache trust remove {trusted.name}` first"
        raise InputError(f"that key is trusted already, as {trusted.name!r}", hint)
    if as_json:
        show({"name": trusted.name, "key": trusted.id})
        return
    say(f"trusted: {trusted.name}  {trusted.id}")
    if first:
        tell("From now on, only models that a trusted key signed are used.")


@trust_command.command("list")
@json_option
def trust_list_command(as_json: bool) -> None:
    """The keys that are trusted, and your own.

    \b
    ttbert cache trust list
    """
    from ..cache.keys import list_trusted, own_keys, trusted_folder

    trusted, own = list_trusted(), own_keys()
    if as_json:
        show(
            {
                "required": bool(trusted),
                "folder": str(trusted_folder()),
                "trusted": [{"name": key.name, "key": key.id} for key in trusted],
                "own": [{"name": key.name, "key": key.id} for key in own],
            }
        )
        return
    rows = [("key", "name", "")]
    rows += [(key.id, key.name, "trusted") for key in trusted]
    rows += [(key.id, key.name, "your own") for key in own]
    if len(rows) > 1:
        say(table(rows))
    if not trusted:
        say(f"No key is trusted ({trusted_folder()}), so signatures are not required.")


@trust_command.command("remove")
@click.argument("name")
@json_option
def trust_remove_command(name: str, as_json: bool) -> None:
    """Trust the key called NAME no longer.

    \b
    ttbert cache trust remove alice
    """
    from ..cache.keys import distrust, list_trusted

    key = distrust(name)
    left = list_trusted()
    if as_json:
        show({"name": key.name, "key": key.id, "required": bool(left)})
        return
    say(f"no longer trusted: {key.name}  {key.id}")
    if not left:
        tell("No key is trusted any more, so signatures are not required.")


@click.command("log")
@click.argument("ref")
@click.option("--accept", is_flag=True, help="Take the history as it is now for right, after a warning that it changed.")
@cache_option
@json_option
def log_command(ref: str, accept: bool, places: Places, as_json: bool) -> None:
    """What the name REF meant, from when on, and who signed it; also of a name that was removed.

    \b
    ttbert cache log bundled
    """
    from ..cache.census import require_cache, take_census
    from ..cache.history import read_log
    from ..cache.refs import find_ref
    from ..cache.trust import signers

    cache = places.open()
    known = list(cache.list_refs())
    if not known:
        require_cache(take_census(cache))
    found = find_ref(known, ref)
    log = read_log(cache.store, found)
    seen = cache.trust.memory.recall(cache.store, found)
    if accept:
        if log[-1].entry is None:
            raise UntrustedError(f"the last entry of {found} cannot be read", "convert the model again, which supersedes it")
        cache.trust.memory.remember(cache.store, found, log[-1].entry)
    names = _names()
    rows = [("entry", "from", "manifest", "commit", "signed by", "")]
    document: list[dict[str, Any]] = []
    for line in log:
        entry = line.entry
        by = signers(cache.store, "ref", entry.digest) if entry else []
        means = entry.means if entry else None
        document.append(
            {
                "number": line.number,
                "created": entry.created if entry else None,
                "digest": str(entry.digest) if entry else None,
                "manifest": str(means.manifest) if means else None,
                "repo": means.repo if means else None,
                "commit": means.commit if means else None,
                "signed_by": signed_by(by, names),
                "problem": line.problem,
            }
        )
        here = "last used here" if seen and entry and (seen.number, seen.entry) == (line.number, entry.digest) else ""
        rows.append(
            (
                str(line.number),
                (entry.created if entry else "")[:16].replace("T", " "),
                means.manifest.short if means else "removed" if entry else "",
                (means.commit or "")[:12] if means else "",
                signed_text(by, names) if entry else "",
                line.problem or here,
            )
        )
    if as_json:
        show({"ref": str(found), "cache": cache.store.url, "entries": document, "accepted": accept})
        return
    say(plain(table(rows, right=(0,))))
    if accept:
        say(f"accepted: {found} is taken as it is now")


def _names() -> dict[str, tuple[str, bool]]:
    """The names of the keys that are known here by their ids, and whether they are trusted."""
    from ..cache.keys import list_trusted, own_keys

    return {key.id: (key.name, False) for key in own_keys()} | {key.id: (key.name, True) for key in list_trusted()}


def signed_by(keys: Iterable[PublicKey], names: dict[str, tuple[str, bool]] | None = None) -> list[dict[str, Any]]:
    """Who signed something, for programs."""
    known = _names() if names is None else names
    rows = [(key.id, *known.get(key.id, (None, False))) for key in keys]
    return [{"key": id, "name": name, "trusted": trusted} for id, name, trusted in rows]


def signed_text(keys: Iterable[PublicKey], names: dict[str, tuple[str, bool]] | None = None) -> str:
    """Who signed something, for people: "alice, 3f9a12345678 (not known)", or "unsigned"."""
    rows = signed_by(keys, names)
    return ", ".join(row["name"] or f"{row['key'][:12]} (not known)" for row in rows) or "unsigned"
