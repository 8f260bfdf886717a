"""Collecting garbage: only waste goes, only after it was condemned for long enough, and never under a reader or a writer."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
from killed import RunKilled, killed_processes
from models import (
    COMMIT,
    DAY,
    FILES,
    HOUR,
    OTHER,
    OTHER_TENSORS,
    TENSORS,
    TINY,
    age,
    blob_path,
    build,
    files,
    flip_bit,
    load,
    open_local,
    publish,
    publish_other,
)
from s3_server import MotoServer

from ttbert.cache.cache import Cache, blob_key, manifest_key
from ttbert.cache.census import take_census
from ttbert.cache.condemned import LOOKS, CondemnedRef, Objections, Sweeper, condemn, read_record, record_names
from ttbert.cache.digest import blake3_of
from ttbert.cache.document import canonical
from ttbert.cache.gc import GRACE, Limits, Plan, plan_gc
from ttbert.cache.lease import leased
from ttbert.cache.places import Places
from ttbert.cache.refs import Ref, entry_numbers
from ttbert.cache.stores.local import LocalStore
from ttbert.cache.stores.store import Capabilities, Entry
from ttbert.cache.sweep import run_gc
from ttbert.cache.used import stamp
from ttbert.cache.verify import verify
from ttbert.errors import CacheError, IntegrityError, StoreUnavailable


def plan(cache: Cache, limits: Limits | None = None, grace: float = GRACE, quarantined: bool = False) -> Plan:
    return plan_gc(cache, take_census(cache), limits, grace, quarantined)


def collect(cache: Cache, limits: Limits | None = None, grace: float = GRACE, quarantined: bool = False) -> int:
    return run_gc(cache, plan(cache, limits, grace, quarantined))


def collect_twice(cache: Cache, root: Path, limits: Limits | None = None) -> int:
    """Condemn, let the grace period pass, and delete; the bytes that were freed."""
    assert collect(cache, limits) == 0
    age(root, GRACE + HOUR)
    return collect(cache, limits)


def condemn_and_wait(cache: Cache, root: Path, ref: Ref) -> Plan:
    """Condemn what a name alone leads to, and let the grace period pass; the plan by which it would be deleted now."""
    cache.remove_ref(ref)
    collect(cache)
    age(root, GRACE + HOUR)
    return plan(cache)


@contextmanager
def unless_deleted_meanwhile() -> Iterator[None]:
    """What is in it may end with the error for that a collector has deleted what it was at."""
    try:
        yield
    except CacheError as error:
        told = (
            "convert again" in error.hint,
            "convert the model again" in error.hint,
            "has no manifest" in error.message,
            "deleted while" in error.message,
        )
        assert any(told), f"{error}; {error.hint}"


def sound(cache: Cache) -> bool:
    return verify(cache, take_census(cache)).sound


def left(root: Path) -> list[str]:
    """The keys of everything but the histories of names, which stay."""
    return [key for key in files(root) if not key.startswith("refs/")]


def names(cache: Cache) -> list[Ref]:
    """The refs that mean something."""
    return [model.ref for model in take_census(cache).models]


def kinds(root: Path) -> set[str]:
    return {key.split("/")[0] for key in files(root)}


# What is waste


def test_nothing_that_a_name_leads_to_is_collected_however_old(cache: Cache, root: Path) -> None:
    publish(cache)
    publish_other(cache)
    age(root, 1000 * DAY)
    before = files(root)
    found = plan(cache, grace=0)
    assert not found.deletes and not found.condemns and collect(cache, grace=0) == 0
    assert files(root) == before


def test_what_was_forgotten_goes_in_the_second_collection_after_the_grace_period(cache: Cache, root: Path) -> None:
    cached = publish(cache)
    cache.remove_ref(TINY)
    first = plan(cache)
    assert first.condemns and not first.deletes and len(first.condemn) == 7
    before = files(root)
    assert run_gc(cache, first) == 0 and before.items() <= files(root).items()
    assert cache.find(cached.manifest.action) == cached
    early = plan(cache)
    assert not early.deletes and not early.condemns and len(early.waiting) == 7
    age(root, GRACE + HOUR)
    size = sum(len(content) for key, content in before.items() if not key.startswith("refs/"))
    assert collect(cache) == size and left(root) == []


def test_without_grace_it_goes_at_once(cache: Cache, root: Path) -> None:
    publish(cache)
    cache.remove_ref(TINY)
    age(root, HOUR)
    found = plan(cache, grace=0)
    assert found.deletes and run_gc(cache, found) > 6000 and left(root) == []


def test_blobs_that_another_model_shares_are_kept(cache: Cache, root: Path) -> None:
    publish(cache)
    other = publish_other(cache)
    own = take_census(cache).own_size(cache.resolve(TINY))  # type: ignore[arg-type]
    cache.remove_ref(TINY)
    found = plan(cache)
    assert sum(each.entry.size for each in found.condemn if each.entry.key.startswith("blobs/")) == own == 3000
    assert collect_twice(cache, root) > own
    assert cache.find(other.manifest.action) == other and sound(cache)
    assert sorted(key.split("/")[0] for key in files(root)) == ["actions", *["blobs"] * 4, "manifests", *["refs"] * 3, "used"]


def test_a_model_under_two_names_goes_with_the_last(cache: Cache, root: Path) -> None:
    publish(cache)
    publish(cache, OTHER)
    cache.remove_ref(TINY)
    assert not plan(cache).condemns
    cache.remove_ref(OTHER)
    assert len(plan(cache).condemn) == 7


def test_what_a_name_meant_before_is_waste_unless_it_is_to_be_kept(cache: Cache, root: Path) -> None:
    before = publish(cache)
    now = publish(cache, TINY, OTHER_TENSORS, b"newer recipe")
    two = Limits(keep_last=2)
    assert not plan(cache, two).condemns and plan(cache).condemns
    assert collect_twice(cache, root, two) == 0 and cache.find(before.manifest.action) == before
    collect(cache)
    age(root, GRACE + HOUR)
    assert not plan(cache, two).deletes, "what an earlier collection condemned is kept by a later limit"
    collect(cache)
    assert cache.resolve(TINY) == now and sound(cache)
    assert not blob_path(root, TENSORS["layer"]).exists() and blob_path(root, TENSORS["embeddings"]).exists()


def test_the_plan_says_what_everything_was(cache: Cache, root: Path) -> None:
    publish(cache)
    cache.publish_blob(b"of a conversion that never ended")
    (root / "blobs/aa").mkdir(exist_ok=True)
    (root / "blobs/aa" / (".tmp-" + "0" * 32)).write_bytes(b"half")
    broken = b"no manifest"
    cache.store.put(manifest_key(blake3_of(broken)), broken)
    cache.remove_ref(TINY)
    age(root)
    found = plan(cache)
    reasons = {each.entry.key: each.reason for each in (*found.condemn, *found.leftovers)}
    name = f"someone/tiny@{COMMIT[:12]}:bfp8"
    assert reasons[blob_key(blake3_of(TENSORS["layer"]))] == f"of {name}, to which no name leads"
    assert f"manifest of {name}, to which no name leads" in reasons.values()
    assert reasons[manifest_key(blake3_of(broken))] == "a manifest that cannot be read and that no name leads to"
    assert reasons[blob_key(blake3_of(b"of a conversion that never ended"))] == "no model uses it"
    assert reasons["blobs/aa/.tmp-" + "0" * 32] == "left behind by a writer that was killed"
    assert len(reasons) == 10


def test_debris_goes_when_it_is_old_and_a_writer_at_work_is_left_alone(cache: Cache, root: Path) -> None:
    publish(cache)
    left = root / "blobs" / (".tmp-" + "0" * 32)
    left.write_bytes(b"half")
    assert len(plan(cache).young) == 1 and collect(cache) == 0 and left.exists()
    age(root)
    found = plan(cache)
    left.write_bytes(b"its writer is alive")
    assert run_gc(cache, found) == 0 and left.exists()
    age(root)
    assert collect(cache) == len(b"its writer is alive") and not left.exists()
    assert sound(cache)


class LookedOver(LocalStore):
    """Counts how often somebody looks for temporary files in all of it."""

    looks = 0

    def debris(self) -> Iterator[Entry]:
        self.looks += 1
        return super().debris()


def test_what_killed_writers_left_is_looked_for_once(root: Path) -> None:
    store = LookedOver(root)
    cache = Cache(store)
    publish(cache)
    for number in range(10):
        (root / "blobs" / f".tmp-{number:032x}").write_bytes(b"half")
    age(root)
    assert collect(cache) == 10 * len(b"half") and store.looks == 1 and not list(store.debris())


def test_quarantine_is_kept_unless_it_is_asked_for(cache: Cache, root: Path) -> None:
    publish(cache)
    damaged = flip_bit(blob_path(root, TENSORS["layer"]))
    verify(cache, take_census(cache), repair=True)
    publish(cache)
    age(root)
    assert collect(cache) == 0
    (kept,) = cache.store.list("quarantine")
    assert cache.store.get(kept.key) == damaged
    assert collect(cache, quarantined=True) == len(damaged)
    assert list(cache.store.list("quarantine")) == []


def test_remains_of_killed_collections_and_checks_go_after_an_hour(cache: Cache, root: Path) -> None:
    cached = publish(cache)
    cache.store.put("gc/" + "0" * 32 + "/sweeping/" + "1" * 32, b"{}")
    cache.store.put("gc/" + "2" * 32 + "/condemned", b"damaged")
    cache.store.put("probes/" + "3" * 32, b"probe")
    cache.store.put(f"used/{cached.digest.hex}/2020-01-01", b"")
    os.utime(root / f"used/{cached.digest.hex}/2020-01-01", (1.6e9, 1.6e9))
    assert len(plan(cache).leftovers) == 1, "the stamp that another one supersedes"
    age(root, 2 * HOUR)
    assert len(plan(cache).leftovers) == 4
    collect(cache)
    assert kinds(root) == {"blobs", "manifests", "actions", "refs", "used"} and not plan(cache).leftovers


@pytest.mark.parametrize(
    "name",
    [
        *("used", "leases", "probes", "quarantine", "README", "used/README", "gc/notes", "probes/flight-1/data.csv"),
        *("leases/flat.pdf", "quarantine/found.bin", "blobs/sha256-" + "0" * 64, "blobs/" + "0" * 40, "blobs/00/" + "1" * 64),
        *("manifests/registry/llama/7b", "actions/checkout/main.js", "refs/main"),
    ],
)
def test_files_of_others_are_no_waste(tmp_path: Path, name: str) -> None:
    """Such as one at the top that is called as one of the folders is, and what others keep in folders of these names."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("somebody's")
    cache = open_local(tmp_path)
    assert collect(cache, grace=0, quarantined=True) == 0
    cached = cache.publish_manifest(build(cache))
    assert verify(cache, take_census(cache), repair=True).sound
    age(tmp_path)
    collect(cache, quarantined=True)
    age(tmp_path)
    assert collect(cache, quarantined=True) > 6000 and cache.find(cached.manifest.action) is None
    assert files(tmp_path)[name] == b"somebody's" and (take_census(cache).sizes.get(".") == (1, 10)) == ("/" not in name)


