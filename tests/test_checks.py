"""`verify` of what leads to models: the histories of names, and actions. In a folder and in a bucket."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fault_proxy import Exchange, FaultProxy
from models import OTHER, TINY, build, open_local, publish, publish_other
from s3_server import MotoServer

from ttbert.cache.cache import Cache, Cached, action_key, manifest_key
from ttbert.cache.census import Census, find_model, take_census
from ttbert.cache.condemned import condemn
from ttbert.cache.digest import blake3_of
from ttbert.cache.places import Places
from ttbert.cache.refs import LogEntry, entry_key, read_entry
from ttbert.cache.stores.local import LocalStore
from ttbert.cache.tiered_cache import TieredCache
from ttbert.cache.verify import Finding, Verdict, survey, verify
from ttbert.errors import IncompatibleError, IntegrityError

OLD, MIDDLE, LAST = (entry_key(TINY, number) for number in (1, 2, 3))


@pytest.fixture(params=["folder", "bucket"])
def cache(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """An empty cache."""
    if request.param == "folder":
        return open_local(tmp_path / "cache")
    moto: MotoServer = request.getfixturevalue("moto")
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    return Places(f"s3://{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}").open()


def name_thrice(cache: Cache) -> Cached:
    """A name that meant three models one after another; the last."""
    for tensors, recipe in (({"one": b"1" * 100}, b"one"), ({"two": b"2" * 100}, b"two")):
        publish(cache, TINY, tensors, recipe)
    return publish(cache)


def check(cache: Cache, repair: bool = False, only: str | None = None) -> Verdict:
    census = take_census(cache.authority)
    return verify(cache, census, find_model(census, only) if only else None, repair)


def found(cache: Cache, repair: bool = False) -> dict[str, Finding]:
    """What `verify` finds, and `verify --fast` as well."""
    findings = {finding.key: finding for finding in survey(cache, take_census(cache.authority)).findings}
    assert set(findings) == {finding.key for finding in check(cache).findings}
    return {finding.key: finding for finding in check(cache, repair).findings}


def overwrite(cache: Cache, key: str, content: bytes) -> bytes:
    cache.store.delete(key)
    cache.store.put(key, content)
    return content


def flip(cache: Cache, key: str, after: bytes) -> bytes:
    """Damage the byte that follows some others by its last bit; what is there now."""
    content = bytearray(cache.store.get(key))
    content[content.index(after) + len(after)] ^= 1
    return overwrite(cache, key, bytes(content))


def exchange(cache: Cache, key: str, old: bytes, new: bytes) -> None:
    content = cache.store.get(key)
    assert old in content
    overwrite(cache, key, content.replace(old, new))


DAMAGE = [b"{", b'"created":"', b'"created":"2', b'"manifest":"blake3:', b'"means":{"co', b'"number"', b'"repo":"']
"""What precedes a byte in an entry, as a test flips it."""


@pytest.mark.parametrize("place", DAMAGE)
@pytest.mark.parametrize("key", [OLD, MIDDLE])
def test_any_damage_of_an_earlier_entry_is_found_and_moved_and_the_name_means_the_same(
    cache: Cache, key: str, place: bytes
) -> None:
    last = name_thrice(cache)
    damaged = flip(cache, key, place)
    finding = found(cache)[key]
    assert len(found(cache)) == 1 and finding.exit_code == 7 and finding.models == () and finding.moved is None
    assert f"{TINY} means what its last entry says all the same" in finding.advice
    assert check(cache, only="tiny").findings == (finding,)

    (moved,) = check(cache, repair=True).findings
    assert moved.key == key and cache.store.get(moved.moved or "") == damaged and cache.resolve(TINY) == last
    verdict = check(cache)
    assert verdict.sound and verdict.exit_code == 0, "there is nothing left to be mended"
    assert [(each.key, each.problem) for each in verdict.findings] == [(key, "gone; the entry after it is there")]
    assert [model.ref for model in take_census(cache).models] == [TINY]


def test_an_entry_that_is_another_than_the_next_one_says_is_found_though_it_can_be_read(cache: Cache) -> None:
    name_thrice(cache)
    exchange(cache, OLD, b'"someone/tiny"', b'"someone/else"')
    entry = read_entry(cache.store, TINY, 1)
    assert entry is not None and entry.means is not None and entry.means.repo == "someone/else"
    assert found(cache)[OLD].problem == "it is not what entry 2 says it was, which does not follow it"


def test_a_wrong_entry_is_not_believed_of_the_one_before_it(cache: Cache) -> None:
    name_thrice(cache)
    exchange(cache, MIDDLE, blake3_of(cache.store.get(OLD)).hex.encode(), blake3_of(b"another").hex.encode())
    assert found(cache).keys() == {MIDDLE}


@pytest.mark.parametrize("mend", ["convert", "rm"])
@pytest.mark.parametrize("place", [b"{", b"+00:0"], ids=["syntax", "time"])
def test_a_damaged_last_entry_stays_until_another_one_supersedes_it(cache: Cache, place: bytes, mend: str) -> None:
    name_thrice(cache)
    damaged = flip(cache, LAST, place)
    with pytest.raises(IntegrityError):
        cache.resolve(TINY)
    finding = found(cache, repair=True)[LAST]
    assert finding.exit_code == 7 and finding.models == (str(TINY),) and finding.moved is None
    assert "until it is converted again" in finding.advice and f"ttbert cache rm {TINY}" in finding.advice
    assert cache.store.get(LAST) == damaged, "without it, the name would mean what it meant before"

    if mend == "rm":
        cache.remove_ref(TINY)
        assert cache.resolve(TINY) is None
    else:
        cached = publish(cache)
        assert cache.resolve(TINY) == cached
    assert not found(cache) and check(cache).exit_code == 0
    flip(cache, LAST, b'"repo":"')
    assert found(cache).keys() == {LAST}, "it is another one since"


def test_the_history_of_a_name_that_was_removed_is_looked_at_too(cache: Cache) -> None:
    name_thrice(cache)
    cache.remove_ref(TINY)
    flip(cache, MIDDLE, b"{")
    assert found(cache).keys() == {MIDDLE}


def test_an_entry_that_is_gone_is_told_and_is_no_reason_to_fail(cache: Cache) -> None:
    name_thrice(cache)
    cache.store.delete(OLD)
    (finding,) = found(cache).values()
    assert (finding.key, finding.exit_code) == (OLD, 0) and check(cache).sound


def test_an_entry_of_another_version_is_left_alone(cache: Cache) -> None:
    name_thrice(cache)
    content = cache.store.get(MIDDLE).replace(b"ttbert.ref/2", b"ttbert.ref/3")
    overwrite(cache, MIDDLE, content)
    finding = found(cache, repair=True)[MIDDLE]
    assert finding.exit_code == IncompatibleError.exit_code and cache.store.get(MIDDLE) == content


def test_entries_are_restored_from_the_local_tier_if_it_has_the_very_bytes(cache: Cache, tmp_path: Path) -> None:
    tiered = TieredCache(cache.store, LocalStore(tmp_path / "near"))
    last = name_thrice(tiered)
    tiered.fetch(last, TINY)
    whole = {key: cache.store.get(key) for key in (OLD, MIDDLE, action_key(last.manifest.action))}
    assert all(tiered.near.store.get(key) == content for key, content in whole.items())
    flip(tiered.near, OLD, b'"repo":"')
    for key in whole:
        flip(cache, key, b"{")
    restored = {finding.key: finding.restored for finding in check(tiered, repair=True).findings}
    assert restored == {key: key != OLD for key in whole}, "a copy that is another one is not taken"
    assert [cache.store.get(key) for key in list(whole)[1:]] == list(whole.values())[1:]
    assert check(tiered).sound


@pytest.mark.parametrize("how", ["damaged", "of another action", "leads nowhere"])
def test_a_wrong_action_is_found_moved_and_made_again_by_the_next_conversion(cache: Cache, how: str) -> None:
    cached, other = publish(cache), publish_other(cache)
    key = action_key(cached.manifest.action)
    sound = cache.store.get(key)
    nothing = blake3_of(b"nothing")
    digests = {"of another action": other.digest, "leads nowhere": nothing}
    wrong = sound.replace(cached.digest.hex.encode(), digests[how].hex.encode()) if how in digests else b"rubbish"
    overwrite(cache, key, wrong)
    assert cache.find(cached.manifest.action) is None and cache.resolve(TINY) == cached
    finding = found(cache)[key]
    problems = {
        "of another action": f"it leads to manifest {other.digest.short}, which is of another action",
        "leads nowhere": f"it leads to manifest {nothing.short}, which is not there",
    }
    assert finding.problem == problems.get(how, finding.problem) and finding.exit_code == 7
    assert finding.advice.startswith(f"of {TINY}: a folder is not found without it; the next run or conversion")

    assert cache.store.get(check(cache, repair=True).findings[0].moved or "") == wrong and check(cache).sound
    overwrite(cache, key, wrong)
    publish(cache)
    assert cache.store.get(key) == sound and not found(cache)


def test_a_model_of_the_hub_is_loaded_by_its_name_without_its_action(cache: Cache) -> None:
    other = publish_other(cache)
    overwrite(cache, action_key(other.manifest.action), b"rubbish")
    assert cache.resolve(OTHER) == other
    assert found(cache)[action_key(other.manifest.action)].advice.startswith(f"of {OTHER}: loading does not need it")


def test_an_action_that_a_killed_collection_left_behind_is_no_damage(cache: Cache) -> None:
    """It deletes manifests first, and its record stays until the next one has finished."""
    publish_other(cache)
    gone = cache.publish_manifest(build(cache))
    keys = [manifest_key(gone.digest), action_key(gone.manifest.action)]
    record = condemn(cache.store, (), dict.fromkeys(keys, "no name leads to it"))
    cache.store.delete(keys[0])
    assert not found(cache)
    cache.store.delete(f"{record.folder}/condemned")
    assert found(cache).keys() == {keys[1]}
    assert "no name that can be read" in found(cache)[keys[1]].advice


def test_what_is_missing_is_told_once_and_not_of_the_action_that_leads_to_it(cache: Cache) -> None:
    cached = publish(cache)
    publish_other(cache)
    cache.store.delete(manifest_key(cached.digest))
    assert found(cache).keys() == {manifest_key(cached.digest)}


@pytest.mark.parametrize(
    "created",
    [
        *("2026-X1-26T20:09:00+00:00", "2026-02-30T20:09:00+00:00", "2026-11-26T20:09:00", "2026-11-26T20:09:00Z"),
        *("2026-11-26T20:09:00+01:00", "2026-11-26 20:09:00+00:00", "2026-11-26T20:09:00.000001+00:00", "2026-11-26", ""),
        "\u0662026-11-26T20:09:00+00:00",
    ],
)
def test_a_time_that_no_writer_of_entries_writes_is_damage(tmp_path: Path, created: str) -> None:
    cache = open_local(tmp_path)
    publish(cache)
    entry = read_entry(cache.store, TINY, 1)
    assert entry is not None and LogEntry.parse(entry.to_bytes(), "here") == entry
    content = replace(entry, created=created).to_bytes()
    with pytest.raises(IntegrityError, match=r"'created' is .*, not a date and time in UTC"):
        LogEntry.parse(content, "here")


def test_every_document_is_read_once(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    name_thrice(cache)
    publish_other(cache)
    census, read = take_census(cache), []
    get = type(cache.store).get

    def counting(store: object, key: str, start: int = 0, length: int | None = None) -> bytes:
        read.append(key)
        return get(cache.store, key, start, length)

    monkeypatch.setattr(type(cache.store), "get", counting)
    assert survey(cache, census).sound
    documents = [entry.key for folder in ("actions", "refs") for entry in census.below(folder)]
    assert sorted(read) == sorted(documents) and len(documents) == 4 + 4


@pytest.mark.parametrize("look, folders", [(survey, ["actions", "refs"]), (verify, ["blobs", "manifests", "actions", "refs"])])
def test_several_objects_are_asked_for_at_once(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, look: Callable[[Cache, Census], Verdict], folders: list[str]
) -> None:
    for name, value in proxy.env.items():
        monkeypatch.setenv(name, value)
    cache = Places(f"s3://{proxy.bucket()}/cache").open()
    name_thrice(cache)
    census = take_census(cache)
    kinds = {folder: (set[str](), asyncio.Event()) for folder in folders}
    alone = []

    async def together(exchange: Exchange) -> None:
        """None is answered before another one of its kind is asked for, too."""
        asked, several = kinds[next(folder for folder in folders if f"/{folder}/" in exchange.path)]
        asked.add(exchange.path)
        if len(asked) > 1:
            several.set()
        try:
            await asyncio.wait_for(several.wait(), 20)
        except asyncio.TimeoutError:
            alone.append(exchange.path)
            several.set()
        await exchange.answer(*await exchange.forward())

    proxy.meet(together, "GET", times=1000)
    try:
        assert look(cache, census).findings == () and not alone
        assert {folder: len(asked) for folder, (asked, _) in kinds.items()} == {
            folder: len(census.below(folder)) for folder in folders
        }
    finally:
        proxy.calm()


@pytest.mark.parametrize("folder", ["%2Ehidden:bfp8", "a%2fb:bfp8", "a" * 250 + ":b", "plain"])
def test_a_folder_that_no_name_has_is_no_history(tmp_path: Path, folder: str) -> None:
    cache = open_local(tmp_path)
    publish(cache)
    cache.store.put(f"refs/{folder}/00000001", b"rubbish")
    assert [model.ref for model in take_census(cache).models] == [TINY] and check(cache).findings == ()
