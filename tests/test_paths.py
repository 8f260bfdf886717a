"""Paths that people name, and that are too long to be there, or lie where this user may not look: no error of Python's."""

from __future__ import annotations

import grp
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from users import as_nobody

from ttbert.cache.doctor import examine
from ttbert.cache.keys import find_signer, make_key, read_public_key
from ttbert.cache.stores.local import LocalStore, open_folder
from ttbert.convert.digests import recall_sha256
from ttbert.convert.wanted import Wanted, is_folder, open_source
from ttbert.errors import InputError, StoreReadOnly, UnreadableError
from ttbert.paths import is_file, is_there
from ttbert.paths import is_folder as leads_to_folder
from ttbert.squad.document import read_document

LONG = "x" * 5000


@pytest.fixture
def closed(shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with one more and a file in it, into which none but root may look."""
    folder = shared_folder / "closed"
    (folder / "inside").mkdir(parents=True)
    (folder / "file").write_bytes(b"")
    for variable in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(folder))
    make_key("default")
    folder.chmod(0)
    yield folder
    folder.chmod(0o755)


def test_a_path_is_seen_as_what_it_is_or_not_at_all(tmp_path: Path, closed: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    seen = [(is_there(path), leads_to_folder(path), is_file(path)) for path in (tmp_path, tmp_path / "file", tmp_path / "none")]
    assert seen == [(True, True, False), (True, False, True), (False, False, False)]
    with as_nobody():
        for path in (closed / "inside", closed / "file", Path(LONG), Path("nul\0")):
            assert not (is_there(path) or leads_to_folder(path) or is_file(path))


@pytest.mark.parametrize("use", [open_source, read_public_key, lambda text: read_document(Path(text))])
def test_what_is_too_long_or_may_not_be_looked_at_is_an_input_error(closed: Path, use: Callable[[str], object]) -> None:
    with pytest.raises(InputError):
        use("no/such/thing")  # now everything is imported, which others may not be able to do
    with as_nobody():
        for text in (LONG, f"./{LONG}", str(closed / "inside")):
            with pytest.raises(InputError) as caught:
                use(text)
            assert caught.value.hint


def test_a_user_who_does_not_exist_has_no_keys() -> None:
    with pytest.raises(InputError, match="cannot be found"):
        read_public_key("~nobody-of-this-name/key.pub")


def test_what_is_too_long_is_no_folder_and_has_a_name_of_the_hub() -> None:
    assert not is_folder(LONG) and Wanted(LONG).is_on_the_hub


def test_a_file_that_leads_where_this_user_may_not_look_is_told_when_it_is_read(shared_folder: Path, closed: Path) -> None:
    model = shared_folder / "model"
    model.mkdir()
    (model / "config.json").symlink_to(closed / "file")
    with as_nobody():
        source = open_source(str(model))
        assert set(source.files) == {"config.json"}
        with pytest.raises(UnreadableError, match="cannot be read"):
            source.read("config.json")


def test_a_key_that_may_not_be_looked_at_is_not_taken_for_none(closed: Path) -> None:
    with as_nobody():
        signer = find_signer(None)
        assert signer is not None
        with pytest.raises(InputError, match="cannot be read"):
            signer.sign(b"")


def test_digests_are_computed_where_notes_may_not_be_looked_at(shared_folder: Path, closed: Path) -> None:
    large = shared_folder / "large"
    with large.open("wb") as file:
        file.truncate(17 << 20)
    with as_nobody():
        assert recall_sha256(large) is None


def test_a_cache_where_nobody_may_look_is_examined_to_the_cause(closed: Path) -> None:
    with as_nobody():
        found = {check.name: check for check in examine(LocalStore(closed / "inside"))}
        assert (found["list"].state, found["list"].exit_code, found["write"].state) == ("failed", 9, "skipped")
        with pytest.raises(StoreReadOnly):
            list(open_folder(closed / "inside", grp.getgrgid(os.getegid()).gr_name).list())