def test_every_byte_is_in_the_account(cache: Cache, root: Path) -> None:
    publish(cache)
    publish_other(cache)
    cache.remove_ref(TINY)
    collect(cache)
    flip_bit(blob_path(root, OTHER_TENSORS["other"]))
    verify(cache, take_census(cache), repair=True)
    (root / "refs" / (".tmp-" + "0" * 32)).write_bytes(b"half")
    cache.store.put("something/else", b"of a newer version")
    census = take_census(cache)
    assert census.size == sum(map(len, files(root).values()))
    expected = {"actions", "blobs", "gc", "manifests", "quarantine", "refs", "something", "temporary", "used"}
    assert set(census.sizes) == expected and census.sizes["something"] == (1, 18)


# Limits


def used_days_ago(cache: Cache, root: Path, days: dict[Ref, float]) -> None:
    """Make models look as if they had been converted a year ago and last used so many days ago."""
    age(root, 365 * DAY)
    for ref, ago in days.items():
        cached = cache.resolve(ref)
        assert cached is not None
        stamp(cache.store, cached.digest)
        newest = max((root / f"used/{cached.digest.hex}").iterdir(), key=lambda path: path.stat().st_mtime)
        then = time.time() - ago * DAY
        os.utime(newest, (then, then))
        newest.rename(newest.with_name(time.strftime("%Y-%m-%d", time.gmtime(then))))


