"""`ttbert cache ...` as people and scripts use it: what it says, what it leaves with, and what it does not do unasked."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from models import (
    COMMIT,
    DAY,
    OTHER,
    OTHER_TENSORS,
    TENSORS,
    TINY,
    age,
    blob_path,
    build,
    files,
    flip_bit,
    open_local,
    publish,
    publish_other,
)
from program import Done, command, environment, ttbert

from ttbert.cache.cache import blob_key, manifest_key
from ttbert.cache.digest import blake3_of
from ttbert.cache.lease import leased
from ttbert.cache.refs import Ref, entry_key
from ttbert.errors import CheckpointError

COMMANDS = [("info",), ("ls",), ("show", "tiny"), ("verify",), ("rm", "tiny", "--yes"), ("gc", "--yes")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A cache with two models that share a tensor and two files."""
    root = tmp_path / "cache"
    publish(open_local(root))
    publish_other(open_local(root))
    return root


def run(root: Path | str, *arguments: object, **extra: str) -> Done:
    return ttbert("cache", *arguments, TTBERT_CACHE=str(root), **extra)


def run_with_input(root: Path, text: str | None, *arguments: object) -> Done:
    """Run with that typed on stdin, which is closed altogether for None; it must not wait for more."""
    closed = ["sh", "-c", 'exec "$@" <&-', "sh"] if text is None else []
    done = subprocess.run(
        [*closed, *command("cache", *arguments)],
        env=environment(TTBERT_CACHE=str(root)),
        input=None if text is None else text.encode(),
        capture_output=True,
        timeout=60,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


# Root may look into every folder. The program is imported first, since it may lie in one of those.
AS_NOBODY = """
import os
import tqdm, ttbert.cache.verify, ttbert.cli
if os.geteuid() == 0:
    os.setegid(65534)
    os.seteuid(65534)
ttbert.cli.main()
"""


# info


def test_info_says_where_the_cache_is_and_what_is_in_it(root: Path) -> None:
    done = run(root, "info").succeeded()
    assert str(root) in done.out and "TTBERT_CACHE" in done.out
    assert "models       2" in done.out and "blobs        6, 10.0 kB" in done.out and "free" in done.out
    document = run(root, "info", "--json").succeeded().document
    assert (document["cache"], document["chosen_by"]) == (str(root), "TTBERT_CACHE")
    assert (document["models"], document["blobs"], document["quarantined"], document["left_behind"]) == (2, 6, 0, 0)
    assert document["creates_atomically"] is True and document["bytes_free"] > 0
    assert document["bytes"] == sum(map(len, files(root).values()))


def test_info_puts_all_that_is_stored_in_one_column(root: Path) -> None:
    (root / "mine").mkdir()
    (root / "mine/notes").write_bytes(bytes(2000))
    damaged = blob_path(root, TENSORS["layer"])
    open_local(root).store.quarantine(f"blobs/{damaged.parent.name}/{damaged.name}")
    out = run(root, "info").succeeded().out
    assert all(line[12] == " " and line[13] != " " and line[0] != " " for line in out.splitlines()), out
    assert "mine         1, 2.0 kB" in out and out.count("quarantine") == 1 and "1 object, 2.0 kB" in out
    assert "[default: ~/.cache/ttbert]" in run(root, "info", "--help").succeeded().out


def test_the_option_beats_the_environment_and_that_the_default(root: Path, tmp_path: Path) -> None:
    option = ttbert("cache", "info", "--json", "--cache", root, TTBERT_CACHE=str(tmp_path / "other")).document
    default = ttbert("cache", "info", "--json", XDG_CACHE_HOME=str(tmp_path / "home")).document
    assert (option["cache"], option["chosen_by"]) == (str(root), "--cache")
    assert (default["cache"], default["chosen_by"]) == (str(tmp_path / "home/ttbert"), "default")
    assert default["models"] == 0 and not (tmp_path / "home").exists()


def test_info_of_a_store_that_promises_less_says_so() -> None:
    done = run("memory://x", "info").succeeded()
    assert "not exactly once" in done.out and "free" not in done.out


def test_a_limit_that_is_not_reached_says_how_a_model_goes_all_the_same(root: Path) -> None:
    done = run(root, "gc", "--max-size", "1kB", "--grace", "0", "--dry-run").succeeded()
    assert "above the limit: what is left was used today" in done.out and "`ttbert cache rm REF` forgets" in done.out


def test_the_folder_above_a_cache_is_none(root: Path) -> None:
    run(root.parent, "verify").failed_at_once(6, f"there is no cache in {root.parent}", "slip of the pen")
    assert f"there is no cache in {root.parent} yet" in run(root.parent, "ls").succeeded().err


@pytest.mark.parametrize("command", [("info",), ("ls",), ("gc", "--dry-run")])
def test_a_cache_that_is_not_there_is_told_of(command: tuple[str, ...], root: Path, tmp_path: Path) -> None:
    place = tmp_path / "not mounted"
    assert f"there is no cache in {place} yet" in run(place, *command).succeeded().err
    assert run(place, *command, "--json").succeeded().err.startswith("note:") and not place.exists()
    assert run(root, *command).succeeded().err == ""


def test_info_knows_a_folder_that_cannot_be_written_to(small_disk: Path) -> None:
    assert "may publish  yes" in run(small_disk / "cache", "info").succeeded().out
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert f"may publish  no: {small_disk} cannot be written to" in run(small_disk / "cache", "info").succeeded().out


# ls and show


def test_ls_tells_sizes_and_what_is_shared(root: Path) -> None:
    lines = run(root, "ls").succeeded().out.splitlines()
    assert lines[0].split() == ["model", "manifest", "size", "own", "converted", "state"]
    assert lines[1].split()[0] == str(TINY) and "6.0 kB  3.0 kB" in lines[1] and lines[1].endswith("complete")
    assert lines[2].split()[0] == str(OTHER) and "7.0 kB  4.0 kB" in lines[2] and lines[2].endswith("complete")
    rows = run(root, "ls", "--json").succeeded().document
    assert [(row["ref"], row["bytes"], row["own_bytes"], row["state"]) for row in rows] == [
        (str(TINY), 6021, 3000, "complete"),
        (str(OTHER), 7021, 4000, "complete"),
    ]


def test_a_file_that_is_to_be_written_in_ten_thousand_years_is_listed(small_disk: Path) -> None:
    """As whoever may write to a shared folder can say; on btrfs, ZFS and tmpfs it is kept."""
    root = small_disk / "cache"
    cache = open_local(root)
    publish(cache)
    (entry,) = cache.store.list("refs")
    os.utime(root / entry.key, (1e12, 1e12))
    assert [row["last_used"] for row in run(root, "ls", "--json").succeeded().document] == ["9999-12-31"]
    run(root, "show", "tiny").succeeded()
    run(root, "gc", "--max-size", "0", "--yes").succeeded()


def test_ls_sorts(root: Path) -> None:
    assert [row["ref"] for row in run(root, "ls", "--sort", "size", "--json").document] == [str(OTHER), str(TINY)]
    assert len(run(root, "ls", "--sort", "age", "--json").document) == 2


def test_ls_shows_what_is_not_whole(root: Path) -> None:
    blob_path(root, OTHER_TENSORS["other"]).unlink()
    (entry,) = open_local(root).store.list(TINY.folder)
    flip_bit(root / entry.key, 2)
    tiny, other = run(root, "ls", "--json").succeeded().document
    assert other["state"] == "missing or of a wrong size: other"
    assert entry.key in tiny["state"]
    assert str(TINY) in run(root, "ls").succeeded().out


@pytest.mark.parametrize("exists", [True, False], ids=["empty", "missing"])
def test_an_empty_or_missing_cache_is_no_error_and_is_not_made(tmp_path: Path, exists: bool) -> None:
    root = tmp_path / "cache"
    if exists:
        root.mkdir()
    ls = run(root, "ls").succeeded()
    assert "is empty" in ls.out and "ttbert convert bundled" in ls.out and str(root) in ls.out
    assert run(root, "ls", "--json").succeeded().document == []
    assert "models       0" in run(root, "info").succeeded().out
    for how in ((), ("--fast",), ("--repair",)):
        run(root, "verify", *how).failed_at_once(6, f"there is no cache in {root}", "mounted")
    for verb in (("show", "x"), ("log", "x"), ("rm", "x", "--yes"), ("verify", "x")):
        run(root, *verb).failed_at_once(6, f"there is no cache in {root}", "mounted")
    assert "nothing to delete" in run(root, "gc").succeeded().out
    assert run(root, "gc", "--json").succeeded().document["condemn"] == []
    assert root.exists() is exists


def test_show_tells_provenance_and_tensors(root: Path) -> None:
    out = run(root, "show", "tiny").succeeded().out
    manifest = open_local(root).resolve(TINY)
    assert manifest is not None
    for text in (
        str(TINY),
        str(manifest.digest),
        str(manifest.manifest.action),
        f"someone/tiny@{COMMIT[:12]}",
        "model.safetensors",
        "bfloat8_b",
        "32 x 32",
        "3,000",
        "tokenizer.json",
        "ttbert 0",
        "6.0 kB, of which 3.0 kB are of this model alone",
    ):
        assert text in out, text
    document = run(root, "show", "tiny", "--json").succeeded().document
    assert document["provenance"]["commit"] == COMMIT and [each["name"] for each in document["packs"]] == list(TENSORS)
    assert document["manifest"] == str(manifest.digest)


def test_show_takes_a_digest(root: Path) -> None:
    cached = open_local(root).resolve(OTHER)
    assert cached is not None
    assert run(root, "show", cached.digest.short, "--json").document["ref"] == str(OTHER)


@pytest.mark.parametrize("verb", ["show", "verify", "rm"])
def test_an_unknown_name_is_exit_code_2(root: Path, verb: str) -> None:
    run(root, verb, "nothing").failed_at_once(2, "no model in the cache is called 'nothing'", "ttbert cache ls")
    run(root, verb, "not a name").failed_at_once(2, "is not a ref")


def test_a_digest_that_is_too_short_is_said_to_be(root: Path) -> None:
    cached = open_local(root).resolve(OTHER)
    assert cached is not None
    run(root, "show", cached.digest.hex[:3]).failed_at_once(2, "no model in the cache", "4 characters")


def test_an_ambiguous_name_is_exit_code_2(root: Path) -> None:
    publish(open_local(root), Ref("someone/other", "v2", "bfp8"))
    run(root, "show", "someone/other").failed_at_once(2, f"{OTHER}, someone/other@v2:bfp8", "whole name")


def test_show_of_a_damaged_model_is_exit_code_7(root: Path) -> None:
    cached = open_local(root).resolve(TINY)
    assert cached is not None
    flip_bit(root / manifest_key(cached.digest))
    run(root, "show", "tiny").failed_at_once(7, "is damaged", "ttbert cache verify")
    run(root, "show", cached.digest.short).failed_at_once(7, "is damaged")


def test_errors_are_json_too_where_json_is_asked_for(root: Path) -> None:
    done = run(root, "show", "nothing", "--json")
    assert done.exit_code == 2 and done.document["error"]["kind"] == "InputError" and done.document["error"]["exit_code"] == 2


# verify


def test_verify_of_a_sound_cache(root: Path) -> None:
    assert "12 objects" in run(root, "verify").succeeded().out
    assert "8 objects" in run(root, "verify", "tiny").succeeded().out


def test_verify_of_damage_is_exit_code_7_and_repair_keeps_the_bytes(root: Path) -> None:
    damaged = flip_bit(blob_path(root, TENSORS["embeddings"]))
    blob_path(root, OTHER_TENSORS["other"]).unlink()
    before = files(root)
    done = run(root, "verify")
    assert done.exit_code == 7 and "Traceback" not in done.err and "--repair" in done.err
    key = blob_key(blake3_of(TENSORS["embeddings"]))
    assert f"{key}: its digest is blake3:" in done.out and f"needed by {TINY}, {OTHER}" in done.out
    assert f"missing, needed by {OTHER}" in done.out and "2 wrong" in done.out
    assert files(root) == before

    assert run(root, "verify", "tiny").exit_code == 7
    repaired = run(root, "verify", "--repair", "--json")
    assert repaired.exit_code == 7 and repaired.document["sound"] is False
    moved = {finding["key"]: finding["moved"] for finding in repaired.document["findings"]}
    assert (root / moved[key]).read_bytes() == damaged and len(files(root)) == len(before)
    assert run(root, "verify").exit_code == 7, "a model that lacks a blob is not whole"
    publish(open_local(root))
    publish(open_local(root), OTHER, OTHER_TENSORS, b"other recipe", "someone/other")
    run(root, "verify").succeeded()


def test_verify_fast_looks_at_sizes_and_reads_no_blob(root: Path) -> None:
    assert "12 objects" in run(root, "verify", "--fast").succeeded().out
    flip_bit(blob_path(root, TENSORS["layer"]))
    assert run(root, "verify", "--fast", "--json").succeeded().document["fast"] is True, "it does not see a changed bit"
    path = blob_path(root, TENSORS["embeddings"])
    path.write_bytes(path.read_bytes()[:-1])
    blob_path(root, OTHER_TENSORS["other"]).unlink()
    before = files(root)
    done = run(root, "verify", "--fast")
    assert done.exit_code == 7 and "it has 2,999 bytes, not 3,000" in done.out and f"needed by {TINY}, {OTHER}" in done.out
    assert f"missing, needed by {OTHER}" in done.out and "2 wrong" in done.out and files(root) == before
    run(root, "verify", "--fast", "--repair").failed_at_once(2, "nothing to repair")


def test_what_is_missing_is_made_anew_without_a_repair(root: Path) -> None:
    blob_path(root, OTHER_TENSORS["other"]).unlink()
    done = run(root, "verify")
    assert done.exit_code == 7 and "1 wrong" in done.out and "--repair" not in done.err
    assert "ttbert convert someone/other" in done.err and "someone/tiny" not in done.err


def test_verify_says_what_a_damaged_entry_of_a_name_means_and_what_mends_it(root: Path) -> None:
    (only,) = open_local(root).store.list(TINY.folder)
    flip_bit(root / only.key, 3)
    for how in ((), ("--fast",), ("--repair",)):
        done = run(root, "verify", *how)
        assert (
            done.exit_code == 7
            and f"{only.key}: " in done.out
            and f", needed by {TINY}\n" in done.out
            and "1 wrong" in done.out
        )
        assert f"  {TINY} cannot be used until it is converted again, or forgotten by `ttbert cache rm {TINY}`\n" in done.out
        assert f"  ttbert convert MODEL --policy bfp8 --name {TINY.name} --cache {root} --no-local\n" in done.err
    done = ttbert("cache", "verify", "--cache", root)
    assert f"or forgotten by `ttbert cache rm {TINY} --cache {root}`\n" in done.out
    run(root, "rm", "tiny", "--yes").succeeded()
    assert "all sound" in run(root, "verify").succeeded().out

    run(root, "rm", "other", "--yes").succeeded()
    (root / OTHER.folder / "00000001").unlink()
    document = run(root, "verify", "--json").succeeded().document
    (finding,) = document["findings"]
    assert document["sound"] is True and (finding["key"], finding["exit_code"]) == (f"{OTHER.folder}/00000001", 0)
    assert f"see `ttbert cache log {OTHER}`" in finding["advice"] and document["convert"] == []
    assert "all sound" in run(root, "verify").succeeded().out


def test_verify_names_the_commands_that_make_anew_what_was_moved_away(root: Path) -> None:
    flip_bit(blob_path(root, TENSORS["embeddings"]))
    commands = [
        f"ttbert convert someone/tiny --policy bfp8 --cache {root} --no-local",
        f"ttbert convert someone/other --policy bfp8 --revision main --cache {root} --no-local",
    ]
    done = run(root, "verify", "--repair")
    assert done.exit_code == 7 and [line.strip() for line in done.err.splitlines() if line.startswith("  ")] == commands
    assert run(root, "verify", "--json").document["convert"] == commands
    elsewhere = ttbert("cache", "verify", "--json", "--read-only", "--cache", root, TTBERT_CACHE=str(root / "another"))
    assert elsewhere.document["convert"] == commands, "the cache is named that was looked at"


def test_repair_puts_back_what_the_local_tier_has_a_sound_copy_of(root: Path, tmp_path: Path) -> None:
    local = tmp_path / "local"
    shutil.copytree(root, local)
    for content in TENSORS.values():
        flip_bit(blob_path(root, content))
    cached = open_local(root).resolve(TINY)
    assert cached is not None
    (root / manifest_key(cached.digest)).unlink()
    flip_bit(blob_path(local, TENSORS["head"]))
    before = files(local)
    done = run(root, "verify", "--repair", "--local", local)
    assert done.exit_code == 7 and done.out.count("restored from the local tier") == 3 and files(local) == before
    assert done.out.count("moved to quarantine/") == 3
    again = run(root, "verify", "--repair", "--local", local, "--json")
    (finding,) = again.document["findings"]
    assert finding["key"] == blob_key(blake3_of(TENSORS["head"])) and not finding["restored"]
    command = f"ttbert convert someone/tiny --policy bfp8 --cache {root} --local {local}"
    assert again.exit_code == 7 and again.document["convert"] == [command]
    publish(open_local(root))
    run(root, "verify").succeeded()


# What to do next


def test_commands_that_are_advised_mean_the_same_cache(tmp_path: Path) -> None:
    there, absent = tmp_path / "cache", tmp_path / "no such"
    publish(open_local(there))
    ttbert("cache", "verify", "--cache", absent).failed(6, f"see `ttbert cache info --cache '{absent}'`;")
    ttbert("cache", "rm", "none", "--cache", there).failed(2, f"see `ttbert cache ls --cache {there}`;")
    done = ttbert("cache", "show", "none", "--json", "--cache", there)
    assert f"`ttbert cache ls --cache {there}`" in done.document["error"]["hint"]
    done = ttbert("cache", "rm", "tiny", "--yes", "--cache", there).succeeded()
    assert f"`ttbert cache gc --cache {there}` then frees" in done.out


def test_commands_that_are_advised_mean_the_same_local_tier_where_they_take_one(tmp_path: Path) -> None:
    cache, local = tmp_path / "cache", tmp_path / "local"
    publish(open_local(cache))
    flip_bit(blob_path(cache, TENSORS["head"]))
    done = ttbert("cache", "pull", "tiny", "--cache", cache, "--local", local)
    done.failed(
        7,
        f"`ttbert cache verify --repair --cache {cache} --local {local}`",
        f"`ttbert cache pull REF --cache {cache} --local {local}`",
    )


def test_verify_names_the_command_that_repairs(tmp_path: Path) -> None:
    cache = tmp_path / "the lab's"
    publish(open_local(cache))
    flip_bit(blob_path(cache, TENSORS["head"]))
    done = ttbert("cache", "verify", "--cache", cache)
    (advised,) = re.findall(r"^hint: `(ttbert cache verify .*)` moves", done.err, re.MULTILINE)
    assert done.exit_code == 7 and shlex.split(advised) == ["ttbert", "cache", "verify", "--repair", "--cache", str(cache)]


def test_what_is_advised_on_damage_means_the_same_cache_too(root: Path) -> None:
    (root / entry_key(TINY, 1)).write_bytes(b"nonsense")
    for how in ([], ["--fast"], ["--json"]):
        assert f"`ttbert cache rm {TINY} --cache {root}`" in ttbert("cache", "verify", *how, "--cache", root).out


def test_what_is_to_be_pushed_is_listed_where_it_is_looked_for(root: Path, tmp_path: Path) -> None:
    publish(open_local(tmp_path / "local"))
    done = ttbert("cache", "push", "none", "--cache", root, "--local", tmp_path / "local")
    done.failed(2, f"see `ttbert cache ls --cache {tmp_path / 'local'}`;")


def test_what_was_not_said_is_not_repeated(root: Path) -> None:
    run(root, "rm", "none").failed(2, "see `ttbert cache ls`;")


# rm


def test_rm_forgets_the_name_and_keeps_the_bytes(root: Path) -> None:
    before = {key for key in files(root) if not key.startswith("refs/")}
    done = run(root, "rm", "tiny", "--yes").succeeded()
    assert done.out == f"forgot {TINY}; `ttbert cache gc` then frees 3.0 kB\n" and done.err == ""
    assert {key for key in files(root) if not key.startswith("refs/")} == before
    assert [row["ref"] for row in run(root, "ls", "--json").document] == [str(OTHER)]
    run(root, "rm", "tiny", "--yes").failed_at_once(2, "no model in the cache")


def test_rm_can_be_tried_first(root: Path) -> None:
    before = files(root)
    done = run(root, "rm", "tiny", "--dry-run").succeeded()
    assert "ttbert cache gc" in done.err and "forgot" not in done.out
    assert run(root, "rm", "tiny", "--dry-run", "--json").succeeded().document == {
        "ref": str(TINY),
        "removed": False,
        "bytes_freed_by_gc": 3000,
    }
    assert files(root) == before
    assert run(root, "rm", "tiny", "--yes", "--json").succeeded().document["removed"] is True


def test_rm_promises_nothing_that_it_cannot_do(root: Path) -> None:
    run(root, "rm", "tiny", "--yes", TTBERT_READ_ONLY="1").failed_at_once(9, "for reading only")


def test_rm_of_a_damaged_model_works(root: Path) -> None:
    """It is the way out that gc and verify name."""
    (entry,) = open_local(root).store.list(TINY.folder)
    flip_bit(root / entry.key, 2)
    refused = run(root, "gc", "--yes")
    assert refused.exit_code == 7 and f"`ttbert cache rm {TINY}`" in refused.err and "nothing to delete" in refused.out
    run(root, "rm", TINY, "--yes").succeeded()
    run(root, "gc", "--dry-run").succeeded()


# gc


def test_gc_plans_in_words_condemns_and_deletes_what_nothing_needs_a_day_later(root: Path) -> None:
    open_local(root).remove_ref(TINY)
    before = files(root)
    plan = run(root, "gc", "--dry-run").succeeded()
    assert f"someone/tiny@{COMMIT[:12]}:bfp8, to which no name leads" in plan.out
    assert "condemn now" in plan.out and "4 objects," in plan.out and files(root) == before
    first = run(root, "gc").succeeded()
    assert "condemn now" in first.out and "Delete" not in first.err, "condemning changes nothing that anybody would miss"
    assert before.items() <= files(root).items()
    young = run(root, "gc", "--yes").succeeded()
    assert "condemned already, and not yet for long enough: 4 objects" in young.out and "nothing to delete" in young.out
    age(root)
    document = run(root, "gc", "--dry-run", "--json").succeeded().document
    assert document["dry_run"] is True and document["freed"] == 0
    assert "delete now: 4 objects," in run(root, "gc", "--dry-run").out
    done = run(root, "gc", "--yes").succeeded()
    assert "freed 5.5 kB" in done.out
    gone = {key for key in before.keys() - files(root).keys() if not key.startswith("used/")}
    assert gone == {each["key"] for each in document["delete"]} and len(gone) == 4
    assert not (root / "gc").exists()
    run(root, "verify").succeeded()


def test_gc_gives_up_models_by_age_and_by_size(root: Path) -> None:
    age(root, 40 * DAY)
    plan = run(root, "gc", "--dry-run", "--max-size", "10kB", "--json").succeeded().document
    assert len(plan["give_up"]) == 1 and plan["bytes_over_limit"] == 0
    old = run(root, "gc", "--older-than", "30d", "--json").succeeded().document
    assert old["give_up"] == [str(TINY), str(OTHER)]
    assert run(root, "show", "tiny").exit_code == 0
    age(root)
    assert "delete now: 10 objects" in run(root, "gc", "tiny", "other", "--yes").succeeded().out
    assert {key.split("/")[0] for key in files(root)} == {"refs"} and run(root, "ls", "--json").document == []


def test_gc_with_a_name_touches_nothing_else(root: Path) -> None:
    age(root, 40 * DAY)
    run(root, "gc", "tiny", "--older-than", "30d", "--grace", "0", "--yes").succeeded()
    assert [row["ref"] for row in run(root, "ls", "--json").document] == [str(OTHER)]
    run(root, "verify").succeeded()


def test_gc_says_why_it_deleted_less_than_it_meant_to(root: Path) -> None:
    run(root, "rm", "tiny", "--yes").succeeded()
    age(root, DAY)
    work = blake3_of(b"a conversion")
    with leased(open_local(root).store, work, lambda: None):
        done = run(root, "gc", "--grace", "0", "--yes").succeeded()
        assert "warning: stopped deleting" in done.err and "somebody is converting" in done.err
        assert "delete now: " in done.out and done.out.endswith("freed 0 B\n")
    with pytest.raises(CheckpointError), leased(open_local(root).store, work, lambda: None, final=CheckpointError):
        raise CheckpointError("it cannot be done")
    done = run(root, "gc", "--grace", "0", "--yes").succeeded()
    assert "freed 0 B" not in done.out and "warning" not in done.err


def test_gc_takes_another_grace_and_the_quarantine(root: Path) -> None:
    flip_bit(blob_path(root, TENSORS["layer"]))
    run(root, "verify", "--repair")
    publish(open_local(root))
    assert run(root, "gc", "--grace", "0", "--yes", "--json").document["delete"] == []
    done = run(root, "gc", "--grace", "0", "--quarantined", "--yes", "--json").succeeded().document
    assert [each["reason"] for each in done["delete"]] == ["in quarantine"] and done["freed"] == 2000


@pytest.mark.parametrize(
    "arguments",
    [
        ("--grace", "-1"),
        ("--grace", "nan"),
        ("--grace", "inf"),
        ("--grace", "1e99"),
        ("--grace", "9" * 400 + "d"),
        ("--older-than", ""),
        ("--older-than", "30 fortnights"),
        ("--max-size", "nan"),
        ("--max-size", "-5GB"),
        ("--max-size", "5XB"),
        ("--keep-last", "0"),
    ],
    ids=" ".join,
)
def test_gc_refuses_what_is_no_size_and_no_time(root: Path, arguments: tuple[str, ...]) -> None:
    before = files(root)
    done = run(root, "gc", "--yes", *arguments)
    assert done.exit_code == 2 and "Traceback" not in done.err and files(root) == before


# Asking


@pytest.mark.parametrize("arguments", [("rm", "tiny"), ("gc",), ("rm", "tiny", "--json"), ("gc", "--json")], ids=" ".join)
def test_without_an_answer_nothing_is_changed_and_nobody_waits(root: Path, arguments: tuple[str, ...]) -> None:
    cache = open_local(root)
    cache.remove_ref(OTHER)
    run(root, "gc").succeeded()
    age(root)
    before = files(root)
    for text in ("", None):
        done = run_with_input(root, text, *arguments)
        assert done.exit_code == 2 and "nobody is there to answer" in done.err and "--yes" in done.err
        assert "Traceback" not in done.err and "failed in a way" not in done.err
        if "--json" in arguments:
            assert done.document["error"]["exit_code"] == 2
        assert "frees" in done.err or "delete now" in done.err + done.out, "it asks without saying what for"
    done = run_with_input(root, "n\n", *arguments)
    assert f" {root}? [y/N]" in done.err, "of which cache, when the user's usual one is the lab's"
    assert done.exit_code == 1 and "nothing was changed" in done.err and "interrupted" not in done.err
    assert files(root) == before


def test_yes_is_an_answer(root: Path) -> None:
    assert run_with_input(root, "y\n", "rm", "tiny").exit_code == 0
    run(root, "gc").succeeded()
    age(root)
    assert run_with_input(root, "y\n", "gc").exit_code == 0
    assert not blob_path(root, TENSORS["layer"]).exists()


# Caches that are none


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
def test_a_file_is_no_cache(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(b"mine")
    run(file, *arguments).failed_at_once(5, f"{file} is a file", "TTBERT_CACHE")
    assert file.read_bytes() == b"mine"


@pytest.mark.parametrize(
    "url,exit_code,says",
    [
        ("foo://x", 2, "Protocol not known: foo"),
        ("sftp://host/x", 2, "paramiko"),
        ("~nobody-of-this-name/x", 2, "home directory"),
        ("ftp://127.0.0.1:9/x", 11, "refused"),
    ],
)
def test_an_address_that_cannot_be_opened_is_two_lines(url: str, exit_code: int, says: str) -> None:
    run(url, "ls").failed(exit_code, says)
    done = run(url, "info", "--json")
    assert done.exit_code == exit_code and done.document["error"]["exit_code"] == exit_code


def test_an_empty_address_is_refused(tmp_path: Path) -> None:
    """Such as `--cache "$UNSET"`: it must not mean the folder one happens to be in."""
    ttbert("cache", "ls", "--cache", "").failed_at_once(2, "cannot be a cache")


@pytest.fixture
def as_nobody(tmp_path: Path) -> Iterator[Callable[..., Done]]:
    """Runs `ttbert cache` as a user to whom nothing belongs, and who may look into `tmp_path`."""
    opened = [path for path in [tmp_path, *tmp_path.parents] if path.name.startswith("pytest-") or path == tmp_path]
    modes = [(path, path.stat().st_mode) for path in opened]
    for path in opened:
        path.chmod(0o755)

    def run_as_nobody(*arguments: object) -> Done:
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, "cache", *map(str, arguments)],
            env=environment(XDG_CONFIG_HOME=str(tmp_path / "config")),
            capture_output=True,
            timeout=60,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    yield run_as_nobody
    for path, mode in modes:
        path.chmod(mode)


def test_a_folder_that_may_not_be_looked_into_is_exit_code_9(tmp_path: Path, as_nobody: Callable[..., Done]) -> None:
    closed = tmp_path / "closed"
    publish(open_local(closed / "cache"))
    closed.chmod(0)
    try:
        for verb in ("info", "ls", "verify"):
            done = as_nobody(verb, "--cache", closed / "cache")
            # What is in force is told before the cache is looked into.
            told = "" if verb == "info" else done.out
            Done(done.exit_code, told, done.err).failed_at_once(9, "permission denied", "closed")
    finally:
        closed.chmod(0o755)


def test_a_local_tier_that_may_not_be_looked_into_is_chosen_otherwise(tmp_path: Path, as_nobody: Callable[..., Done]) -> None:
    local = tmp_path / "local"
    publish(open_local(tmp_path / "cache"))
    local.mkdir(mode=0o700)
    done = as_nobody("pull", "tiny", "--cache", tmp_path / "cache", "--local", local)
    done.failed_at_once(9, f"{local}: permission denied", "choose a folder of your own with --local or TTBERT_LOCAL")


def test_what_may_not_be_read_is_not_called_wrong(root: Path, as_nobody: Callable[..., Done]) -> None:
    blob_path(root, TENSORS["layer"]).chmod(0)
    done = as_nobody("verify", "--cache", root)
    assert done.exit_code == 9 and "hint" not in done.err
    assert "permission denied" in done.out and "1 could not be checked" in done.out and "wrong" not in done.out


def test_looking_at_a_cache_needs_neither_torch_nor_ttnn_nor_fsspec(root: Path) -> None:
    for arguments in (("info",), ("ls",), ("show", "tiny"), ("verify",), ("gc", "--dry-run")):
        done = run(root, *arguments, PYTHONPROFILEIMPORTTIME="1")
        modules = {line.rpartition("|")[2].strip() for line in done.err.splitlines() if line.startswith("import time:")}
        assert done.exit_code == 0 and not modules & {"torch", "ttnn", "numpy", "fsspec", "huggingface_hub", "transformers"}


def test_blobs_of_an_unfinished_conversion_belong_to_nobody(root: Path) -> None:
    build(open_local(root), {"unfinished": b"u" * 500}, b"unfinished recipe")
    done = run(root, "gc", "--dry-run").succeeded()
    assert "1 object," in done.out and "no model uses it" in done.out


@pytest.mark.parametrize("verb", [each[0] for each in COMMANDS])
def test_every_command_has_help_with_an_example(verb: str) -> None:
    assert f"\n  ttbert cache {verb}" in ttbert("cache", verb, "--help").succeeded().out
    assert verb in ttbert("cache", "--help").succeeded().out


def test_a_wrong_variable_is_named(root: Path) -> None:
    run(root, "rm", "tiny", "--yes", TTBERT_READ_ONLY="perhaps").failed_at_once(2, "TTBERT_READ_ONLY is 'perhaps'", "1 or 0")


@pytest.mark.skipif(not hasattr(click.exceptions, "NoSuchCommand"), reason="this click suggests no commands")
@pytest.mark.parametrize(("typed", "meant"), [(("convrt",), "convert"), (("cache", "verfy"), "verify"), (("cache", "l"), "ls")])
def test_a_slip_of_the_pen_is_told_what_was_meant(typed: tuple[str, ...], meant: str) -> None:
    ttbert(*typed).failed_at_once(2, f"no such command '{typed[-1]}'", f"'{meant}'")
