"""Whose models are used: what is not signed by a trusted key is refused before anything of it is fetched."""

from __future__ import annotations

import contextlib
import shutil
import stat
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from models import COMMIT, TINY, files, flip_bit, load, open_local, publish

from ttbert.cache.cache import Cache, manifest_key
from ttbert.cache.census import find_model, take_census
from ttbert.cache.digest import blake3_of
from ttbert.cache.document import canonical
from ttbert.cache.history import Memory, read_log
from ttbert.cache.keys import PrivateKey, PublicKey, find_signer, list_trusted, make_key, read_public_key, trust
from ttbert.cache.places import Places
from ttbert.cache.refs import LogEntry, Ref
from ttbert.cache.stores.foreign import FsspecStore
from ttbert.cache.stores.local import LocalStore
from ttbert.cache.stores.store import Entry
from ttbert.cache.transfer import push
from ttbert.cache.trust import Trust, has_signature, publish_signature, signature_key, signers
from ttbert.cache.verify import Verdict, survey, verify
from ttbert.errors import InputError, IntegrityError, NoSpaceError, StoreUnavailable, UntrustedError

OTHER = Ref("someone/other", "main", "bfp8")


class Asked(LocalStore):
    """A folder that notes what it was asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.keys: list[str] = []

    def open(self, key: str) -> BinaryIO:
        self.keys.append(key)
        return super().open(key)

    def head(self, key: str) -> Entry | None:
        self.keys.append(key)
        return super().head(key)

    @property
    def folders(self) -> Counter[str]:
        return Counter(key.partition("/")[0] for key in self.keys)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of a user's own, in which there is no key."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("TTBERT_TRUST", raising=False)
    return tmp_path


@pytest.fixture
def alice(home: Path) -> PrivateKey:
    return key_of("alice")


@pytest.fixture
def mallory(home: Path) -> PrivateKey:
    return key_of("mallory")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def key_of(name: str) -> PrivateKey:
    make_key(name)
    signer = find_signer(name)
    assert signer is not None
    return signer


def publisher(root: Path, signer: PrivateKey | None) -> Cache:
    """A cache as somebody uses it who trusts everybody and signs so."""
    return Cache(LocalStore(root), Trust(signer=signer))


def reader(root: Path, *keys: PrivateKey, memory: Memory | None = None) -> Cache:
    """The cache of somebody who trusts these keys alone."""
    return Cache(Asked(root), Trust(tuple(key.public for key in keys), memory=memory or Memory()))


def asked(cache: Cache) -> Counter[str]:
    assert isinstance(cache.store, Asked)
    return cache.store.folders


def load_all(cache: Cache) -> None:
    cached = cache.resolve(TINY)
    assert cached is not None and cache.missing(cached.manifest) == []
    for entry in cached.manifest.entries():
        assert load(cache, entry)


# What is used


def test_what_a_trusted_key_signed_is_used(root: Path, alice: PrivateKey) -> None:
    cached = publish(publisher(root, alice))
    cache = reader(root, alice)
    load_all(cache)
    assert cache.find(cached.manifest.action) == cached == cache.manifest(cached.digest)


def test_without_trusted_keys_everything_is_used(root: Path, alice: PrivateKey) -> None:
    for signer in (None, alice):
        publish(publisher(root, signer))
        load_all(reader(root))


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "foreign"])
def test_nothing_else_is_and_no_blob_is_asked_for(root: Path, alice: PrivateKey, mallory: PrivateKey, signed: bool) -> None:
    cached = publish(publisher(root, mallory if signed else None))
    uses: list[Callable[[Cache], object]] = [
        lambda cache: cache.resolve(TINY),
        lambda cache: cache.manifest(cached.digest),
        lambda cache: cache.find(cached.manifest.action),
    ]
    for use in uses:
        cache = reader(root, alice)
        with pytest.raises(UntrustedError, match="is not of a trusted publisher") as caught:
            use(cache)
        assert caught.value.exit_code == 8 and "ttbert cache sign" in caught.value.hint
        assert (mallory.public.id[:12] in caught.value.message) is signed
        found = asked(cache)
        assert found["signatures"] >= 1 and found["blobs"] == 0 and found["manifests"] == 0, "not even the manifest"


def test_one_of_several_trusted_keys_is_enough(root: Path, alice: PrivateKey, mallory: PrivateKey) -> None:
    publish(publisher(root, alice))
    load_all(reader(root, mallory, alice))


def test_several_keys_can_sign_one_model(root: Path, alice: PrivateKey, mallory: PrivateKey) -> None:
    cached = publish(publisher(root, alice))
    assert open_local(root).sign(TINY, mallory) == cached
    for key in (alice, mallory):
        load_all(reader(root, key))
    assert {key.raw for key in signers(open_local(root).store, "manifest", cached.digest)} == {
        alice.public.raw,
        mallory.public.raw,
    }


def test_a_signed_manifest_under_an_unsigned_name_is_refused(root: Path, alice: PrivateKey) -> None:
    """Whoever may write could else make a name mean any model that was ever signed."""
    cached = publish(publisher(root, alice))
    publisher(root, None).move_ref(OTHER, cached, "someone/else", None)
    cache = reader(root, alice)
    with pytest.raises(UntrustedError, match="the name someone/other"):
        cache.resolve(OTHER)
    assert asked(cache)["blobs"] == 0
    open_local(root).sign(OTHER, alice)
    assert cache.resolve(OTHER) == cached


def test_a_signed_name_cannot_be_copied_to_another(root: Path, alice: PrivateKey) -> None:
    publish(publisher(root, alice))
    store = LocalStore(root)
    store.put(f"{OTHER.folder}/00000001", store.get(f"{TINY.folder}/00000001"))
    with pytest.raises(IntegrityError, match="it is entry 1 of local%2Ftiny:bfp8"):
        reader(root, alice).resolve(OTHER)


def test_a_signature_is_good_for_nothing_else(root: Path, alice: PrivateKey) -> None:
    """Not for another manifest, not for an entry of a name with that digest, and not under another key."""
    store, one, two = LocalStore(root), blake3_of(b"one"), blake3_of(b"two")
    publish_signature(store, "manifest", one, alice)
    signature = store.get(signature_key("manifest", one, alice.public))
    stranger = PublicKey("stranger", bytes(32))
    for kind, digest, key in (("manifest", two, alice.public), ("ref", one, alice.public), ("manifest", one, stranger)):
        store.put(signature_key(kind, digest, key), signature)  # type: ignore[arg-type]
        assert not has_signature(store, kind, digest, key)  # type: ignore[arg-type]
    assert has_signature(store, "manifest", one, alice.public)


def test_every_flipped_bit_of_a_signature_is_noticed(root: Path, alice: PrivateKey) -> None:
    cached = publish(publisher(root, alice))
    path = root / signature_key("manifest", cached.digest, alice.public)
    sound = path.read_bytes()
    assert len(sound) == 64
    for position in range(64):
        flip_bit(path, position)
        assert not has_signature(LocalStore(root), "manifest", cached.digest, alice.public)
        path.write_bytes(sound)
    for wrong in (b"", sound[:-1], sound + b"\0", bytes(64), b"\xff" * 64, bytes(1 << 20)):
        path.write_bytes(wrong)
        with pytest.raises(UntrustedError):
            reader(root, alice).resolve(TINY)


def test_a_damaged_signature_is_moved_away_and_made_again(root: Path, alice: PrivateKey) -> None:
    cached = publish(publisher(root, alice))
    path = root / signature_key("manifest", cached.digest, alice.public)
    damaged = flip_bit(path)
    publish(publisher(root, alice))
    open_local(root).sign(TINY, alice)
    load_all(reader(root, alice))
    assert damaged in [content for key, content in files(root).items() if key.startswith("quarantine/")]


def test_verify_finds_what_is_no_signature_and_repair_moves_it(root: Path, alice: PrivateKey, mallory: PrivateKey) -> None:
    cached = publish(publisher(root, alice))
    cache = open_local(root)
    assert check(cache).sound and check(cache).objects == 10
    (of_manifest,), (of_ref,) = cache.store.list("signatures/manifest"), cache.store.list("signatures/ref")
    forged, short, foreign = (
        signature_key("manifest", cached.digest, mallory.public),
        signature_key("ref", cached.digest, mallory.public),
        "signatures/README",
    )
    cache.store.put(forged, cache.store.get(of_manifest.key))
    cache.store.put(short, b"x" * 63)
    cache.store.put(foreign, b"x" * 64)
    damaged = flip_bit(root / of_ref.key, 30)
    found = {finding.key: finding for finding in check(cache).findings}
    assert found.keys() == {forged, short, foreign, of_ref.key}
    assert "no signature of the manifest" in found[forged].problem and "no signature of the entry" in found[of_ref.key].problem
    assert {found[key].exit_code for key in (forged, short, of_ref.key)} == {7} and found[foreign].exit_code == 5
    assert {finding.key for finding in check(cache, "tiny").findings} == {forged, of_ref.key}, "those of that model"
    assert {finding.key for finding in survey(cache, take_census(cache)).findings} == {short}

    repaired = {finding.key: finding.moved for finding in check(cache, repair=True).findings}
    assert repaired[foreign] is None, "it may be of a later version of ttbert"
    assert cache.store.get(repaired[of_ref.key] or "") == damaged
    cache.store.delete(foreign)
    assert check(cache).sound and check(cache).objects == 9


def test_a_damaged_signature_is_restored_from_the_local_tier(root: Path, tmp_path: Path, alice: PrivateKey) -> None:
    publish(publisher(root, alice))
    near = tmp_path / "near"
    shutil.copytree(root, near)
    cache = Places(str(root), str(near)).open()
    before = files(root)
    for path in (root / "signatures").rglob("*"):
        if path.is_file():
            flip_bit(path)
    assert [finding.restored for finding in check(cache, repair=True).findings] == [True, True]
    assert before.items() <= files(root).items() and check(cache).sound


def check(cache: Cache, only: str | None = None, repair: bool = False) -> Verdict:
    census = take_census(cache.authority)
    return verify(cache, census, find_model(census, only) if only else None, repair)


# Signatures travel with a model


def pushed(near: Cache, far: Cache) -> None:
    entry, cached = near.read_ref(TINY), near.resolve(TINY)
    assert entry and cached
    push(near, far, TINY, entry, cached)


def test_a_model_is_pushed_with_its_signatures_by_somebody_without_a_key(root: Path, tmp_path: Path, alice: PrivateKey) -> None:
    """Whoever pushes it requires them, too."""
    near, far = tmp_path / "near", root
    publish(publisher(near, alice), tensors={"embeddings": b"older"}, recipe=b"older")
    publish(publisher(near, alice))
    pushed(reader(near, alice), reader(far, alice))
    load_all(reader(far, alice))
    for folder in ("refs", "signatures/ref"):
        kept = {path: content for path, content in files(near).items() if path.startswith(folder)}
        assert len(kept) == 2 and kept.items() <= files(far).items(), "the whole history, as it is"
    before = files(far)
    pushed(reader(near, alice), reader(far, alice))
    assert files(far) == before

    publish(publisher(near, alice), tensors={"embeddings": b"newer"}, recipe=b"newer")
    pushed(reader(near, alice), reader(far, alice))
    load_all(reader(far, alice))


def test_a_name_that_has_another_history_there_goes_on_by_an_entry_that_must_be_signed(
    root: Path, tmp_path: Path, alice: PrivateKey
) -> None:
    near, far = tmp_path / "near", root
    publish(publisher(near, alice))
    publish(publisher(far, alice), tensors={"embeddings": b"other"}, recipe=b"other")
    before = read_log(LocalStore(far), TINY)
    with pytest.raises(UntrustedError, match="no key to sign"):
        pushed(reader(near, alice), reader(far, alice))
    assert read_log(LocalStore(far), TINY) == before
    pushed(reader(near, alice), Cache(LocalStore(far), Trust((alice.public,), alice)))
    load_all(reader(far, alice))
    assert [line.problem for line in read_log(LocalStore(far), TINY)] == [None, None]


def test_what_is_pushed_unsigned_is_signed_by_whoever_pushes_it(
    root: Path, tmp_path: Path, alice: PrivateKey, mallory: PrivateKey
) -> None:
    near = tmp_path / "near"
    cached = publish(publisher(near, mallory))
    forged = signature_key("manifest", cached.digest, alice.public)
    LocalStore(near).put(forged, bytes(64))
    pushed(publisher(near, None), publisher(root, alice))
    load_all(reader(root, alice))
    load_all(reader(root, mallory))
    assert files(root)[forged] != bytes(64), "what is no signature stays behind"


def test_signing_twice_writes_nothing(root: Path, alice: PrivateKey) -> None:
    publish(publisher(root, alice))
    before = files(root)
    publish(publisher(root, alice))
    open_local(root).sign(TINY, alice)
    assert files(root) == before


def test_what_cannot_be_read_is_not_signed(root: Path, alice: PrivateKey) -> None:
    cached = publish(publisher(root, None))
    flip_bit(root / manifest_key(cached.digest))
    with pytest.raises(IntegrityError):
        open_local(root).sign(TINY, alice)
    with pytest.raises(InputError, match="means nothing"):
        open_local(root).sign(OTHER, alice)
    assert not (root / "signatures").exists()


# Publishing where signatures are required


def test_an_action_that_leads_to_a_foreign_manifest_is_superseded_by_ones_own(
    root: Path, alice: PrivateKey, mallory: PrivateKey
) -> None:
    theirs = publish(publisher(root, mallory))
    mine = Cache(LocalStore(root), Trust((alice.public,), alice))
    other = replace(theirs.manifest, provenance=replace(theirs.manifest.provenance, repo="converted/again"))
    cached = mine.publish_manifest(other)
    assert cached.digest != theirs.digest and mine.find(other.action) == cached
    assert reader(root, mallory).manifest(theirs.digest) == theirs, "what was there is not touched"


def test_whoever_cannot_sign_publishes_nothing_that_could_not_be_loaded(root: Path, alice: PrivateKey) -> None:
    cached = publish(publisher(root, alice))
    before = files(root)
    unable = Cache(LocalStore(root), Trust((alice.public,)))
    with pytest.raises(UntrustedError, match="there is no key to sign a conversion with"):
        unable.publish_manifest(replace(cached.manifest, action=blake3_of(b"another")))
    with pytest.raises(UntrustedError, match="there is no key"):
        unable.move_ref(OTHER, cached, "someone/other", None)
    unable.move_ref(TINY, cached, "someone/tiny", COMMIT)
    assert files(root) == before


def test_a_key_that_is_not_trusted_does_not_sign_where_it_matters(root: Path, alice: PrivateKey, mallory: PrivateKey) -> None:
    with pytest.raises(UntrustedError, match="the key 'mallory' would sign") as caught:
        publish(Cache(LocalStore(root), Trust((alice.public,), mallory)))
    assert "ttbert cache trust mallory" in caught.value.hint
    assert not (root / "manifests").exists() and not (root / "refs").exists()


def test_an_unsigned_name_is_signed_by_the_next_conversion(root: Path, alice: PrivateKey) -> None:
    publish(publisher(root, None))
    mine = Cache(LocalStore(root), Trust((alice.public,), alice))
    publish(mine)
    load_all(reader(root, alice))


class Dying(FsspecStore):
    """A store whose writer is gone after so many objects."""

    left = 0

    def put(self, key: str, content: bytes | memoryview) -> bool:
        if self.left == 0:
            raise StoreUnavailable("killed")
        self.left -= 1
        return super().put(key, content)


def test_a_publisher_killed_at_any_step_leaves_nothing_unsigned(alice: PrivateKey) -> None:
    """A reader finds the model, signed, or does not find it yet."""
    found = []
    for left in range(100):
        store = Dying(f"memory://killed-{left}")
        store.left = left
        with contextlib.suppress(StoreUnavailable):
            publish(Cache(store, Trust(signer=alice), accept_weak=True))
        cache = Cache(store, Trust((alice.public,)))
        found.append((cache.find(blake3_of(b"recipe")) is not None, cache.resolve(TINY) is not None))
        if all(found[-1]):
            break
    assert len(found) > 8 and set(found) == {(False, False), (True, False), (True, True)}


# Names that go back


def change(root: Path, signer: PrivateKey | None, number: int, ref: Ref = TINY) -> None:
    publish(publisher(root, signer), ref, {"embeddings": bytes([number]) * 100}, b"recipe %d" % number)


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "memory")


Rewrite = Callable[[Path, PrivateKey], None]


def cut_off(root: Path, alice: PrivateKey) -> None:
    (root / TINY.folder / "00000003").unlink()


def put_back(root: Path, alice: PrivateKey) -> None:
    """The whole cache as it was once, from a backup."""
    shutil.rmtree(root)
    shutil.copytree(root.with_name("backup"), root)


def write_anew(root: Path, alice: PrivateKey) -> None:
    """Another history, as long and as well signed, which the same publisher might have written."""
    shutil.rmtree(root / TINY.folder)
    for number in (3, 2, 1):
        change(root, alice, number)


def write_anew_and_longer(root: Path, alice: PrivateKey) -> None:
    write_anew(root, alice)
    change(root, alice, 4)


def leave_a_gap(root: Path, alice: PrivateKey) -> None:
    for number in (1, 2):
        change(root, alice, number)
    (root / TINY.folder / "00000004").unlink()


REWRITES: list[Rewrite] = [cut_off, put_back, write_anew, write_anew_and_longer, leave_a_gap]


@pytest.fixture
def seen(root: Path, alice: PrivateKey, memory: Memory) -> Iterator[Memory]:
    """A reader's memory of the third entry of a name."""
    for number in (1, 2):
        change(root, alice, number)
    shutil.copytree(root, root.with_name("backup"))
    change(root, alice, 3)
    assert reader(root, alice, memory=memory).resolve(TINY) is not None
    yield memory