def test_models_unused_for_long_are_given_up_and_others_stay(cache: Cache, root: Path) -> None:
    publish(cache)
    other = publish_other(cache)
    used_days_ago(cache, root, {TINY: 40, OTHER: 20})
    month = Limits(older_than=30 * DAY)
    found = plan(cache, month)
    assert [each.folder for each in found.condemn_refs] == [TINY.folder] and "last used on" in found.condemn_refs[0].reason
    assert cache.resolve(TINY) is not None
    collect(cache, month)
    assert cache.resolve(TINY) is not None, "condemned models can be used until they are deleted"
    age(root, GRACE + HOUR)
    found = plan(cache)
    assert [each.folder for each in found.forget] == [TINY.folder] and len(found.delete) == 4
    run_gc(cache, found)
    assert cache.resolve(TINY) is None and cache.resolve(OTHER) == other and sound(cache)
    assert not blob_path(root, TENSORS["layer"]).exists() and kinds(root) == {"blobs", "manifests", "actions", "refs", "used"}


@pytest.mark.parametrize("saved_by", ["a load", "a conversion", "a move"])
def test_a_condemned_model_that_is_used_after_all_stays(cache: Cache, root: Path, saved_by: str) -> None:
    cached = publish(cache)
    used_days_ago(cache, root, {TINY: 40})
    collect(cache, Limits(older_than=30 * DAY))
    if saved_by == "a load":
        stamp(cache.store, cached.digest)
    elif saved_by == "a conversion":
        publish(cache)
    else:
        publish_other(cache)
        cache.move_ref(TINY, cached, "renamed/tiny", None)
    age(root, GRACE + HOUR)
    assert not plan(cache).forget
    collect(cache)
    assert cache.resolve(TINY) == cached and not cache.missing(cached.manifest) and sound(cache)
    assert not list(cache.store.list("gc")), "the record is done with"


def test_the_largest_size_gives_up_what_was_used_longest_ago(cache: Cache, root: Path) -> None:
    refs = [Ref(f"local/{name}", None, "bfp8") for name in "abcd"]
    for i, ref in enumerate(refs):
        publish(cache, ref, {"own": bytes([i]) * 10_000}, f"recipe {i}".encode())
    used_days_ago(cache, root, dict(zip(refs, [9, 7, 8, 6], strict=True)))
    size = take_census(cache).size
    found = plan(cache, Limits(max_size=size - 12_000))
    assert [each.folder for each in found.condemn_refs] == [refs[0].folder, refs[2].folder] and found.over == 0
    collect_twice(cache, root, Limits(max_size=size - 12_000))
    assert names(cache) == [refs[1], refs[3]]
    assert take_census(cache).size <= size - 12_000 and sound(cache)


