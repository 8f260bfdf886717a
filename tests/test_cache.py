"""The cache as a whole: what is published is found while it is whole, and damage is set aside."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import subprocess
import sys
import time
import uuid
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from models import (
    COMMIT,
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
    publish,
    publish_other,
)
from s3_server import MotoServer

import ttbert
from ttbert.cache.cache import Cache, Cached, blob_key, manifest_key
from ttbert.cache.census import find_model, look_up, take_census
from ttbert.cache.digest import blake3_of
from ttbert.cache.gc import plan_gc
from ttbert.cache.places import Places, is_remote
from ttbert.cache.refs import Ref, RefEntry, move_ref
from ttbert.cache.stores import store
from ttbert.cache.stores.local import LocalStore
from ttbert.cache.verify import Finding, Verdict, survey, verify
from ttbert.errors import CacheError, IncompatibleError, InputError, IntegrityError, NotCached, StoreReadOnly, StoreUnavailable


def read_all(cache: Cache, cached: Cached) -> dict[str, bytes]:
    return {pack.name: load(cache, pack) for pack in cached.manifest.packs}


def check(cache: Cache, repair: bool = False, only: str | None = None) -> Verdict:
    census = take_census(cache)
    return verify(cache, census, find_model(census, only) if only else None, repair)


def test_the_folders_of_a_cache_are_told_in_the_code_and_in_the_documents() -> None:
    """The same ones, and all that the modules name as the first part of a key."""
    package = Path(ttbert.__file__).parent
    tree = re.compile(r"^    (\w+)/\S+  +\S", re.MULTILINE)
    told = set(tree.findall(store.__doc__ or ""))
    documents = (package.parent / "docs/cache.md").read_text().partition("## What lies in it")[2].partition("\n##")[0]
    code = "".join(path.read_text() for path in (package / "cache").rglob("*.py"))
    used = set(re.findall(r'f"(\w+)/\{', code)) | set(re.findall(r'^FOLDER = "(\w+)"', code, re.MULTILINE))
    assert told == set(tree.findall(documents)) == used


# Publishing and finding


def test_what_was_published_is_found_by_action_by_name_and_by_digest(cache: Cache) -> None:
    manifest = build(cache)
    assert cache.find(manifest.action) is None and cache.resolve(TINY) is None
    cached = cache.publish_manifest(manifest)
    assert cache.find(manifest.action) == cached == Cached(cached.digest, manifest) and cache.resolve(TINY) is None
    cache.move_ref(TINY, cached, "someone/tiny", COMMIT)
    assert cache.resolve(TINY) == cached == cache.manifest(cached.digest)
    for entry, content in zip(manifest.entries(), [*TENSORS.values(), *FILES.values()], strict=True):
        assert load(cache, entry) == content


def test_publishing_again_changes_nothing(cache: Cache, root: Path) -> None:
    cached = publish(cache)
    before = files(root)
    assert publish(cache) == cached and files(root) == before


def test_two_models_share_the_blobs_that_are_equal(cache: Cache) -> None:
    publish(cache)
    publish_other(cache)
    assert len(list(cache.store.list("blobs"))) == len(TENSORS) + len(FILES) + 1


def test_what_is_not_there_is_not_cached(cache: Cache) -> None:
    with pytest.raises(NotCached, match="has no manifest") as caught:
        cache.manifest(blake3_of(b"nothing"))
    assert "ttbert cache ls" in caught.value.hint


def test_a_manifest_is_not_published_before_its_blobs(cache: Cache, root: Path) -> None:
    manifest = build(cache)
    blob_path(root, TENSORS["layer"]).unlink()
    before = files(root)
    with pytest.raises(CacheError, match=r"1 of 5 blobs vanished .*, layer first"):
        cache.publish_manifest(manifest)
    assert files(root) == before


def test_the_second_of_two_conversions_takes_the_first_ones_result(cache: Cache) -> None:
    """Two folders with the same files: the manifests differ in where they came from, and one of them is kept."""
    first = cache.publish_manifest(build(cache, repo="one/folder"))
    second = cache.publish_manifest(build(cache, repo="another/folder"))
    assert first == second and len(list(cache.store.list("manifests"))) == 1


PUBLISHER = """
import sys, time
from models import *
time.sleep(max(0, float(sys.argv[2]) - time.time()))
print(publish(open_local(Path(sys.argv[1]))).digest)
"""


def run_together(code: str, *arguments: str, processes: int) -> tuple[list[str], list[str]]:
    """What several processes, which run the same at once, wrote on stdout and on stderr."""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(ttbert.__file__).parent.parent)])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    written = [process.communicate(timeout=60) for process in started]
    return [out for out, _ in written], [err for _, err in written]


def test_processes_that_publish_the_same_at_once_all_succeed_and_leave_one_copy(cache: Cache, root: Path) -> None:
    results, errors = run_together(PUBLISHER, str(root), str(time.time() + 1.0), processes=6)
    assert errors == [""] * 6 and len(set(results)) == 1
    assert results[0].strip() == str(publish(cache).digest)
    kinds = [key.split("/")[0] for key in files(root)]
    assert sorted(kinds) == ["actions", *["blobs"] * 5, "manifests", "refs", "used"]


# Not whole any more


def test_missing_names_what_is_absent_or_of_another_size(cache: Cache, root: Path) -> None:
    manifest = publish(cache).manifest
    assert cache.missing(manifest) == []
    blob_path(root, TENSORS["layer"]).unlink()
    blob_path(root, TENSORS["head"]).write_bytes(b"short")
    assert [entry.name for entry in cache.missing(manifest)] == ["layer", "head"]


def test_a_result_whose_blob_is_gone_is_a_miss_and_is_restored(cache: Cache, root: Path) -> None:
    cached = publish(cache)
    before = files(root)
    blob_path(root, TENSORS["layer"]).unlink()
    assert cache.find(cached.manifest.action) is None
    assert publish(cache) == cached and cache.find(cached.manifest.action) == cached and files(root) == before


def test_an_action_that_leads_to_a_vanished_manifest_is_a_miss_and_is_restored(cache: Cache, root: Path) -> None:
    cached = publish(cache)
    before = files(root)
    cache.store.delete(manifest_key(cached.digest))
    assert cache.find(cached.manifest.action) is None
    with pytest.raises(NotCached):
        cache.resolve(TINY)
    assert publish(cache) == cached and files(root) == before


def test_an_action_that_leads_to_a_damaged_manifest_is_a_miss_and_is_restored(cache: Cache, root: Path) -> None:
    cached = publish(cache)
    before = files(root)
    damaged = flip_bit(root / manifest_key(cached.digest), 20)
    assert cache.find(cached.manifest.action) is None
    assert publish(cache) == cached
    after = files(root)
    assert [after.pop(key) for key in list(after) if key.startswith("quarantine/")] == [damaged] and after == before


def test_a_damaged_blob_is_quarantined_and_replaced_when_it_is_published(cache: Cache, root: Path) -> None:
    cached = publish(cache)
    damaged = flip_bit(blob_path(root, TENSORS["layer"]))
    assert cache.publish_blob(TENSORS["layer"]) == blake3_of(TENSORS["layer"])
    assert blob_path(root, TENSORS["layer"]).read_bytes() == TENSORS["layer"]
    (kept,) = cache.store.list("quarantine")
    assert cache.store.get(kept.key) == damaged
    assert cache.find(cached.manifest.action) == cached


def test_a_blob_that_the_disk_does_not_give_is_found_moved_away_and_replaced(cache: Cache, root: Path) -> None:
    """Where there is nothing in a process's memory, reading it is what reading a bad sector is."""
    cached = publish(cache)
    path = blob_path(root, TENSORS["layer"])
    for repair in (lambda: check(cache, repair=True).findings, lambda: cache.publish_blob(TENSORS["layer"])):
        path.unlink(missing_ok=True)
        path.symlink_to("/proc/self/mem")
        with pytest.raises(IntegrityError, match=r"it cannot be read: .*Input/output error"):
            read_all(cache, cached)
        (finding,) = check(cache).findings
        assert finding.problem == "it cannot be read: Input/output error" and finding.exit_code == 7
        repair()
        assert not path.is_symlink() and len(list((root / "quarantine").iterdir())) > 0
    assert read_all(cache, cached) == TENSORS and check(cache).sound


