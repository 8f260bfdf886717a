"""Names in the cache: what they mean, what they meant before, and what several machines do to them at once."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from models import COMMIT, files

from ttbert.cache.digest import Digest, blake3_of
from ttbert.cache.history import read_log
from ttbert.cache.refs import (
    LogEntry,
    Ref,
    RefEntry,
    entry_numbers,
    key_in,
    list_refs,
    move_ref,
    parse_ref,
    read_latest,
    read_ref,
)
from ttbert.cache.stores.local import LocalStore
from ttbert.cache.stores.store import Entry, is_key
from ttbert.errors import CacheError, InputError, IntegrityError

HUB = Ref("someone/bert-large", "main", "bfp8")
ONE, TWO = blake3_of(b"one"), blake3_of(b"two")


def move(store: LocalStore, ref: Ref, manifest: Digest, repo: str = "repo", commit: str | None = None) -> LogEntry | None:
    return move_ref(store, ref, RefEntry(manifest, repo, commit, ""))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "cache")


def history(store: LocalStore, ref: Ref) -> list[Digest | None]:
    entries = [LogEntry.parse(store.get(entry.key), entry.key) for entry in store.list(ref.folder)]
    return [entry.means.manifest if entry.means else None for entry in entries]


def meaning(store: LocalStore, ref: Ref) -> Digest | None:
    entry = read_ref(store, ref)
    return entry.manifest if entry else None


def test_a_name_means_what_it_was_moved_to_last(store: LocalStore) -> None:
    assert read_ref(store, HUB) is None
    move(store, HUB, ONE, "someone/bert-large", COMMIT)
    entry = read_ref(store, HUB)
    assert entry is not None
    assert (entry.manifest, entry.repo, entry.commit) == (ONE, "someone/bert-large", COMMIT)
    assert move(store, HUB, TWO, "someone/bert-large") == read_latest(store, HUB) and meaning(store, HUB) == TWO


def test_what_a_name_meant_before_is_kept(store: LocalStore) -> None:
    for manifest in (ONE, TWO, ONE):
        move(store, HUB, manifest)
    assert history(store, HUB) == [ONE, TWO, ONE]


def test_moving_a_name_to_where_it_is_writes_nothing(store: LocalStore) -> None:
    move(store, HUB, ONE, "repo", COMMIT)
    before = files(store.root)
    assert move(store, HUB, ONE, "repo", COMMIT) == read_latest(store, HUB)
    assert files(store.root) == before
    move(store, HUB, ONE, "repo", "another commit")
    assert history(store, HUB) == [ONE, ONE]


class Behind(LocalStore):
    """A folder as a client of NFS sees it: what others have just written shows neither in listings, nor in the first looks."""

    looks = 3

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._seen = {entry.key for entry in super().list()}

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return (entry for entry in super().list(prefix) if entry.key in self._seen)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if key not in self._seen and self.looks:
            self.looks -= 1
            raise KeyError(key)
        return super().get(key, start, length)


@pytest.mark.parametrize("moved", [0, 1])
def test_a_name_is_moved_although_the_listing_is_behind(store: LocalStore, moved: int) -> None:
    """From an entry that is seen, and from none at all."""
    three, four = blake3_of(b"three"), blake3_of(b"four")
    for manifest in (ONE, TWO)[:moved]:
        move(store, HUB, manifest)
    behind = Behind(store.root)
    for manifest in (TWO, three):
        move(store, HUB, manifest)
    entry = move(behind, HUB, four)
    assert entry == read_latest(store, HUB) and history(store, HUB) == [ONE, TWO, three, four][1 - moved :]
    assert read_log(store, HUB)[-1].problem is None


def test_a_removed_name_means_nothing_and_keeps_its_history(store: LocalStore) -> None:
    other = Ref("local/other", None, "bfp8")
    assert move_ref(store, HUB, None) is None and not store.root.exists()
    for manifest in (ONE, TWO):
        move(store, HUB, manifest)
        move(store, other, manifest)
    move_ref(store, HUB, None)
    assert read_ref(store, HUB) is None and history(store, HUB) == [ONE, TWO, None]
    before = files(store.root)
    move_ref(store, HUB, None)
    assert files(store.root) == before
    assert list(list_refs(store)) == [other, HUB] and meaning(store, other) == TWO
    move(store, HUB, ONE)
    assert meaning(store, HUB) == ONE and history(store, HUB) == [ONE, TWO, None, ONE]


def test_each_entry_holds_the_digest_of_the_one_before(store: LocalStore) -> None:
    for manifest in (ONE, TWO, ONE):
        move(store, HUB, manifest)
    move_ref(store, HUB, None)
    contents = [store.get(entry.key) for entry in store.list(HUB.folder)]
    entries = [LogEntry.parse(content, "here") for content in contents]
    assert [entry.number for entry in entries] == [1, 2, 3, 4]
    assert [entry.before for entry in entries] == [None, *(blake3_of(content) for content in contents[:-1])]
    assert [entry.digest for entry in entries] == [blake3_of(content) for content in contents]


def test_an_entry_of_another_place_is_refused(store: LocalStore) -> None:
    """Whoever may write into a store can copy an entry, with its signature, to another name or another number."""
    other = Ref("local/other", None, "bfp8")
    move(store, HUB, ONE)
    content = store.get(f"{HUB.folder}/00000001")
    for key in (f"{other.folder}/00000001", f"{HUB.folder}/00000002"):
        store.put(key, content)
    for ref in (other, HUB):
        with pytest.raises(IntegrityError, match="it is entry 1 of someone%2Fbert-large@main:bfp8"):
            read_ref(store, ref)


def test_a_history_may_pass_any_number_of_digits(store: LocalStore) -> None:
    entry = LogEntry(HUB.quoted, 99_999_999, ONE, RefEntry(ONE, "repo", None, ""), "2026-01-01T00:00:00+00:00")
    store.put(f"{HUB.folder}/99999999", entry.to_bytes())
    move(store, HUB, TWO)
    assert [each.key.rpartition("/")[2] for each in store.list(HUB.folder)] == ["100000000", "99999999"]
    assert meaning(store, HUB) == TWO


def test_a_name_whose_history_has_a_gap_means_its_highest_entry(store: LocalStore) -> None:
    for manifest in (ONE, TWO, ONE):
        move(store, HUB, manifest)
    store.delete(f"{HUB.folder}/00000002")
    assert meaning(store, HUB) == ONE
    move(store, HUB, TWO)
    assert history(store, HUB) == [ONE, ONE, TWO]


def test_an_entry_is_signed_before_it_is_there(store: LocalStore) -> None:
    signed: list[tuple[Digest, int]] = []

    def sign(digest: Digest) -> None:
        signed.append((digest, len(list(store.list(HUB.folder)))))

    entries = [move_ref(store, HUB, RefEntry(each, "repo", None, ""), sign) for each in (ONE, TWO, TWO)]
    assert signed == [(entry.digest, count) for count, entry in enumerate(entries[:2]) if entry]


MOVER = """
import sys, time
from pathlib import Path
from ttbert.cache.digest import blake3_of
from ttbert.cache.stores.local import LocalStore
from ttbert.cache.refs import Ref, RefEntry, move_ref
store, ref, mover = LocalStore(Path(sys.argv[1])), Ref("someone/bert-large", "main", "bfp8"), sys.argv[2]
time.sleep(max(0, float(sys.argv[3]) - time.time()))
for step in range(10):
    move_ref(store, ref, RefEntry(blake3_of(f"{mover}.{step}".encode()), mover, None, ""))