@pytest.mark.parametrize("rewrite", REWRITES, ids=lambda each: each.__name__)
def test_a_name_that_was_rolled_back_is_refused(root: Path, alice: PrivateKey, seen: Memory, rewrite: Rewrite) -> None:
    rewrite(root, alice)
    for _ in range(2):  # it is not forgotten by being told
        cache = reader(root, alice, memory=seen)
        with pytest.raises(UntrustedError, match="was rolled back") as caught:
            cache.resolve(TINY)
        assert "--accept" in caught.value.hint and asked(cache)["blobs"] == asked(cache)["manifests"] == 0


@pytest.mark.parametrize("rewrite", REWRITES, ids=lambda each: each.__name__)
def test_without_trusted_keys_it_is_told_once(
    root: Path, alice: PrivateKey, seen: Memory, rewrite: Rewrite, caplog: pytest.LogCaptureFixture
) -> None:
    rewrite(root, alice)
    for _ in range(2):
        assert reader(root, memory=seen).resolve(TINY) is not None
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "ttbert cache log" in record.getMessage()


def test_a_rolled_back_name_is_not_published_onto_nor_signed(root: Path, alice: PrivateKey, seen: Memory) -> None:
    cut_off(root, alice)
    before = files(root)
    mine = Cache(LocalStore(root), Trust((alice.public,), alice, seen))
    with pytest.raises(UntrustedError, match="was rolled back"):
        mine.sign(TINY, alice)
    with pytest.raises(UntrustedError, match="was rolled back"):
        publish(mine)
    grown = {key for key in files(root).keys() - before.keys() if key.startswith("refs/")}
    assert grown == set()