REPAIRER = """
import os, sys, time
from models import *
root, content = Path(sys.argv[1]), TENSORS["layer"]
cache, path, own = open_local(root), blob_path(root, content), root / f"damaged-{os.getpid()}"
end = time.time() + 1.0
while time.time() < end:
    own.write_bytes(b"damaged")
    path.parent.mkdir(exist_ok=True)
    own.replace(path)
    cache.publish_blob(content)
"""


def test_processes_that_repair_the_same_blob_at_once_all_succeed(cache: Cache, root: Path) -> None:
    cached = publish(cache)
    errors = run_together(REPAIRER, str(root), processes=4)[1]
    assert errors == [""] * 4
    publish(cache)
    assert check(cache).sound and cache.find(cached.manifest.action) == cached
    kept = [cache.store.get(entry.key) for entry in cache.store.list("quarantine")]
    assert b"damaged" in kept and set(kept) <= {b"damaged", TENSORS["layer"]}


def test_touching_restarts_the_age_of_what_is_used_again(cache: Cache, root: Path) -> None:
    """A conversion that finds an old unreferenced blob relies on it: pruning must not take it away meanwhile."""
    build(cache)
    age(root)
    cache.publish_blob(TENSORS["layer"])
    young = [entry.key for entry in cache.store.list("blobs") if entry.modified > time.time() - HOUR]
    assert young == [blob_key(blake3_of(TENSORS["layer"]))]