"""


def test_concurrent_movers_lose_nothing(store: LocalStore) -> None:
    start = time.time() + 1.0
    movers = [subprocess.Popen([sys.executable, "-c", MOVER, str(store.root), str(n), str(start)]) for n in range(6)]
    assert [mover.wait(timeout=60) for mover in movers] == [0] * 6
    moved = history(store, HUB)
    assert sorted(filter(None, moved)) == sorted(
        blake3_of(f"{mover}.{step}".encode()) for mover in range(6) for step in range(10)
    )
    for mover in range(6):  # and each mover's own moves are in its order
        mine = [blake3_of(f"{mover}.{step}".encode()) for step in range(10)]
        assert [manifest for manifest in moved if manifest in mine] == mine
    assert list(store.debris()) == []


# Names as people write them


@pytest.mark.parametrize(
    "text,parts",
    [
        ("bundled", ("bundled", None, None)),
        ("someone/bert", ("someone/bert", None, None)),
        ("someone/bert@main", ("someone/bert", "main", None)),
        ("someone/bert@feature/x-1:bfp8", ("someone/bert", "feature/x-1", "bfp8")),
        ("local/my.model:bf16", ("local/my.model", None, "bf16")),
        ("bert@refs/pr/3", ("bert", "refs/pr/3", None)),
        ("bert@v1.0@rc", ("bert", "v1.0@rc", None)),
    ],
)
def test_names_are_read_as_written(text: str, parts: tuple[str, str | None, str | None]) -> None:
    assert parse_ref(text) == parts


@pytest.mark.parametrize("text", ["", " ", "@main", ":bfp8", "a b", "a@", "a:", "a:BFP8", "a@b c", "a:b:c", "a\n", "a@b:c\n"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a ref") as caught:
        parse_ref(text)
    assert "ttbert cache ls" in caught.value.hint


@pytest.mark.parametrize(
    "ref",
    [
        Ref("someone/bert", "feature/a/b", "bfp8"),
        Ref("someone/bert", "../../etc", "bfp8"),
        Ref("..", "x", "bfp8"),
        Ref("../..", None, "bfp8"),
        Ref("/etc/passwd", None, "bfp8"),
        Ref("-rf", None, "bfp8"),
        Ref("con", "NUL", "bfp8"),
        Ref("100%", None, "bfp8"),
        Ref("%2e%2e%2f", None, "bfp8"),
        Ref("b\N{LATIN SMALL LETTER E WITH ACUTE}rt/\N{SNOWMAN}", "\N{GREEK SMALL LETTER ALPHA}", "bfp8"),
        Ref("*", "?", "bfp8"),
        Ref("x" * 200, "y" * 30, "bfp8"),
    ],
    ids=ascii,
)
def test_odd_names_stay_in_their_folder_and_are_listed_as_given(store: LocalStore, ref: Ref) -> None:
    if ref.name.startswith("."):
        with pytest.raises(InputError, match="cannot be a ref"):
            move(store, ref, ONE)
        return
    move(store, ref, ONE)
    assert meaning(store, ref) == ONE and list(list_refs(store)) == [ref]
    (path,) = files(store.root)
    assert path.startswith("refs/") and path.count("/") == 2
    move_ref(store, ref, None)
    assert read_ref(store, ref) is None and list(list_refs(store)) == [ref]


@pytest.mark.parametrize(
    "ref", [Ref("x" * 250, None, "bfp8"), Ref("a", "/" * 100, "bfp8"), Ref("\N{SNOWMAN}" * 40, None, "bfp8")]
)
def test_a_name_too_long_for_a_file_is_refused(store: LocalStore, ref: Ref) -> None:
    with pytest.raises(InputError, match="is too long for a ref") as caught:
        move(store, ref, ONE)
    assert "--name" in caught.value.hint and len(caught.value.message) < 150


@pytest.mark.parametrize(
    "ref",
    [
        Ref("a@b", None, "bfp8"),
        Ref("a:b", None, "bfp8"),
        Ref("a", "b:c", "bfp8"),
        Ref("a b", None, "bfp8"),
        Ref("", None, "bfp8"),
        Ref("a", None, ""),
        Ref("a", "", "bfp8"),
        Ref("a", None, "BFP8"),
    ],
)
def test_a_name_that_would_be_read_as_another_is_refused(store: LocalStore, ref: Ref) -> None:
    with pytest.raises(InputError):
        move(store, ref, ONE)
    assert files(store.root) == {} if store.root.exists() else True


@pytest.mark.parametrize("odd", ["\0", "\x1b[31m", "\x9b31m", "\x7f", "\N{RIGHT-TO-LEFT OVERRIDE}", "\udcff"], ids=ascii)
def test_a_name_that_would_steer_the_terminal_is_none_whoever_wrote_it(store: LocalStore, odd: str) -> None:
    for ref in (Ref(f"a{odd}b", None, "bfp8"), Ref("a", f"b{odd}c", "bfp8")):
        with pytest.raises(InputError, match="is not a ref"):
            move(store, ref, ONE)
        planted = "refs/" + quote(str(ref), safe="@:", errors="surrogateescape")
        store.put(key_in(planted, 1), LogEntry(planted, 1, None, None, "2026-01-01T00:00:00+00:00").to_bytes())
    move(store, HUB, ONE)
    assert list(list_refs(store)) == [HUB]


@pytest.mark.parametrize("digits", [13, 18, 255])
def test_a_number_that_no_history_reaches_is_none_and_does_not_block_the_name(store: LocalStore, digits: int) -> None:
    move(store, HUB, ONE)
    store.put(f"{HUB.folder}/{'9' * digits}", b"planted")
    assert meaning(store, HUB) == ONE
    move(store, HUB, TWO)
    assert meaning(store, HUB) == TWO and entry_numbers(store, HUB) == [1, 2]


def test_after_the_last_number_of_all_a_name_is_not_moved_in_vain(store: LocalStore) -> None:
    store.put(key_in(HUB.folder, 10**12 - 1), b"planted")
    with pytest.raises(CacheError, match="no number for another entry") as caught:
        move(store, HUB, ONE)
    assert "remove it" in caught.value.hint


@given(st.text(max_size=40), st.none() | st.text(max_size=40), st.sampled_from(["bfp8", "bf16", "exact_1"]))
def test_every_name_has_a_folder_of_its_own_or_is_refused(name: str, revision: str | None, policy: str) -> None:
    ref = Ref(name, revision, policy)
    try:
        folder = ref.folder
    except InputError:
        return
    assert is_key(folder) and folder.count("/") == 1
    assert parse_ref(str(ref)) == (name, revision, policy)


@given(st.text(min_size=1, max_size=10), st.text(min_size=1, max_size=10))
def test_two_names_never_share_a_folder(one: str, other: str) -> None:
    assume(one != other)
    folders = []
    for name in (one, other):
        try:
            folders.append(Ref(name, None, "bfp8").folder)
        except InputError:
            return
    assert folders[0] != folders[1]
