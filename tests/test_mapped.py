"""Looking at a file in the page cache: its very bytes, or an error, and never the end of the process."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from ttbert.child import python_command
from ttbert.convert.mapped import MappedFile
from ttbert.errors import UnreadableError

SIZE = (5 << 20) + 123
CONTENT = os.urandom(SIZE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A large file that is in the page cache, and on the disk too."""
    path = tmp_path / "weights"
    with path.open("wb") as file:
        file.write(CONTENT)
        file.flush()
        os.fsync(file.fileno())
    return path


def open_to_write(path: Path) -> None:
    """BlockingIOError where the kernel would have others wait; from another process, as they are."""
    command = python_command(
        "import os, sys\ntry: os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK)\nexcept BlockingIOError: sys.exit(3)", str(path)
    )
    if subprocess.run(command, check=False).returncode == 3:
        raise BlockingIOError


@pytest.mark.parametrize("start, size", [(0, 1), (0, SIZE), (4095, 2), (4097, 100_000), (SIZE - 1, 1)])
def test_a_part_is_what_is_in_the_file(path: Path, start: int, size: int) -> None:
    with MappedFile(path, SIZE).leased() as look, look(start, size) as part:
        assert part == CONTENT[start : start + size]


def test_what_is_not_in_the_page_cache_is_not_fetched(path: Path) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            pass  # the kernel may fetch what is near, but not what is megabytes away
        except OSError:
            pytest.skip("this file system does not tell what is in the page cache")
        else:
            pytest.skip("this file system keeps all of it in the page cache")
    with MappedFile(path, SIZE).leased() as look, pytest.raises(BlockingIOError), look(0, SIZE):
        pass


def test_who_wants_to_write_waits_and_no_more_is_looked_at(path: Path) -> None:
    with MappedFile(path, SIZE).leased() as look:
        with look(0, SIZE) as part:
            with pytest.raises(BlockingIOError):
                open_to_write(path)
            assert part == CONTENT
        with pytest.raises(OSError, match="somebody writes") as caught, look(0, SIZE):
            pass
        assert caught.value.errno == errno.ETXTBSY
    open_to_write(path)


def test_who_looked_until_a_writer_waited_no_longer_is_told(path: Path) -> None:
    with pytest.raises(UnreadableError, match="changed while"), MappedFile(path, SIZE).leased() as look:
        file = look.args[0]
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)  # as the kernel does when somebody has waited for 45 seconds
        open_to_write(path)


def test_a_file_that_is_open_for_writing_is_not_looked_at(path: Path) -> None:
    with path.open("r+b"), pytest.raises(OSError), MappedFile(path, SIZE).leased():
        pass


def test_a_file_that_was_cut_off_or_has_grown_is_not_looked_at(path: Path) -> None:
    for size in (SIZE - 1, SIZE + 1):
        with pytest.raises(OSError, match="somebody writes"), MappedFile(path, size).leased():
            pass
    open_to_write(path)