def test_naming_a_model_restarts_the_age_of_all_of_it(cache: Cache, root: Path) -> None:
    cached = cache.publish_manifest(build(cache))
    age(root)
    cache.move_ref(TINY, cached, "someone/tiny", COMMIT)
    assert all(path.stat().st_mtime > time.time() - HOUR for path in root.rglob("*") if path.is_file())


def test_naming_a_model_that_is_being_deleted_fails(cache: Cache, root: Path) -> None:
    cached = cache.publish_manifest(build(cache))
    blob_path(root, TENSORS["layer"]).unlink()
    with pytest.raises(CacheError, match="blobs vanished") as caught:
        cache.move_ref(TINY, cached, "someone/tiny", COMMIT)
    assert "convert again" in caught.value.hint


# Verifying


def test_a_sound_cache_is_sound(cache: Cache) -> None:
    publish(cache)
    publish_other(cache)
    verdict = check(cache)
    assert verdict.sound and verdict.objects == 12 and verdict.size == sum(entry.size for entry in _objects(cache))


def _objects(cache: Cache) -> list[object]:
    return [entry for folder in ("blobs", "manifests", "actions", "refs") for entry in cache.store.list(folder)]


def test_a_cache_that_is_not_there_is_not_called_sound(cache: Cache, root: Path) -> None:
    """Neither is an empty folder: it may be one on which a disk should be mounted."""
    for _ in range(2):
        for look in (verify, survey):
            with pytest.raises(NotCached, match="there is no cache in"):
                look(cache, take_census(cache))  # type: ignore[operator]
        root.mkdir(parents=True, exist_ok=True)


def test_verify_finds_each_kind_of_damage(cache: Cache, root: Path) -> None:
    publish(cache)
    other = publish_other(cache)
    flip_bit(blob_path(root, TENSORS["embeddings"]))
    blob_path(root, TENSORS["head"]).write_bytes(TENSORS["head"][:-1])
    blob_path(root, TENSORS["layer"]).unlink()
    flip_bit(root / manifest_key(other.digest))
    before = files(root)
    found = {finding.key: (finding.problem, finding.models, finding.moved) for finding in check(cache).findings}
    assert set(found) == {
        *(blob_key(blake3_of(TENSORS[name])) for name in TENSORS),
        manifest_key(other.digest),
    }
    assert found[blob_key(blake3_of(TENSORS["layer"]))] == ("missing", (str(TINY),), None)
    assert "its digest is blake3:" in found[blob_key(blake3_of(TENSORS["head"]))][0]
    assert found[manifest_key(other.digest)][1] == (str(OTHER),)
    assert files(root) == before, "verify without repair changed something"