def test_models_used_today_are_not_given_up_to_make_room_and_the_plan_says_so(cache: Cache, root: Path) -> None:
    publish(cache)
    publish_other(cache)
    used_days_ago(cache, root, {TINY: 0, OTHER: 3})
    found = plan(cache, Limits(max_size=0))
    assert [each.folder for each in found.condemn_refs] == [OTHER.folder]
    assert found.over > 5000
    assert [each.folder for each in plan(cache, Limits(older_than=0)).condemn_refs] == [OTHER.folder]


def test_only_the_named_models_are_touched(cache: Cache, root: Path) -> None:
    publish(cache)
    publish(cache, TINY, {**TENSORS, "layer": b"n" * 2000}, b"newer recipe")
    publish_other(cache)
    cache.publish_blob(b"of a conversion that never ended")
    used_days_ago(cache, root, {TINY: 40, OTHER: 40})
    only = Limits(older_than=30 * DAY, only=(OTHER,))
    assert [each.folder for each in plan(cache, only).condemn_refs] == [OTHER.folder]
    assert len(plan(cache, Limits(only=(TINY,))).condemn) == 3, "what it was before, and not the unfinished conversion"
    collect(cache)
    age(root, GRACE + HOUR)
    collect(cache, only)
    assert blob_path(root, b"of a conversion that never ended").exists() and blob_path(root, TENSORS["layer"]).exists()
    collect(cache, Limits(only=(TINY,)))
    assert blob_path(root, b"of a conversion that never ended").exists() and not blob_path(root, TENSORS["layer"]).exists()
    collect(cache)
    assert not blob_path(root, b"of a conversion that never ended").exists() and sound(cache)


# Names that cannot be followed


@pytest.mark.parametrize("kind", ["manifest damaged", "manifest gone", "name damaged"])
def test_a_name_that_cannot_be_followed_keeps_everything_but_leftovers(cache: Cache, root: Path, kind: str) -> None:
    cached = publish(cache)
    publish_other(cache)
    ripe = condemn_and_wait(cache, root, OTHER)
    left = root / "blobs" / (".tmp-" + "0" * 32)
    left.write_bytes(b"half")
    age(root)
    if kind == "manifest damaged":
        flip_bit(root / manifest_key(cached.digest))
    elif kind == "manifest gone":
        (root / manifest_key(cached.digest)).unlink()
    else:
        flip_bit(root / next(cache.store.list(TINY.folder)).key)
    found = plan(cache)
    assert [model.ref for model in found.broken] == [TINY] and not found.delete and not found.condemns
    before = {key for key in files(root) if key.startswith(("blobs", "manifests", "actions", "refs"))}
    assert run_gc(cache, ripe) == 0, "the second look stops what was planned before the damage"
    assert run_gc(cache, found) == len(b"half")
    assert {key for key in files(root) if key.startswith(("blobs", "manifests", "actions", "refs"))} == before - {
        f"blobs/.tmp-{'0' * 32}"
    }
    cache.remove_ref(TINY)
    assert plan(cache).deletes and collect(cache) > 0


def test_a_record_that_names_anything_else_than_what_may_be_collected_is_no_record(cache: Cache, root: Path) -> None:
    """Whoever can write it can delete, too; but a mistake of ours must not become a deleted key, or quarantine."""
    publish(cache)
    for key in ("refs/x/00000001", "quarantine/x", "../outside", "used/x"):
        with pytest.raises(IntegrityError):
            condemn(cache.store, [], {key: "x"})
    age(root, GRACE + HOUR)
    assert not plan(cache).delete
    collect(cache)
    assert not list(cache.store.list("gc")) and sound(cache)


# Beside writers


def test_a_writer_that_finds_a_condemned_blob_keeps_it(cache: Cache, root: Path) -> None:
    """A conversion at work found a blob that is condemned; nothing leads to it yet, and its age cannot be restarted."""
    publish(cache)
    ripe = condemn_and_wait(cache, root, TINY)
    cache.publish_blob(TENSORS["layer"])
    age(root, HOUR)
    then = time.time() - 3 * DAY
    os.utime(blob_path(root, TENSORS["layer"]), (then, then))
    run_gc(cache, ripe)
    assert left(root) == [blob_key(blake3_of(TENSORS["layer"]))]


def test_a_damaged_word_of_a_writer_keeps_everything_and_stops_no_collection(cache: Cache, root: Path) -> None:
    """What it was about is not known, so all of it is condemned anew; without an end, no collection would succeed again."""
    publish(cache)
    publish_other(cache)
    ripe = condemn_and_wait(cache, root, TINY)
    cache.publish_blob(TENSORS["layer"])
    (word,) = [entry.key for entry in cache.store.list("gc") if "/reprieved/" in entry.key]
    flip_bit(root / word)
    before = set(left(root))
    assert run_gc(cache, ripe) == 0 and set(left(root)) == {key for key in before if not key.startswith("gc/")}
    assert collect_twice(cache, root) > 0 and names(cache) == [OTHER] and sound(cache)


def test_a_model_that_is_named_again_is_kept_even_after_the_plan(cache: Cache, root: Path) -> None:
    cached = publish(cache)
    ripe = condemn_and_wait(cache, root, TINY)
    cache.move_ref(TINY, cached, "someone/tiny", COMMIT)
    age(root, 3 * DAY)
    assert run_gc(cache, ripe) == 0
    assert cache.resolve(TINY) == cached and sound(cache)


