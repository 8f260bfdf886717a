"""`ttbert cache keygen | sign | trust | log` as people use them, and what trusted keys do to every command that loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from models import TINY, files, flip_bit, open_local, publish
from program import Done, imported, ttbert

from ttbert.cache.refs import Ref

Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs `ttbert` as somebody with folders of their own and one cache."""
    home = {name: str(tmp_path / name) for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME")}

    def run(*arguments: object, **extra: str) -> Done:
        return ttbert(*arguments, **{**home, "TTBERT_CACHE": str(tmp_path / "cache"), **extra})

    return run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A cache with one unsigned model."""
    publish(open_local(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_model_is_converted_signed_trusted_and_named(run: Run, tmp_path: Path) -> None:
    """The whole way of a publisher and of a reader who trusts nobody else."""
    folder = tiny.write(tmp_path / "mini", tiny.checkpoint())
    made = run("cache", "keygen").succeeded()
    assert "ssh-ed25519 AAAA" in made.out and "ttbert cache trust FILE" in made.err
    run("cache", "keygen").failed_at_once(2, "there is a key 'default' already")
    line = next(line for line in made.out.splitlines() if "ssh-ed25519" in line).strip()

    converted = run("convert", folder, "--offline").succeeded()
    assert "  signed    with the key 'default'" in converted.out

    reader = {"XDG_CONFIG_HOME": str(tmp_path / "reader"), "XDG_STATE_HOME": str(tmp_path / "reader-state")}
    assert "From now on" in run("cache", "trust", line, "--name", "lab", **reader).succeeded().err
    assert run("convert", folder, "--offline", "--json", **reader).succeeded().document["hit"] is True
    log = run("cache", "log", "mini", "--json", **reader).succeeded().document
    (entry,) = log["entries"]
    assert [each["name"] for each in entry["signed_by"]] == ["lab"] and entry["signed_by"][0]["trusted"] is True
    (row,) = run("cache", "ls", "--json", **reader).succeeded().document
    assert [each["name"] for each in row["signed_by"]] == ["lab"]
    assert "signed by     lab" in run("cache", "show", "mini", **reader).succeeded().out

    run("cache", "trust", "remove", "lab", **reader).succeeded()
    run("cache", "keygen", "other", **reader).succeeded()
    run("cache", "trust", "other", **reader).succeeded()
    before = files(tmp_path / "cache")
    done = run("demo", "--model", folder, "--offline", **reader)
    done.failed_at_once(8, "is not of a trusted publisher: it is signed by the key", "ttbert cache sign")
    assert files(tmp_path / "cache") == before


def test_every_command_that_loads_refuses_what_is_not_signed(run: Run, tmp_path: Path) -> None:
    """A model of the hub, found by its name: no socket is opened, and nothing is converted instead."""
    publish(open_local(tmp_path / "cache"), Ref("someone/tiny", "main", "bfp8"))
    run("cache", "keygen", "me").succeeded()
    run("cache", "trust", "me").succeeded()
    before = files(tmp_path / "cache")
    data = tmp_path / "squad.json"
    question = {"id": "1", "question": "Who?", "answers": [], "is_impossible": True}
    article = {"title": "t", "paragraphs": [{"context": "Somebody.", "qas": [question]}]}
    data.write_text(json.dumps({"version": "v2.0", "data": [article]}))
    for arguments in (
        ("demo", "--model", "someone/tiny", "--offline"),
        ("squad", "--model", "someone/tiny", "--offline", "--data", data),
        ("check", "someone/tiny", "--offline", "--board", "n150"),
    ):
        run(*arguments).failed(8, "someone/tiny@main:bfp8", "it is not signed", "ttbert cache sign")
    for arguments in (("info",), ("ls",), ("show", "someone/tiny"), ("verify",), ("gc", "--dry-run"), ("log", "someone/tiny")):
        run("cache", *arguments).succeeded()
    assert "nobody: unsigned" in run("cache", "show", "someone/tiny").out
    assert files(tmp_path / "cache") == before


def test_what_is_not_signed_is_neither_pulled_nor_pushed_nor_exported(run: Run, root: Path, tmp_path: Path) -> None:
    run("cache", "keygen").succeeded()
    run("cache", "trust", "default").succeeded()
    before = files(root)
    other = tmp_path / "other"
    run("cache", "pull", "tiny", "--local", other).failed_at_once(8, "it is not signed")
    run("cache", "push", "tiny", "--cache", other, "--local", root).failed_at_once(8, "it is not signed")
    run("cache", "export", "tiny", tmp_path / "files", "--layout", "tt-metal").failed_at_once(8, "it is not signed")
    assert not other.exists() and not (tmp_path / "files").exists() and files(root) == before
    run("cache", "sign", "tiny").succeeded()
    run("cache", "pull", "tiny", "--local", other).succeeded()
    run("cache", "push", "tiny", "--cache", tmp_path / "third", "--local", other).succeeded()
    assert [
        each["name"]
        for each in run("cache", "log", "tiny", "--cache", tmp_path / "third", "--json").document["entries"][0]["signed_by"]
    ]


def test_converting_without_a_trusted_key_stops_before_the_work(run: Run, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "mini", tiny.checkpoint())
    run("cache", "keygen", "me").succeeded()
    run("cache", "trust", "me").succeeded()
    run("convert", folder).failed_at_once(8, "there is no key to sign a conversion with", "keygen")
    run("cache", "keygen").succeeded()
    run("convert", folder).failed_at_once(8, "the key 'default' would sign", "ttbert cache trust default")
    run("convert", folder, "--sign-with", "nobody").failed_at_once(2, "the key 'nobody' cannot be read")
    assert not (tmp_path / "cache").exists()


def test_a_machine_that_only_reads_is_not_asked_for_a_key_first(run: Run, root: Path, tmp_path: Path) -> None:
    """It would be told to make one, and to have it trusted, and then that it may not publish all the same."""
    folder = tiny.write(tmp_path / "mini", tiny.checkpoint())
    run("convert", folder, "--policy", "bf16").succeeded()
    run("cache", "keygen", "me").succeeded()
    run("cache", "sign", "mini", "--sign-with", "me").succeeded()
    run("cache", "trust", "me").succeeded()
    before = files(root)
    for arguments in (("convert", folder), ("convert", folder, "--policy", "bf16", "--name", "another")):
        run(*arguments, "--read-only").failed_at_once(9, "for reading only")
        run(*arguments).failed_at_once(8, "there is no key to sign a conversion with")
    run("convert", folder, "--policy", "bf16", "--read-only").succeeded()
    assert {key for key in files(root).keys() ^ before.keys() if not key.startswith("used/")} == set()


def test_sign_signs_what_is_there(run: Run, root: Path) -> None:
    run("cache", "sign", "tiny").failed_at_once(2, "there is no key to sign with", "ttbert cache keygen")
    run("cache", "keygen").succeeded()
    run("cache", "sign", "nothing").failed_at_once(2, "no model in the cache is called 'nothing'")
    done = run("cache", "sign", "tiny").succeeded()
    assert f"signed {TINY} with the key 'default'" in done.out and "someone/tiny@" in done.out
    assert run("cache", "sign", "tiny", "--json").succeeded().document["ref"] == str(TINY)
    run("cache", "keygen", "second").succeeded()
    run("cache", "sign", "tiny", TTBERT_SIGN_WITH="second").succeeded()
    names = {each["name"] for each in run("cache", "ls", "--json").document[0]["signed_by"]}
    assert names == {"default", "second"}


def test_a_signed_model_is_pushed_by_a_machine_without_a_key(run: Run, root: Path, tmp_path: Path) -> None:
    line = run("cache", "keygen", "--json").succeeded().document["line"]
    run("cache", "sign", "tiny").succeeded()
    other = {"XDG_CONFIG_HOME": str(tmp_path / "other"), "XDG_STATE_HOME": str(tmp_path / "other-state")}
    run("cache", "trust", line, "--name", "lab", **other).succeeded()
    far = tmp_path / "far"
    run("cache", "push", "tiny", "--cache", far, "--local", root, **other).succeeded()
    (row,) = run("cache", "ls", "--json", "--cache", far, **other).succeeded().document
    assert [each["name"] for each in row["signed_by"]] == ["lab"]
    pulled = run("cache", "pull", "tiny", "--cache", far, "--local", tmp_path / "third", "--json", **other).succeeded()
    assert pulled.document["manifest"] == row["manifest"]


def test_verify_tells_of_a_signature_that_is_none(run: Run, root: Path) -> None:
    run("cache", "keygen").succeeded()
    run("cache", "sign", "tiny").succeeded()
    assert "10 objects" in run("cache", "verify").succeeded().out
    path = next(path for path in (root / "signatures/manifest").rglob("*") if path.is_file())
    flip_bit(path)
    done = run("cache", "verify", "tiny")
    assert done.exit_code == 7 and "is no signature of the manifest" in done.out and "whose owner can sign it again" in done.out
    assert "moved to quarantine/signatures_manifest" in run("cache", "verify", "--repair").out
    run("cache", "sign", "tiny").succeeded()
    run("cache", "verify").succeeded()


def test_log_shows_what_a_name_meant_and_that_it_was_removed(run: Run, root: Path) -> None:
    publish(open_local(root), TINY, {"embeddings": b"n" * 100}, b"newer recipe")
    run("cache", "rm", "tiny", "--yes").succeeded()
    lines = run("cache", "log", "tiny").succeeded().out.splitlines()
    assert lines[0].split() == ["entry", "from", "manifest", "commit", "signed", "by"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "3"]
    assert "unsigned" in lines[1] and "0123456789ab" in lines[1] and "removed" in lines[3]
    document = run("cache", "log", "tiny", "--json").succeeded().document
    assert document["ref"] == str(TINY) and [each["manifest"] is None for each in document["entries"]] == [False, False, True]
    run("cache", "log", "nothing").failed_at_once(2, "is or was called 'nothing'", "ttbert cache ls")


def test_log_shows_a_history_that_does_not_hold_together(run: Run, root: Path) -> None:
    for number in (1, 2):
        publish(open_local(root), TINY, {"embeddings": bytes([number]) * 100}, b"recipe %d" % number)
    (root / TINY.folder / "00000002").unlink()
    (root / TINY.folder / "00000001").write_bytes(b"rubbish")
    out = run("cache", "log", "tiny").succeeded().out
    assert "not a document of ttbert" in out and "does not follow the entry before it" in out


def test_a_name_that_was_rolled_back_is_refused_until_it_is_accepted(run: Run, root: Path, tmp_path: Path) -> None:
    ref = Ref("someone/tiny", "main", "bfp8")
    for number in (1, 2):
        publish(open_local(root), ref, {"embeddings": bytes([number]) * 100}, b"recipe %d" % number)
    run("cache", "keygen").succeeded()
    run("cache", "trust", "default").succeeded()
    run("cache", "sign", "someone/tiny").succeeded()
    content = (root / ref.folder / "00000002").read_bytes()
    look = ("convert", "someone/tiny", "--offline")
    run(*look).succeeded()
    assert "last used here" in run("cache", "log", "someone/tiny").succeeded().out
    (root / ref.folder / "00000002").unlink()
    run("cache", "sign", "someone/tiny").failed_at_once(8, "was rolled back", "ttbert cache log")
    (root / ref.folder / "00000002").write_bytes(content)
    run(*look).succeeded()
    (root / ref.folder / "00000002").unlink()
    run("cache", "log", "someone/tiny", "--accept").succeeded()
    run("cache", "sign", "someone/tiny").succeeded()
    run(*look).succeeded()


def test_without_trusted_keys_a_rollback_is_a_line_of_warning(run: Run, root: Path) -> None:
    ref = Ref("someone/tiny", "main", "bfp8")
    for number in (1, 2):
        publish(open_local(root), ref, {"embeddings": bytes([number]) * 100}, b"recipe %d" % number)
    look = ("convert", "someone/tiny", "--offline", "--json")
    assert "warning" not in run(*look).succeeded().err
    (root / ref.folder / "00000002").unlink()
    done = run(*look).succeeded()
    assert "warning: someone/tiny@main:bfp8: its history has 1 entry, and had 2" in done.err and done.document["hit"]
    assert "warning" not in run(*look).succeeded().err


def test_trust_lists_and_removes(run: Run, tmp_path: Path) -> None:
    assert "signatures are not required" in run("cache", "trust", "list").succeeded().out
    assert "signatures   not required" in run("cache", "info").succeeded().out
    key = run("cache", "keygen", "me", "--json").succeeded().document
    added = run("cache", "trust", "add", key["public"], "--name", "them", "--json").succeeded().document
    assert added == {"name": "them", "key": key["key"]}
    out = run("cache", "trust", "list").succeeded().out
    assert f"{key['key']}  them  trusted" in out and f"{key['key']}  me    your own" in out
    document = run("cache", "trust", "list", "--json").succeeded().document
    assert document["required"] is True and document["trusted"] == [added]
    assert "signatures   required, of them" in run("cache", "info").succeeded().out
    assert run("cache", "info", "--json").succeeded().document["trusted_keys"] == ["them"]
    again = ("cache", "trust", "add", key["public"])
    assert "trusted: them" in run(*again).succeeded().out and "trusted: them" in run(*again, "--name", "them").succeeded().out
    run(*again, "--name", "bob").failed_at_once(2, "trusted already, as 'them'", "trust remove them")
    run("cache", "trust", "remove", "nobody").failed_at_once(2, "no trusted key is called 'nobody'", "trust list")
    assert "not required" in run("cache", "trust", "remove", "them").succeeded().err
    run("cache", "trust", "rubbish").failed_at_once(2, "rubbish cannot be read", "ssh-ed25519")
    assert run("cache", "trust", "list", TTBERT_TRUST=str(tmp_path)).succeeded().out.count("them") == 0


def test_a_folder_of_keys_that_cannot_be_made_is_exit_code_9(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    run("cache", "keygen", XDG_CONFIG_HOME=str(tmp_path / "file")).failed_at_once(9, str(tmp_path / "file"))


def test_looking_at_an_unsigned_cache_needs_no_cryptography(run: Run, root: Path) -> None:
    for arguments in (("cache", "ls", "--json"), ("cache", "log", "tiny"), ("cache", "verify"), ("cache", "trust", "list")):
        done = run(*arguments, PYTHONPROFILEIMPORTTIME="1")
        assert done.exit_code == 0
        assert not {name.partition(".")[0] for name in imported(done)} & {"cryptography", "torch", "ttnn", "numpy", "fsspec"}


@pytest.mark.parametrize("arguments", [("keygen",), ("sign",), ("trust",), ("trust", "add"), ("trust", "list"), ("log",)])
def test_every_command_has_help_with_an_example(run: Run, arguments: tuple[str, ...]) -> None:
    assert f"\n  ttbert cache {' '.join(arguments)}" in run("cache", *arguments, "--help").succeeded().out
    assert arguments[0] in run("cache", "--help").succeeded().out