def test_verify_finds_a_wrong_manifest_under_its_right_digest(cache: Cache) -> None:
    content = b'{"schema":"ttbert.ref/1"}'
    cache.store.put(manifest_key(blake3_of(content)), content)
    (finding,) = check(cache).findings
    assert "schema" in finding.problem


def test_a_model_of_another_version_is_reported_left_alone_and_superseded(cache: Cache) -> None:
    content = b'{"schema":"ttbert.manifest/1"}'
    old = Cached(blake3_of(content), build(cache))
    cache.store.put(manifest_key(old.digest), content)
    cache.move_ref(TINY, old, "someone/tiny", COMMIT)
    with pytest.raises(IncompatibleError, match="written by another version of ttbert"):
        cache.resolve(TINY)
    (model,) = take_census(cache).models
    assert model.problem is not None and "ttbert.manifest/1" in model.problem
    (finding,) = check(cache, repair=True).findings
    assert finding.moved is None and cache.store.get(manifest_key(old.digest)) == content
    assert [model.ref for model in plan_gc(cache, take_census(cache)).broken] == [TINY]
    cached = publish(cache)
    assert cache.resolve(TINY) == cached
    waste = [each.entry.key for each in plan_gc(cache, take_census(cache)).condemn]
    assert waste == [manifest_key(old.digest)]


def test_verify_finds_a_name_that_leads_nowhere_and_one_that_cannot_be_read(cache: Cache, root: Path) -> None:
    cached = publish(cache)
    publish_other(cache)
    cache.store.delete(manifest_key(cached.digest))
    (entry,) = cache.store.list(OTHER.folder)
    flip_bit(root / entry.key, 3)
    found = {finding.key: finding for finding in check(cache).findings}
    assert found[manifest_key(cached.digest)].problem == "missing"
    assert found[entry.key].models == (str(OTHER),)
    assert len(found) == 2


def test_verify_finds_a_manifest_that_lies_about_a_size(cache: Cache) -> None:
    manifest = build(cache)
    lying = dataclasses.replace(manifest, files=tuple(dataclasses.replace(each, size=5) for each in manifest.files))
    content = lying.to_bytes()
    cache.store.put(manifest_key(blake3_of(content)), content)
    with pytest.raises(CacheError, match="vanished"):
        cache.move_ref(TINY, Cached(blake3_of(content), lying), "repo", None)
    move_ref(cache.store, TINY, RefEntry(blake3_of(content), "repo", None, ""))
    (finding,) = check(cache).findings
    assert "wrong size" in finding.problem and finding.models == (str(TINY),)


def test_repair_quarantines_and_converting_again_restores(cache: Cache, root: Path) -> None:
    cached = publish(cache)
    whole = files(root)
    damaged = {
        flip_bit(blob_path(root, TENSORS["embeddings"])),
        flip_bit(blob_path(root, TENSORS["head"])),
        flip_bit(root / manifest_key(cached.digest)),
    }
    verdict = check(cache, repair=True)
    assert {cache.store.get(finding.moved or "") for finding in verdict.findings} == damaged
    assert {entry.key for entry in cache.store.list("quarantine")} == {finding.moved for finding in verdict.findings}
    assert len(files(root)) == len(whole), "something was deleted"
    assert not check(cache).sound
    assert publish(cache) == cached and check(cache).sound
    assert whole.items() <= files(root).items() and len(files(root)) == len(whole) + 3


def test_damage_that_no_model_needs_is_found_too(cache: Cache, root: Path) -> None:
    build(cache)
    flip_bit(blob_path(root, TENSORS["layer"]))
    (finding,) = check(cache).findings
    assert finding.models == ()


def test_verifying_one_model_reads_nothing_of_others(cache: Cache, root: Path) -> None:
    publish(cache)
    publish_other(cache)
    flip_bit(blob_path(root, OTHER_TENSORS["other"]))
    read = []
    census = take_census(cache)
    verdict = verify(cache, census, find_model(census, "local/tiny"), progress=read.append)
    assert verdict.sound and verdict.objects == len(read) == 8
    assert not check(cache, only="someone/other").sound