def nothing(root: Path, alice: PrivateKey) -> None:
    pass


def go_on(root: Path, alice: PrivateKey) -> None:
    for number in (4, 5):
        change(root, alice, number)


def remove_and_convert_again(root: Path, alice: PrivateKey) -> None:
    publisher(root, None).remove_ref(TINY)
    change(root, alice, 3)


def remove_and_convert_another(root: Path, alice: PrivateKey) -> None:
    publisher(root, None).remove_ref(TINY)
    change(root, alice, 4)


def delete_the_cache_and_convert_again(root: Path, alice: PrivateKey) -> None:
    shutil.rmtree(root)
    change(root, alice, 3)


def sign_by_another(root: Path, alice: PrivateKey) -> None:
    publisher(root, None).sign(TINY, key_of("bob"))


def find_the_same_at_another_commit(root: Path, alice: PrivateKey) -> None:
    cache = publisher(root, alice)
    cached = cache.resolve(TINY)
    assert cached is not None
    cache.move_ref(TINY, cached, "someone/tiny", "f" * 40)


@pytest.mark.parametrize(
    "use",
    [
        nothing,
        go_on,
        remove_and_convert_again,
        remove_and_convert_another,
        delete_the_cache_and_convert_again,
        sign_by_another,
        find_the_same_at_another_commit,
    ],
    ids=lambda each: each.__name__,
)
@pytest.mark.parametrize("trusting", [True, False], ids=["trusted keys", "no keys"])
def test_normal_use_is_told_nothing(
    root: Path, alice: PrivateKey, seen: Memory, use: Rewrite, trusting: bool, caplog: pytest.LogCaptureFixture
) -> None:
    use(root, alice)
    for _ in range(2):
        assert reader(root, *[alice] * trusting, memory=seen).resolve(TINY) is not None
    assert caplog.records == []


