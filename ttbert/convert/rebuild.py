"""Converting a model a second time, to compare the result with what is stored.

A conversion gives the same bytes wherever and whenever it is done. This is how to see whether that held: a stored result that
another machine, another version of a library or a broken memory made differently is found out, and nothing of it is replaced,
since nobody knows yet which of the two is right. What is merely damaged or gone has only one right content, and is healed.
"""

from __future__ import annotations

from ..cache.cache import Cache, Cached, blob_key
from ..cache.digest import Digest, blake3_of
from ..cache.manifest import FileEntry, PackEntry
from ..errors import CacheError, IntegrityError
from .convert import Note, Plan, Rebuilt, find_result, small_files
from .maker import Maker, Progress

_NAMED = 5
"""Blobs that an error names."""


def rebuild(
    plan: Plan, cache: Cache, progress: Progress = lambda entry: None, note: Note = lambda text: None
) -> Rebuilt | None:
    """Convert a model anew and compare it with the stored result, whole or not; None where there is none to compare with.

    `progress` and `note` are called as `Maker` says. IntegrityError where the two differ; then nothing was changed, but for
    blobs that were damaged and came out right. Raises what `convert` does.
    """
    plan.ref.check()
    stored = find_result(plan, cache.authority, cache.authority.find_stored)
    if stored is None:
        return None
    cache.authority.claim(stored)
    expected = {entry.name: entry for entry in stored.manifest.entries()}
    different, healed = [], []

    def compare(entry: PackEntry | FileEntry, content: bytes | memoryview) -> None:
        was = expected.pop(entry.name, None)
        if entry != was:
            different.append(f"{entry.name} ({entry.blob.short}, stored as {was.blob.short if was else 'nothing'})")
        elif not _is_sound(cache.authority, entry.blob, len(content)):
            cache.publish_blob(content)
            healed.append(entry.name)

    for name, content in small_files(plan).items():
        compare(FileEntry(name, blake3_of(content), len(content)), content)
    with Maker(plan.source, plan.recipe, progress, note) as maker:
        maker.hurry()
        for pack, made in maker.packs():
            packed, tensors = made.result()
            compare(PackEntry(pack.name, blake3_of(packed), tensors), packed)
            maker.give_back(packed)
    plan.source.check_unchanged()
    different += [f"{name} (stored as {entry.blob.short}, and not made any more)" for name, entry in expected.items()]
    if different:
        raise _disagreement(plan, cache, stored, different)
    cache.move_ref(plan.ref, stored, plan.source.label, plan.source.commit)
    return Rebuilt(stored, plan.ref, hit=True, healed=tuple(healed))


def _is_sound(cache: Cache, blob: Digest, size: int) -> bool:
    """Whether the stored bytes are the right ones; read again where they seem not to be, perhaps only on their way here."""
    return any(cache.hash(blob_key(blob)) == (blob, size) for _ in range(2))


def _disagreement(plan: Plan, cache: Cache, stored: Cached, different: list[str]) -> CacheError:
    made = ", ".join(f"{name} {version}" for name, version in sorted(stored.manifest.provenance.versions.items()))
    more = f" and {len(different) - _NAMED} more" if len(different) > _NAMED else ""
    return IntegrityError(
        f"{plan.ref} came out otherwise than it is stored in {cache.store.url}: {', '.join(different[:_NAMED])}{more}; "
        f"nothing was replaced. The stored one was made by {made}",
        "rebuild it on another machine to see which of the two is right; to give up the stored one, `ttbert cache rm` its "
        "names, then `ttbert cache gc`, then convert",
    )