def test_a_survey_finds_what_is_missing_or_cut_off(cache: Cache, root: Path) -> None:
    publish(cache)
    publish_other(cache)
    blob_path(root, TENSORS["layer"]).unlink()
    blob_path(root, TENSORS["embeddings"]).write_bytes(b"short")
    verdict = survey(cache, take_census(cache))
    found = {finding.key: finding.problem for finding in verdict.findings}
    assert found == {
        blob_key(blake3_of(TENSORS["layer"])): "missing",
        blob_key(blake3_of(TENSORS["embeddings"])): "it has 5 bytes, not 3,000",
    }
    assert verdict.exit_code == 7


def test_damage_counts_more_than_what_could_not_be_looked_at() -> None:
    unreachable, damaged = Finding("a", "no answer", (), exit_code=11), Finding("b", "damaged", ())
    assert Verdict(0, 0, ()).exit_code == 0 and Verdict(1, 1, (unreachable,)).exit_code == 11
    assert Verdict(2, 2, (unreachable, damaged)).exit_code == Verdict(2, 2, (damaged, unreachable)).exit_code == 7


# Finding models, and other kinds of stores


def test_models_are_found_by_any_part_of_their_name_that_is_enough(cache: Cache) -> None:
    cached = publish(cache)
    other = publish_other(cache)
    census = take_census(cache)
    for text in (
        "local/tiny",
        "tiny",
        "local/tiny:bfp8",
        cached.digest.hex[:8],
        str(cached.digest),
        f"blake3:{cached.digest.short}",
    ):
        assert find_model(census, text) == look_up(cache, text) and find_model(census, text).ref == TINY
    for text in ("someone/other", "other", "someone/other@main", "someone/other@main:bfp8", other.digest.short):
        assert find_model(census, text) == look_up(cache, text) and find_model(census, text).ref == OTHER
    for text in ("nothing", "someone/other@v2", "tiny:bf16", cached.digest.hex[:3], "blake3:"):
        with pytest.raises(InputError):
            find_model(census, text)
        with pytest.raises(InputError):
            look_up(cache, text)


def test_a_name_that_could_be_several_is_not_guessed(cache: Cache) -> None:
    publish(cache, Ref("a/tiny", "main", "bfp8"))
    publish(cache, Ref("a/tiny", "v2", "bfp8"))
    with pytest.raises(InputError, match="could be a/tiny@main:bfp8, a/tiny@v2:bfp8"):
        find_model(take_census(cache), "a/tiny")


def test_a_model_whose_manifest_is_damaged_is_found_by_digest(cache: Cache, root: Path) -> None:
    cached = publish(cache)
    flip_bit(root / manifest_key(cached.digest))
    model = find_model(take_census(cache), cached.digest.short)
    assert look_up(cache, str(TINY)) == model
    assert model.cached is None and "is damaged" in (model.problem or "")


