"""Who may use a cache in a folder: whoever its folder lets in, whatever the umask of those who write."""

from __future__ import annotations

import contextlib
import grp
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from models import TINY, open_local, publish

from ttbert.cache.lock import machine_lock
from ttbert.cache.stores.local import LocalStore, open_folder
from ttbert.errors import CacheError, InputError

GROUP = "daemon" if os.geteuid() == 0 else grp.getgrgid(os.getegid()).gr_name
KEY = "blobs/aa/one"


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize(
    "root_mode,folder_mode,file_mode",
    [(0o2775, 0o2775, 0o664), (0o755, 0o755, 0o644), (0o750, 0o750, 0o640), (0o700, 0o700, 0o600)],
)
def test_what_is_made_gets_the_mode_of_the_folder(
    tmp_path: Path, mask: int, root_mode: int, folder_mode: int, file_mode: int
) -> None:
    root = tmp_path / "cache"
    root.mkdir()
    root.chmod(root_mode)
    with umask(mask):
        publish(open_local(root))
        LocalStore(root).put(KEY, b"1")
        LocalStore(root).quarantine(KEY)
    for path in root.rglob("*"):
        assert mode(path) == (folder_mode if path.is_dir() else file_mode), path


def test_a_cache_of_ones_own_is_made_by_ones_own_umask(tmp_path: Path) -> None:
    with umask(0o077):
        publish(open_local(tmp_path / "cache"))
    assert {mode(path) for path in (tmp_path / "cache").rglob("*")} == {0o700, 0o600}


def test_what_others_made_is_left_as_it_is(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    publish(open_local(root))
    theirs = {path: 0o711 if path.is_dir() else 0o604 for path in root.rglob("*")}
    for path, each in theirs.items():
        path.chmod(each)
    root.chmod(0o2775)
    publish(open_local(root), tensors={"new": b"new"}, recipe=b"new")
    assert {path: mode(path) for path in theirs} == theirs


def test_a_new_cache_is_made_for_a_group(tmp_path: Path) -> None:
    root = tmp_path / "share" / "cache"
    with umask(0o077):
        store = open_folder(root, GROUP)
        store.put(KEY, b"1")
    assert mode(root) == 0o2775 and mode(tmp_path / "share") == 0o700
    for path in (root, *root.rglob("*")):
        assert path.group() == GROUP
    assert open_folder(root, GROUP).get(KEY) == b"1"


def test_a_folder_of_another_group_is_not_changed_but_refused(tmp_path: Path) -> None:
    root = tmp_path / "the lab's"
    root.mkdir(mode=0o755)
    with pytest.raises(InputError, match=f"not shared with the group {GROUP}: its mode is 0755") as caught:
        open_folder(root, GROUP)
    assert f"chgrp -R {GROUP} {shlex.quote(str(root))} &&" in caught.value.hint and mode(root) == 0o755
    with pytest.raises(InputError, match="there is no group"):
        open_folder(root, "nobody-has-this-group")


def as_member(user: int, work: Callable[[], object]) -> None:
    """Do a work as another user, who is in the group, and whose umask keeps everything private."""
    child = os.fork()
    if child == 0:
        exit_code = 1
        try:
            os.setgroups([grp.getgrnam(GROUP).gr_gid])
            os.setgid(user)
            os.setuid(user)
            os.umask(0o077)
            work()
            exit_code = 0
        finally:
            os._exit(exit_code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become other users")
def test_members_of_a_group_publish_use_and_clean_up_together(tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents):
        if path.name.startswith("pytest-"):
            path.chmod(0o755)
    tmp_path.chmod(0o777)
    root = tmp_path / "cache"
    as_member(12001, lambda: publish(open_folder_cache(root, GROUP)))
    as_member(12002, lambda: publish(open_folder_cache(root), tensors={"new": b"new" * 100}, recipe=b"new"))
    store = LocalStore(root)
    assert {path.stat().st_uid for path in root.rglob("*") if path.is_file()} == {12001, 12002}

    def clean_up() -> None:
        for entry in list(store.list("blobs")):
            before = entry.modified
            os.utime(root / entry.key)  # as `touch` does: a member may restart the age of what another one made
            assert store.head(entry.key).modified >= before  # type: ignore[union-attr]
            assert store.delete(entry.key)

    as_member(12002, clean_up)
    as_member(12001, lambda: publish(open_folder_cache(root)))
    assert open_local(root).resolve(TINY) is not None

    def lock() -> None:
        with machine_lock(LocalStore(root).lock_file("aa"), 7, 1) as held:
            assert held

    as_member(12001, lock)
    as_member(12002, lock)


def open_folder_cache(root: Path, group: str | None = None):  # type: ignore[no-untyped-def]
    from ttbert.cache.cache import Cache

    return Cache(open_folder(root, group))


def test_who_may_write_in_the_folder_too_cannot_have_files_elsewhere_opened_to_others(tmp_path: Path) -> None:
    """By putting a link in the place of a file that is on its way."""
    secret = tmp_path / "secret"
    secret.write_text("mine")
    secret.chmod(0o600)
    root = tmp_path / "shared"
    root.mkdir()
    root.chmod(0o777)
    with LocalStore(root).draft("blobs/aa/one", 1) as draft:
        draft.write(b"1")
        (temporary,) = (root / "blobs/aa").iterdir()
        temporary.unlink()
        temporary.symlink_to(secret)
        with contextlib.suppress(CacheError):
            draft.publish()
    assert secret.stat().st_mode & 0o777 == 0o600 and secret.read_text() == "mine"