class Late(LocalStore):
    """A folder on NFS as a client sees it for up to half a minute: its listings are old, what it opens is not."""

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return (entry for entry in super().list(prefix) if not entry.key.startswith("refs/") or entry.key[-1] in "12")


def test_a_listing_that_is_behind_is_not_taken_for_a_rollback(
    root: Path, alice: PrivateKey, seen: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    """The home of somebody on several machines: another one has seen more."""
    whole = reader(root, alice, memory=seen).resolve(TINY)
    for keys in ((alice.public,), ()):
        assert Cache(Late(root), Trust(keys, memory=seen)).resolve(TINY) == whole
    assert caplog.records == []


def test_a_deleted_cache_is_no_matter_and_means_nothing(
    root: Path, alice: PrivateKey, seen: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(root)
    assert reader(root, alice, memory=seen).resolve(TINY) is None and caplog.records == []


def test_a_publisher_may_go_back_and_readers_are_told_once(
    root: Path, alice: PrivateKey, seen: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    change(root, alice, 1)
    for _ in range(2):
        assert reader(root, alice, memory=seen).resolve(TINY) is not None
    (record,) = caplog.records
    assert "means again what it meant as of entry 1" in record.getMessage()


def test_a_removal_that_nobody_signed_is_not_remembered(root: Path, alice: PrivateKey, seen: Memory) -> None:
    """Or whoever may write could make readers refuse what came before it, by taking it away again."""
    publisher(root, None).remove_ref(TINY)
    assert reader(root, alice, memory=seen).resolve(TINY) is None
    (root / TINY.folder / "00000004").unlink()
    assert reader(root, alice, memory=seen).resolve(TINY) is not None


def test_a_number_far_away_takes_no_time(root: Path, alice: PrivateKey, seen: Memory) -> None:
    store = LocalStore(root)
    entry = open_local(root).store.get(f"{TINY.folder}/00000003")
    far = replace(LogEntry.parse(entry, ""), number=10**11, before=blake3_of(b"?"))
    means = far.means
    assert means is not None
    far = replace(far, means=replace(means, manifest=blake3_of(b"!")))
    publish_signature(store, "ref", far.digest, alice)
    store.put(f"{TINY.folder}/{10**11}", far.to_bytes())
    with pytest.raises(UntrustedError, match="more than 1,000 entries"):
        reader(root, alice, memory=seen).resolve(TINY)


def test_what_is_remembered_is_of_one_store_and_one_name(root: Path, alice: PrivateKey, seen: Memory) -> None:
    backup = root.with_name("backup")
    assert reader(backup, alice, memory=seen).resolve(TINY) is not None
    change(root, alice, 1, OTHER)
    assert reader(root, alice, memory=seen).resolve(OTHER) is not None


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 1000, canonical({"schema": "ttbert.seen/1"})])
def test_a_damaged_memory_is_none(root: Path, alice: PrivateKey, seen: Memory, tmp_path: Path, content: bytes) -> None:
    (path,) = (tmp_path / "memory").iterdir()
    path.write_bytes(content)
    assert reader(root, alice, memory=seen).resolve(TINY) is not None
    assert path.read_bytes() != content


def test_a_memory_that_cannot_be_written_harms_nothing(root: Path, alice: PrivateKey, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    change(root, alice, 1)
    assert reader(root, alice, memory=Memory(tmp_path / "file" / "memory")).resolve(TINY) is not None


# Keys


def test_a_private_key_is_for_its_owner_alone(alice: PrivateKey) -> None:
    assert stat.S_IMODE(alice.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(alice.path.parent.stat().st_mode) == 0o700
    alice.path.chmod(0o640)
    with pytest.raises(InputError, match="others may read") as caught:
        PrivateKey("alice", alice.path).sign(b"")
    assert f"chmod 600 {alice.path}" in caught.value.hint


def test_a_key_for_which_the_disk_has_no_room_leaves_nothing(
    small_disk: Path, alice: PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(small_disk))
    monkeypatch.delenv("TTBERT_TRUST", raising=False)
    make_key("carol")
    (small_disk / "ttbert/trusted").mkdir()
    before = files(small_disk)
    with (small_disk / "full").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    with pytest.raises(NoSpaceError, match="keys/dave: no space left on device"):
        make_key("dave")
    with pytest.raises(NoSpaceError, match=r"trusted/alice\.pub: no space left on device"):
        trust(alice.public)
    (small_disk / "full").unlink()
    assert files(small_disk) == before and list_trusted() == ()


def test_a_key_is_never_overwritten(alice: PrivateKey) -> None:
    before = files(alice.path.parent)
    with pytest.raises(InputError, match="there is a key 'alice' already"):
        make_key("alice")
    assert files(alice.path.parent) == before


def test_no_private_key_is_left_beside_the_public_key_of_another(alice: PrivateKey) -> None:
    alice.path.rename(alice.path.with_name("away"))
    before = files(alice.path.parent)
    with pytest.raises(InputError, match="there is a public key 'alice' already"):
        make_key("alice")
    assert files(alice.path.parent) == before


def test_keys_are_those_of_openssh(alice: PrivateKey, tmp_path: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("needs ssh-keygen")
    shown = subprocess.run(["ssh-keygen", "-y", "-f", alice.path], capture_output=True, text=True, check=True).stdout
    assert shown.split()[:2] == alice.public.line().split()[:2]
    path = tmp_path / "theirs"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "carol", "-f", path], check=True)
    theirs = PrivateKey("theirs", path)
    public = read_public_key(f"{path}.pub")
    assert public.name == "carol" and public.raw == theirs.public.raw
    assert public.verifies(theirs.sign(b"message"), b"message") and not public.verifies(theirs.sign(b"message"), b"massage")


def test_a_public_key_is_read_from_a_file_a_line_or_an_own_name(alice: PrivateKey) -> None:
    line = alice.public.line()
    for text in (line, "alice", f"{alice.path}.pub"):
        assert read_public_key(text).raw == alice.public.raw
    assert read_public_key(line.rpartition(" ")[0]).name == "default"


@pytest.mark.parametrize(
    "text",
    [
        "ssh-ed25519",
        "ssh-ed25519 ",
        "ssh-ed25519 !!!",
        "ssh-ed25519 AAAA",
        "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIHqb8oGiik2JX7Ht1SA/FqjZNELWZo/PNrE6rZV+XB4Q x",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHqb8oGiik2JX7Ht1SA/FqjZNELWZo/PNrE6rZV+XB4 x",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHqb8oGiik2JX7Ht1SA/FqjZNELWZo/PNrE6rZV+XB4QAAAA x",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE4AAAAIHqb8oGiik2JX7Ht1SA/FqjZNELWZo/PNrE6rZV+XB4Q x",
        "../../etc/passwd",
        "no such key",
        "",
    ],
)
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        read_public_key(text)
    assert "ssh-ed25519 AAAA" in caught.value.hint


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "-x", "a b", "a\n", "x" * 65, "a.pub", "\N{SNOWMAN}"])
def test_a_name_that_is_no_plain_name_is_refused(alice: PrivateKey, name: str) -> None:
    with pytest.raises(InputError, match="cannot be the name of a key"):
        make_key(name)
    if name:
        with pytest.raises(InputError, match="cannot be the name of a key"):
            find_signer(name)
        with pytest.raises(InputError, match="cannot be the name of a key"):
            trust(alice.public, name)