def test_sizes_count_shared_blobs_once(cache: Cache, root: Path) -> None:
    one = publish(cache)
    publish(cache, Ref("local/again", None, "bfp8"))
    census = take_census(cache)
    assert census.own_size(one) == one.manifest.size, "two names for one manifest share nothing with others"
    other = publish_other(cache)
    census = take_census(cache)
    assert (census.own_size(one), census.own_size(other)) == (3000, 4000)
    assert census.size == sum(map(len, files(root).values()))
    assert sum(size for _, size in census.sizes.values()) == census.size


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_a_cache_at_another_url_does_the_same(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    if kind == "s3":
        moto: MotoServer = request.getfixturevalue("moto")
        for name, value in moto.env.items():
            monkeypatch.setenv(name, value)
        url = f"s3://{moto.bucket()}/cache"
    cache = Places(url, accept_weak=kind == "memory").open()
    cached = publish(cache)
    assert publish(cache) == cached and cache.find(cached.manifest.action) == cached and check(cache).sound
    key = blob_key(blake3_of(TENSORS["layer"]))
    cache.store.delete(key)
    cache.store.put(key, b"damaged")
    with pytest.raises(IntegrityError):
        load(cache, next(each for each in cached.manifest.packs if each.name == "layer"))
    (finding,) = check(cache, repair=True).findings
    assert cache.store.get(finding.moved or "") == b"damaged"
    assert publish(cache) == cached and check(cache).sound


class Unsteady(MemoryFileSystem):
    """A server that is asked for files, and is gone when it is to send them."""

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        return Gone() if mode == "rb" else super()._open(path, mode, **options)


class Gone(io.RawIOBase):
    def readinto(self, buffer: object) -> int:
        raise ConnectionResetError("the connection was closed")


def test_a_server_that_is_gone_has_nothing_damaged() -> None:
    fsspec.register_implementation("unsteady", Unsteady, clobber=True)
    cache = Places(f"unsteady://{uuid.uuid4().hex}", accept_weak=True).open()
    cached = cache.publish_manifest(build(cache))
    (*findings,) = check(cache, repair=True).findings
    assert {finding.exit_code for finding in findings} == {StoreUnavailable.exit_code}
    assert not list(cache.store.list("quarantine"))
    for use in (lambda: load(cache, cached.manifest.packs[0]), lambda: cache.publish_blob(TENSORS["layer"])):
        with pytest.raises(StoreUnavailable, match="the connection was closed"):
            use()


@pytest.mark.parametrize("form", ["{}", "file://{}", "local://{}", "FILE://{}"])
def test_a_folder_is_opened_as_a_folder_however_it_is_written(tmp_path: Path, form: str) -> None:
    store = Places(form.format(tmp_path / "cache")).open().store
    assert isinstance(store, LocalStore) and store.root == tmp_path / "cache"


def test_a_url_of_a_folder_is_read_as_urls_are(tmp_path: Path) -> None:
    assert Places(f"file://{tmp_path}/a%20b").open().store.url == f"{tmp_path}/a b"
    assert Places(f"{tmp_path}/a%20b").open().store.url == f"{tmp_path}/a%20b", "which is no URL"
    assert Places(f"file://{tmp_path}/%FF").open().store.url == os.fsdecode(bytes(tmp_path) + b"/\xff")
    with pytest.raises(InputError, match="cannot be a cache"):
        Places(f"file://{tmp_path}/%00").open()
    assert is_remote("S3://lab") and not is_remote("FILE:///lab")
    place = uuid.uuid4().hex
    assert Places(f"Memory://{place}").open().store.url == f"memory://{place}"


@pytest.mark.parametrize(
    "url,says",
    [
        ("s3:/lab/x", "write s3://lab/x, or ./s3:/lab/x"),
        ("gs:/lab", "write gs://lab"),
        ("file:/tmp/x", "write file:///tmp/x"),
        ("file://lab/ttbert", "write file:///FOLDER"),
        ("file://localhost/tmp/x", "write file:///FOLDER"),
    ],
)
def test_a_mistyped_url_is_no_folder(url: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for open_it in (lambda url: Places(url).open(), lambda url: Places("cache", local=url).open()):
        with pytest.raises(InputError, match="cannot be a cache") as caught:
            open_it(url)
        assert says in caught.value.hint
    assert Places("./s3:/lab/x").open().store.url == str(tmp_path / "s3:/lab/x")


def test_home_and_relative_folders_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert Places("~/cache").open().store.url == str(tmp_path / "home/cache")
    assert Places("here").open().store.url == str(tmp_path / "here")


@pytest.mark.parametrize(
    "url", ["", "file://", "~nobody-of-this-name/x", "foo://x", "dir://x", "reference://x", "sftp://host/x"]
)
def test_an_address_that_leads_nowhere_is_an_input_error(url: str) -> None:
    with pytest.raises(InputError, match="cannot be") as caught:
        Places(url).open()
    assert caught.value.hint and "\n" not in caught.value.message


def test_an_archive_is_read_and_writing_to_it_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "cache.zip", "w") as archive:
        archive.writestr("blobs/aa/one", b"1")
    store = Places(f"zip://::file://{tmp_path}/cache.zip").open().store
    assert store.get("blobs/aa/one") == b"1" and [entry.key for entry in store.list("blobs")] == ["blobs/aa/one"]
    with pytest.raises(StoreReadOnly, match="cannot be written to"):
        store.put("blobs/aa/two", b"2")
