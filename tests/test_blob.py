"""A blob is checked on its only way into memory, and cannot change there."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import FILES, TENSORS, TINY, blob_path, flip_bit, load, open_local, publish

from ttbert.cache.blob import Blob, check_end, hash_stream, read_blob
from ttbert.cache.cache import Cache
from ttbert.cache.digest import Digest, blake3_of
from ttbert.cache.manifest import PackEntry
from ttbert.cache.stores.pieces import PIECE, _spare, pieces_of
from ttbert.errors import IntegrityError

BIG = os.urandom((9 << 20) + 12_345)
"""More than two of the pieces in which blobs are read."""


class CountingStream(io.RawIOBase):
    """A stream that counts what is read of it, gives at most `step` bytes at once, and cannot go back."""

    def __init__(self, content: bytes, step: int = 1 << 30) -> None:
        self._content, self._step = memoryview(content), step
        self.position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        part = self._content[self.position : self.position + min(len(buffer), self._step)]
        buffer[: len(part)] = part
        self.position += len(part)
        return len(part)


class FailingStream(CountingStream):
    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if self.position >= 100:
            raise OSError(5, "Input/output error")
        return super().readinto(memoryview(buffer)[:100])


def read(stream: CountingStream, digest: Digest, size: int) -> Blob:
    with pieces_of(stream) as take:  # type: ignore[arg-type]
        return read_blob(take, digest, size, "here")


@pytest.mark.parametrize("content", [b"", b"x", BIG], ids=["empty", "small", "big"])
def test_what_was_read_is_what_was_stored(content: bytes) -> None:
    with read(CountingStream(content), blake3_of(content), len(content)) as blob:
        assert blob.size == len(content) and blob.bytes() == content
        assert Path(blob.path).read_bytes() == content


def test_a_blob_of_more_than_one_read_is_given_whole() -> None:
    """The system gives 2,147,479,552 bytes at a time."""
    size = (1 << 31) + 5
    available = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
    if not available or int(available[1]) * 1024 < 3 * size:
        pytest.skip("needs 6 GB of free memory")
    descriptor = os.memfd_create("large")
    os.ftruncate(descriptor, size)  # and takes none
    os.pwrite(descriptor, b"begin", 0)
    os.pwrite(descriptor, b"end", size - 3)
    with Blob(descriptor, size) as blob:
        content = blob.bytes()
        assert len(content) == size and content[:5] == b"begin" and content[-3:] == b"end"
        assert blob.bytes(5) == b"begin"


def test_every_byte_is_read_once() -> None:
    stream = CountingStream(BIG, step=1 << 20)
    with read(stream, blake3_of(BIG), len(BIG)) as blob:
        assert stream.position == len(BIG)
        assert blob.bytes() == BIG
    assert stream.position == len(BIG)


@given(content=st.binary(max_size=300), step=st.integers(1, 50))
def test_streams_may_give_as_little_as_they_like(content: bytes, step: int) -> None:
    with read(CountingStream(content, step), blake3_of(content), len(content)) as blob:
        assert blob.bytes() == content
    assert hash_stream(CountingStream(content, step)) == (blake3_of(content), len(content))  # type: ignore[arg-type]


@pytest.mark.parametrize("position", [0, 1, 4 << 20, (4 << 20) - 1, len(BIG) - 1])
def test_one_flipped_bit_is_found_wherever_it_is(position: int) -> None:
    damaged = bytearray(BIG)
    damaged[position] ^= 0x10
    with pytest.raises(IntegrityError, match="here is damaged: its digest is blake3:"):
        read(CountingStream(bytes(damaged)), blake3_of(BIG), len(BIG))


def test_a_stream_that_goes_on_is_noticed_and_not_read_to_its_end() -> None:
    stream = CountingStream(BIG * 2)
    read(stream, blake3_of(BIG), len(BIG)).close()
    with pytest.raises(IntegrityError, match="here is damaged: it has more bytes than the manifest says"):
        check_end(stream, "here")  # type: ignore[arg-type]
    assert stream.position == len(BIG) + 1


def test_a_blob_that_is_said_to_be_huge_is_refused_at_once() -> None:
    start = time.monotonic()
    for size in (1 << 40, (1 << 50) - 1):
        with pytest.raises((IntegrityError, OSError)):
            read(CountingStream(b"small"), blake3_of(b"small"), size)
    assert time.monotonic() - start < 5


def test_checked_memory_cannot_be_changed() -> None:
    with read(CountingStream(BIG), blake3_of(BIG), len(BIG)) as blob:
        for flags in (os.O_RDWR, os.O_RDONLY):
            descriptor = os.open(blob.path, flags)
            try:
                with pytest.raises(OSError):
                    os.write(descriptor, b"changed")
                with pytest.raises(OSError):
                    os.ftruncate(descriptor, 0)
                with pytest.raises(OSError):
                    os.ftruncate(descriptor, len(BIG) + 4096)
                with pytest.raises(OSError):
                    mmap.mmap(descriptor, len(BIG), mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
                mmap.mmap(descriptor, len(BIG), mmap.MAP_SHARED, mmap.PROT_READ).close()
            finally:
                os.close(descriptor)
        assert blob.bytes() == BIG


def test_a_mapping_outlives_its_blob() -> None:
    blob = read(CountingStream(BIG), blake3_of(BIG), len(BIG))
    with blob, Path(blob.path).open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    assert mapping[:] == BIG


def test_a_disk_that_fails_while_it_is_read_is_an_error_that_says_so() -> None:
    with pytest.raises(IntegrityError, match=r"here is damaged: it cannot be read: .*Input/output error"):
        read(FailingStream(BIG), blake3_of(BIG), len(BIG))


def test_no_descriptor_is_left_open_whatever_happens() -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for stream, size in ((CountingStream(BIG), len(BIG)), (CountingStream(b"short"), 9), (FailingStream(BIG), len(BIG))):
        for digest in (blake3_of(BIG), blake3_of(b"other")):
            with contextlib.suppress(IntegrityError, OSError):
                read(stream, digest, size).close()
    read(CountingStream(BIG), blake3_of(BIG), len(BIG))  # and dropped
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


# In a cache


def _flip(path: Path) -> None:
    flip_bit(path, 1500)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _swap(path: Path) -> None:
    other = blob_path(path.parent.parent.parent, TENSORS["head"])
    path.write_bytes(other.read_bytes())


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage,says",
    [
        (_flip, "(layer.bias) is damaged: its digest is blake3:"),
        (_truncate, "(layer.bias) is damaged: it ends after 499 bytes of 500"),
        (_empty, "(layer.weight) is damaged: it ends after 0 bytes of 1,500"),
        (_zero, "(layer.weight) is damaged: its digest is blake3:"),
        (_lengthen, "(layer) is damaged: it has more bytes than the manifest says"),
        (_swap, "(layer.weight) is damaged: it ends after 1,000 bytes of 1,500"),
        (Path.unlink, "is missing; layer needs it"),
        (_make_folder, "is missing; layer needs it"),
    ],
)
def test_damage_is_an_error_that_names_the_file_and_the_tensor(
    tmp_path: Path, damage: Callable[[Path], None], says: str
) -> None:
    cache, path, pack = _published(tmp_path)
    damage(path)
    with pytest.raises(IntegrityError) as caught:
        load(cache, pack)
    assert says in caught.value.message and str(path) in caught.value.message
    assert "`ttbert cache verify --repair`" in caught.value.hint or "convert the model again" in caught.value.hint
    assert caught.value.exit_code == 7


def test_file_mode_and_age_prove_nothing(tmp_path: Path) -> None:
    """A damaged blob that looks untouched from outside."""
    cache, path, pack = _published(tmp_path)
    status = path.stat()
    flip_bit(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    path.chmod(0o444)
    with pytest.raises(IntegrityError):
        load(cache, pack)


def test_the_tensors_before_the_damage_are_given_and_none_after_it(tmp_path: Path) -> None:
    cache, path, pack = _published(tmp_path)
    flip_bit(path, 1500)
    found = cache.load_pack(pack)
    tensor, blob = next(found)
    with blob:
        assert tensor.name == "layer.weight" and blob.bytes() == TENSORS["layer"][:1500]
    with pytest.raises(IntegrityError):
        next(found)


def test_files_of_a_model_are_checked_as_tensors_are(tmp_path: Path) -> None:
    cache, _, _ = _published(tmp_path)
    flip_bit(blob_path(tmp_path, FILES["config.json"]))
    cached = cache.resolve(TINY)
    assert cached is not None
    entry = cached.manifest.file("config.json")
    assert entry is not None
    with pytest.raises(IntegrityError, match=r"config\.json"):
        cache.load(entry)


def test_loading_writes_nothing(tmp_path: Path) -> None:
    cache, path, pack = _published(tmp_path)
    before = {each: each.stat().st_mtime_ns for each in tmp_path.rglob("*")}
    load(cache, pack)
    flip_bit(path)
    with pytest.raises(IntegrityError):
        load(cache, pack)
    after = {each: each.stat().st_mtime_ns for each in tmp_path.rglob("*") if each != path}
    assert after.items() <= before.items() and len(after) == len(before) - 1


def _published(root: Path) -> tuple[Cache, Path, PackEntry]:
    cache = open_local(root)
    pack = next(each for each in publish(cache).manifest.packs if each.name == "layer")
    return cache, blob_path(root, TENSORS["layer"]), pack


def test_streams_that_are_read_at_once_share_no_buffer() -> None:
    contents = [bytes([number]) * 3000 for number in range(3)]
    with pieces_of(io.BytesIO(b"")):  # leaves one that is used again
        pass
    with ExitStack() as stack:
        takes = [stack.enter_context(pieces_of(io.BytesIO(content))) for content in contents]
        pieces = [take(PIECE) for take in takes]
        assert [bytes(piece) for piece in pieces] == contents


def test_a_buffer_is_used_again_by_the_next_stream() -> None:
    with pieces_of(io.BytesIO(b"first")) as take:
        piece = take(PIECE)
        assert bytes(piece) == b"first"
    with pieces_of(io.BytesIO(b"other")) as take:
        take(PIECE)
        assert bytes(piece) == b"other"


def test_a_pack_that_is_not_read_to_its_end_gives_its_buffer_back(cache: Cache) -> None:
    pack = publish(cache).manifest.packs[0]
    with pieces_of(io.BytesIO(b"")):  # there is at least one
        pass
    before = len(_spare)
    for _, blob in cache.load_pack(pack):
        blob.close()
        assert len(_spare) == before - 1
        break
    assert len(_spare) == before


def test_nothing_comes_of_a_stream_after_its_time() -> None:
    """Its buffer belongs to another stream by then."""
    with pieces_of(io.BytesIO(b"first")) as late:
        pass
    with pieces_of(io.BytesIO(b"other")) as take:
        piece = take(PIECE)
        assert not late(PIECE)
        assert bytes(piece) == b"other"