def test_a_trusted_key_that_cannot_be_read_is_not_left_out(home: Path, alice: PrivateKey, root: Path) -> None:
    """Were it the only one, nothing would be required any more."""
    trust(alice.public)
    (path,) = (home / "config/ttbert/trusted").iterdir()
    path.write_text("ssh-ed25519 rubbish alice\n")
    with pytest.raises(InputError, match="is no public Ed25519 key"):
        open_local(root)


def test_a_machine_can_name_the_keys_it_trusts(
    home: Path, alice: PrivateKey, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home / "machine"
    monkeypatch.setenv("TTBERT_TRUST", str(folder))
    with pytest.raises(InputError, match=f"TTBERT_TRUST is {folder}, where there is no NAME.pub"):
        open_local(root)
    folder.mkdir()
    with pytest.raises(InputError, match="TTBERT_TRUST"):
        open_local(root)
    trust(alice.public, "lab")
    assert [key.name for key in list_trusted()] == ["lab"] and (folder / "lab.pub").exists()
    publish(publisher(root, None))
    with pytest.raises(UntrustedError):
        open_local(root).resolve(TINY)


def test_two_keys_are_not_trusted_under_one_name(alice: PrivateKey, mallory: PrivateKey) -> None:
    assert trust(alice.public) == trust(alice.public, "again"), "it is trusted already"
    with pytest.raises(InputError, match="another key is trusted as 'alice'"):
        trust(mallory.public, "alice")
    assert [key.raw for key in list_trusted()] == [alice.public.raw]


def test_no_secret_lies_in_a_cache(root: Path, alice: PrivateKey) -> None:
    cached = publish(publisher(root, alice))
    seed = load_ssh_private_key(alice.path.read_bytes(), None).private_bytes_raw()  # type: ignore[union-attr]
    stored = files(root)
    assert signature_key("manifest", cached.digest, alice.public) in stored
    assert len(seed) == 32
    for content in stored.values():
        assert seed not in content and seed.hex().encode() not in content and b"OPENSSH" not in content