def test_what_was_written_anew_since_it_was_condemned_is_kept(cache: Cache, root: Path) -> None:
    publish(cache)
    cache.remove_ref(TINY)
    collect(cache)
    age(root, GRACE + HOUR)
    blob_path(root, TENSORS["layer"]).unlink()
    cache.publish_blob(TENSORS["layer"])
    collect(cache)
    assert left(root) == [blob_key(blake3_of(TENSORS["layer"]))]


@pytest.mark.parametrize("grace", [GRACE, 0.0])
def test_what_does_not_fit_into_one_record_is_condemned_by_several(
    cache: Cache, root: Path, grace: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document has 64 MB at most, which 390,000 objects fill."""
    monkeypatch.setattr("ttbert.cache.sweep._PORTION", 2)
    publish(cache)
    publish_other(cache)
    age(root, 40 * DAY)
    limits = Limits(older_than=30 * DAY)
    collect(cache, limits, grace)
    if grace:
        records = [read_record(cache.store, name) for name in record_names(cache.store.list("gc"))]
        assert len(records) > 2 and sum(bool(record and record.refs) for record in records) == 1
        assert all(record and len(record.objects) <= 2 for record in records)
        age(root, GRACE + HOUR)
        collect(cache, limits)
    assert left(root) == [] and not list(cache.store.list("gc"))


def test_an_object_of_a_model_with_a_long_path_is_condemned_with_a_short_reason(cache: Cache) -> None:
    key = blob_key(cache.publish_blob(b"content"))
    record = condemn(cache.store, [], {key: "of /" + "x" * 4000})
    assert record.objects[key].startswith("of /xxx") and len(record.objects[key]) == 300


class Behind(LocalStore):
    """On a server whose clock is 40 days behind, or seen by a machine whose clock is as far ahead."""

    def head(self, key: str) -> Entry | None:
        entry = super().head(key)
        return entry and replace(entry, modified=entry.modified - 40 * DAY)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return (replace(entry, modified=entry.modified - 40 * DAY) for entry in super().list(prefix))


def test_a_collector_whose_clock_is_ahead_deletes_and_condemns_nothing(cache: Cache, root: Path) -> None:
    """It would take everything for unused for long, and a record of this minute for older than the grace period."""
    publish(cache)
    publish_other(cache)
    cache.remove_ref(OTHER)
    cache.store.put("leases/" + "0" * 64 + "/00000001", b"somebody converts")
    age(root, 2 * DAY)
    before = files(root)
    seen = Cache(Behind(root))
    for _ in range(2):
        with pytest.raises(CacheError, match=r"clock is 960\.0 hours ahead of that of .*nothing was deleted"):
            collect(seen, Limits(older_than=30 * DAY))
    assert files(root) == before


class Asked(LocalStore):
    """Counts how often a writer that waits asks whether a sweep has ended, and has it end just before the third time."""

    asked = 0
    end: Callable[[], None] | None = None

    def head(self, key: str) -> Entry | None:
        if "/sweeping/" in key:
            self.asked += 1
            if self.asked == 3 and self.end:
                self.end()
        return super().head(key)


def test_a_writer_waits_for_a_sweep_that_may_not_have_seen_it(cache: Cache, root: Path) -> None:
    """And for no longer than the sweep said that it acts on what it saw; a sweep that was killed keeps nobody waiting."""
    key = blob_key(cache.publish_blob(b"content"))
    record = condemn(cache.store, [], {key: "waste"})
    sweeper = Sweeper(cache.store, record)
    sweeper.announce(seconds=0.0)
    waiting, started = Asked(root), time.monotonic()
    Objections(waiting).reprieve([key])
    assert time.monotonic() - started > 1, "the look is over, but a deletion that was begun may be on its way for two seconds"
    assert waiting.asked < 10, "after longer and longer pauses, which come to two seconds"
    assert sweeper.reprieved() == {key} and not sweeper.left
    waiting = Asked(root)
    Objections(waiting).reprieve([key, "blobs/aa/another"])
    assert waiting.asked == 0, "the announcement is out of date"
    busy = Sweeper(cache.store, record)
    busy.announce()
    waiting.end = busy.stop
    Objections(waiting).reprieve([key])
    assert waiting.asked == 3, "the sweep has ended before its time"
    Objections(cache.store).reprieve(["blobs/aa/another"])
    assert len(list(cache.store.list(f"{record.folder}/reprieved"))) == 3, "only what is condemned needs a word"


class SeenLate(Asked):
    """As on an NFS mount with `actimeo=400`."""

    capabilities = Capabilities(creates_atomically=True, survives_crash=True, seen_within=400.0, done_within=402.0)


def test_where_changes_are_seen_late_a_writer_waits_for_as_long_as_a_collector_acts(cache: Cache, root: Path) -> None:
    key = blob_key(cache.publish_blob(b"content"))
    record = condemn(cache.store, [], {key: "waste"})
    announced = f"{record.folder}/sweeping/0"
    cache.store.put(announced, canonical({"schema": "ttbert.sweeping/1", "seconds": 2 * 400 + 20 + 402}))
    age(root, 1000)
    waiting = SeenLate(root)
    waiting.end = (root / announced).unlink
    Objections(waiting).reprieve([key])
    assert waiting.asked == 3


def test_a_writer_that_waits_long_for_a_sweep_says_so(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ttbert.cache.condemned._SILENT", 0.1)
    key = blob_key(cache.publish_blob(b"content"))
    Sweeper(cache.store, condemn(cache.store, [], {key: "waste"})).announce(seconds=0.0)
    Objections(cache.store).reprieve([key])
    (said,) = caplog.messages
    assert said.startswith("waiting for a `gc` that is deleting")


def test_a_writer_waits_for_a_sweep_whose_record_another_collector_removed(cache: Cache, root: Path) -> None:
    key = blob_key(cache.publish_blob(b"content"))
    record = condemn(cache.store, [], {key: "waste"})
    slow, quick = Sweeper(cache.store, record), Sweeper(cache.store, record)
    slow.announce()
    quick.announce()
    quick.finish()
    assert slow.reprieved() is None and slow.left, "it finds out when it looks, and may act by an earlier look until then"
    waiting = Asked(root)
    waiting.end = slow.stop
    Objections(waiting).reprieve([key])
    assert waiting.asked == 3


def test_a_collector_stops_when_another_one_has_finished_with_the_record(cache: Cache, root: Path) -> None:
    """Its reprieves went with it, so that what they kept might be taken for waste."""
    publish(cache)
    cache.remove_ref(TINY)
    collect(cache)
    age(root, GRACE + HOUR)
    slow = plan(cache)
    cache.publish_blob(TENSORS["layer"])
    then = time.time() - 9 * DAY
    os.utime(blob_path(root, TENSORS["layer"]), (then, then))
    collect(cache)
    assert run_gc(cache, slow) == 0
    assert left(root) == [blob_key(blake3_of(TENSORS["layer"]))]


def test_a_look_that_takes_too_long_is_not_acted_on(cache: Cache, root: Path) -> None:
    publish(cache)
    cache.remove_ref(TINY)
    collect(cache)
    age(root, GRACE + HOUR)
    before = {key for key in files(root) if not key.startswith("gc/")}
    with pytest.raises(StoreUnavailable, match="too slow"):
        run_gc(cache, plan(cache), looks=(0.0,))
    assert {key for key in files(root) if not key.startswith("gc/")} == before


class SlowOnce(LocalStore):
    """The first listing of everything takes a second."""

    slow = True

    def list(self, prefix: str = "") -> Iterator[Entry]:
        if not prefix and self.slow:
            self.slow = False
            time.sleep(1)
        return super().list(prefix)


def test_where_looking_takes_long_the_next_look_is_good_for_longer(cache: Cache, root: Path) -> None:
    publish(cache)
    ripe = condemn_and_wait(cache, root, TINY)
    assert run_gc(Cache(SlowOnce(root)), ripe, looks=(0.5, 60.0)) > 6000 and left(root) == []


def test_what_a_collector_that_looked_too_long_ago_wants_to_delete_stays(cache: Cache) -> None:
    key = blob_key(cache.publish_blob(b"content"))
    sweeper = Sweeper(cache.store, condemn(cache.store, [], {key: "waste"}))
    sweeper.announce(seconds=0.0)
    assert not sweeper.delete(key) and cache.store.head(key)
    sweeper.announce()
    assert sweeper.delete(key) and cache.store.head(key) is None


def test_a_name_that_was_relied_on_since_it_was_condemned_is_not_forgotten_however_late(cache: Cache, root: Path) -> None:
    """What a stopped collector has sent may still be on its way: it names the entry that it saw, and that is not the last."""
    cached = publish(cache)
    (number,) = entry_numbers(cache.store, TINY)
    condemn(cache.store, [CondemnedRef(TINY.folder, number, "not used for long")], {})
    cache.move_ref(TINY, cached, "someone/tiny", COMMIT)
    cache.remove_ref(TINY, after=number)
    assert cache.resolve(TINY) == cached and entry_numbers(cache.store, TINY) == [number, number + 1]
    cache.move_ref(OTHER, cached, "someone/tiny", COMMIT)
    cache.move_ref(OTHER, cached, "someone/tiny", COMMIT)
    assert entry_numbers(cache.store, OTHER) == [1], "of what nobody condemned nothing is written twice"


class NotTouched(LocalStore):
    """As an object store, or files of somebody else's: an age cannot be restarted."""

    def touch(self, key: str) -> None:
        pass


def convert_beside_a_sweep(folder: Path, delay: float) -> tuple[str, int]:
    """Name a model again that a sweep is deleting, so much later than it begins; how that ended, and the bytes it freed."""
    cache = Cache(NotTouched(folder))
    publish(cache)
    ripe = condemn_and_wait(cache, folder, TINY)
    with ThreadPoolExecutor(1) as collector:
        sweep = collector.submit(run_gc, Cache(NotTouched(folder)), ripe)
        wait([sweep], delay)
        cached = publish(cache)
        freed = sweep.result()
    whole = cache.resolve(TINY) == cached and not cache.missing(cached.manifest) and sound(cache)
    return "whole" if whole else "a model that lacks something", freed


def test_whenever_a_conversion_meets_a_sweep_its_model_is_whole_in_the_end(tmp_path: Path) -> None:
    """The last one waits for the end of the sweep."""
    delays = [*(i * 0.003 for i in range(39)), 600.0]
    with ThreadPoolExecutor(len(delays)) as threads:
        found = list(threads.map(lambda i: convert_beside_a_sweep(tmp_path / f"{i}", delays[i]), range(len(delays))))
    assert {how for how, _ in found} == {"whole"} and found[-1][1] > 6000


class SweptMeanwhile(NotTouched):
    """Just before somebody looks for what is condemned, all of it is deleted and forgotten, once."""

    sweep: Callable[[], object] | None = None

    def list(self, prefix: str = "") -> Iterator[Entry]:
        if prefix == "gc" and self.sweep:
            sweep, self.sweep = self.sweep, None
            sweep()
        return super().list(prefix)


@pytest.mark.parametrize("late", [False, True], ids=["before its manifest is claimed", "before its name is moved"])
def test_a_model_is_whole_that_was_found_just_before_a_whole_sweep(root: Path, late: bool) -> None:
    """Its blobs were reprieved, and stay; its manifest was only found."""
    store = SweptMeanwhile(root)
    cache = Cache(store)
    publish(cache)
    ripe = condemn_and_wait(cache, root, TINY)
    manifest = build(cache)
    found = cache.find(manifest.action)
    assert found

    def sweep() -> None:
        assert run_gc(open_local(root), ripe) > 0 and open_local(root).find(manifest.action) is None

    store.sweep = sweep
    cached = found if late else cache.publish_manifest(manifest)
    cache.move_ref(TINY, cached, "someone/tiny", COMMIT)
    assert store.sweep is None and cache.resolve(TINY) == cached == found and sound(cache)


def test_with_too_short_a_grace_period_a_conversion_fails_or_its_model_says_what_it_lacks(cache: Cache, root: Path) -> None:
    """Two collectors delete what is a moment old, files that are being written too, which no conversion is quick enough for:
    then it fails, or what it made is whole, or loading it fails."""
    stop = threading.Event()
    collected = [0, 0]

    def collect_all(number: int) -> None:
        mine = open_local(root)
        while not stop.is_set():
            with unless_deleted_meanwhile():
                collected[number] += run_gc(mine, plan(mine, grace=0.02))

    with ThreadPoolExecutor(2) as threads:
        collectors = [threads.submit(collect_all, number) for number in range(2)]
        tried = 0
        until = time.monotonic() + 5
        try:
            while time.monotonic() < until:
                tried += 1
                with unless_deleted_meanwhile():
                    cached = publish(cache)
                    assert {pack.name: load(cache, pack) for pack in cached.manifest.packs} == TENSORS
                with unless_deleted_meanwhile():
                    cache.remove_ref(TINY)
        finally:
            stop.set()
        for collector in collectors:
            collector.result()
    cache.remove_ref(TINY)
    assert tried > 1 and sum(collected) > 0 and sound(cache)


def test_what_nothing_leads_to_is_not_deleted_at_once_while_somebody_converts(cache: Cache, root: Path) -> None:
    """A lease is alive: blobs of its holder have no name yet, and without a grace period they would be waste."""
    build(cache)
    age(root, HOUR)
    with leased(cache.store, blake3_of(b"recipe"), lambda: None):
        assert collect(cache, grace=0) == 0 and len(left(root)) > len(TENSORS)
    assert plan(cache).waiting, "it is condemned all the same"
    assert collect(cache, grace=0) > 6000 and left(root) == []


def test_whoever_may_write_nothing_can_still_use_what_is_condemned(cache: Cache, root: Path) -> None:
    cached = publish(cache)
    used_days_ago(cache, root, {TINY: 40})
    collect(cache, Limits(older_than=30 * DAY))
    before = files(root)
    reader = Places(str(root), read_only=True).open()
    assert reader.claim(cached) and reader.resolve(TINY) == cached
    reader.move_ref(TINY, cached, "someone/tiny", COMMIT)
    reader.note_use(cached.digest)
    assert files(root) == before


# On an object store


@pytest.fixture
def bucket(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    return f"s3://{moto.bucket()}/cache"


def test_a_bucket_is_collected_in_two_phases_too(bucket: str) -> None:
    """Where nothing can be touched, and times are in whole seconds."""
    cache = Places(bucket).open()
    other = publish_other(cache)
    cached = publish(cache)
    assert {entry.key.split("/")[1] for entry in cache.store.list("used")} == {cached.digest.hex, other.digest.hex}
    cache.remove_ref(TINY)
    time.sleep(1.1)
    assert collect(cache, grace=1) == 0 and cache.find(cached.manifest.action) == cached
    time.sleep(1.1)
    ripe = plan(cache, grace=1)
    assert len(ripe.delete) == 4
    again = Places(bucket).open()
    again.publish_blob(TENSORS["layer"])
    assert 0 < run_gc(cache, ripe) < ripe.delete[0].entry.size + 6000
    assert cache.store.head(blob_key(blake3_of(TENSORS["layer"]))) is not None, "a writer relies on it"
    assert cache.store.head(blob_key(blake3_of(TENSORS["head"]))) is None
    assert cache.resolve(OTHER) == other and sound(cache) and not list(cache.store.list("gc"))
    assert publish(cache) == cached and sound(cache)


def test_nobody_waits_long_for_a_collector_that_was_killed(bucket: str, root: Path) -> None:
    """For as long as its announcement says; on an object store, where that is longest, for little more than a minute."""
    for url, longest in ((bucket, 75), (str(root), 30)):
        store = Places(url).open().store
        key = blob_key(Places(url).open().publish_blob(b"content"))
        Sweeper(store, condemn(store, [], {key: "waste"})).announce()
        (announced,) = (entry.key for entry in store.list("gc") if "/sweeping/" in entry.key)
        seconds = json.loads(store.get(announced))["seconds"]
        assert LOOKS[0] + store.capabilities.done_within <= seconds <= longest


def test_in_a_bucket_too_a_conversion_that_meets_a_sweep_is_whole_in_the_end(bucket: str) -> None:
    cache = Places(bucket).open()
    publish(cache)
    cache.remove_ref(TINY)
    time.sleep(1.1)
    collect(cache, grace=1)
    time.sleep(1.1)
    ripe = plan(cache, grace=1)
    with ThreadPoolExecutor(1) as collector:
        sweep = collector.submit(run_gc, Places(bucket).open(), ripe)
        wait([sweep], 0.05)
        cached = publish(cache)
        sweep.result()
    assert cache.resolve(TINY) == cached and not cache.missing(cached.manifest) and sound(cache)


# Killed


@pytest.fixture(scope="module")
def run_killed() -> Iterator[RunKilled]:
    with killed_processes() as run:
        yield run


@pytest.mark.parametrize("phase", ["condemning", "deleting"])
def test_a_collection_killed_at_any_step_leaves_a_sound_cache_and_the_next_one_finishes(
    tmp_path: Path, run_killed: RunKilled, phase: str
) -> None:
    """Of three models one has no name any more, one is given up for its age, and one stays."""
    start = tmp_path / "start"
    cache = open_local(start)
    other = publish_other(cache)
    publish(cache, Ref("local/old", None, "bfp8"), {**TENSORS, "layer": b"old"}, b"old recipe")
    publish(cache)
    (start / "blobs" / (".tmp-" + "0" * 32)).write_bytes(b"half")
    used_days_ago(cache, start, {OTHER: 0, Ref("local/old", None, "bfp8"): 40})
    cache.remove_ref(TINY)
    if phase == "deleting":
        (start / "blobs" / (".tmp-" + "0" * 32)).unlink()
        collect(cache, Limits(older_than=30 * DAY))
        age(start, 2 * DAY)
    steps = 0
    for step in range(1, 500):
        root = tmp_path / str(step)
        shutil.copytree(start, root)
        exit_code = run_killed("collect", root, step)
        cache = open_local(root)
        assert sound(cache) and cache.resolve(OTHER) == other and not cache.missing(other.manifest), step
        for ref in names(cache):
            cached = cache.resolve(ref)
            assert cached and not cache.missing(cached.manifest), (step, ref)
        for _ in range(3):
            age(root, 2 * DAY)
            collect(cache, Limits(older_than=30 * DAY))
        assert names(cache) == [OTHER] and sound(cache) and cache.find(other.manifest.action) == other, step
        assert kinds(root) == {"blobs", "manifests", "actions", "refs", "used"}, step
        assert len(list(cache.store.list("blobs"))) == 4 and not list(cache.store.debris()), step
        if exit_code == 0:
            break
        assert exit_code == -9, step
        steps = step
    assert steps >= (8 if phase == "condemning" else 25)


# Other


class Overlooked(LocalStore):
    """Counts how often somebody asks for one object."""

    asked = 0

    def head(self, key: str) -> Entry | None:
        self.asked += 1
        return super().head(key)

    def open(self, key: str) -> BinaryIO:
        self.asked += 1
        return super().open(key)


def test_many_pieces_of_waste_are_planned_quickly(cache: Cache, root: Path) -> None:
    """In time of the processor that grows with their number, and without asking the store for each."""
    folder = root / "blobs/aa"
    folder.mkdir(parents=True)
    store = Overlooked(root)
    start = time.process_time()
    for number in range(3000):
        (folder / f"aa{number:062x}").touch()
    assert len(plan(Cache(store)).condemn) == 3000 and store.asked == 0
    assert time.process_time() - start < 3


def test_another_kind_of_store_is_collected_just_so() -> None:
    cache = Places(f"memory://{uuid.uuid4().hex}", accept_weak=True).open()
    publish(cache)
    cache.remove_ref(TINY)
    assert plan(cache).condemns
    time.sleep(0.01)
    assert collect(cache, grace=0) > 6000 and {entry.key.split("/")[0] for entry in cache.store.list()} == {"refs"}


def test_a_build_without_a_name_is_collected_as_nobodys(cache: Cache, root: Path) -> None:
    build(cache)
    assert {each.reason for each in plan(cache).condemn} == {"no model uses it"}
    assert len(plan(cache).condemn) == len(TENSORS) + len(FILES)
