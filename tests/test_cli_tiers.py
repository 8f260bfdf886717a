"""Tiers as a user meets them: options, environment, settings; convert, demo, push, pull; offline and read-only."""

from __future__ import annotations

import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import tiny
from fault_proxy import FaultProxy, forgets_condition
from models import COMMIT, FILES, TENSORS, TINY, blob_path, files, flip_bit, open_local, publish, publish_other
from program import NO_SOCKETS, Done, make_hook, ttbert
from s3_server import MotoServer
from test_shared_folder import GROUP

from ttbert.cache.cache import manifest_key
from ttbert.cache.places import Places
from ttbert.cache.refs import Ref
from ttbert.cache.transfer import push

HUB = Ref("someone/tiny", "main", "bfp8")


@pytest.fixture
def url(proxy: FaultProxy, moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in proxy.env.items():
        monkeypatch.setenv(name, value)
    proxy.calm()
    return f"s3://{moto.bucket()}/ttbert"


def both(url: str, local: Path) -> tuple[object, ...]:
    return ("--cache", url, "--local", local)


# Which places


def info(*arguments: object, **extra: str) -> Done:
    return ttbert("cache", "info", *arguments, **extra)


def write_settings(home: Path, text: str) -> str:
    folder = home / "ttbert"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(text)
    return str(home)


def test_option_beats_environment_beats_settings_beats_default(tmp_path: Path) -> None:
    home = write_settings(tmp_path / "config", f'cache = "{tmp_path}/file"\nlocal = "{tmp_path}/file-local"\n')
    file = str(tmp_path / "config/ttbert/config.toml")
    extra = {"XDG_CONFIG_HOME": home, "TTBERT_CACHE": f"{tmp_path}/env", "TTBERT_LOCAL": f"{tmp_path}/env-local"}
    option = info("--cache", f"{tmp_path}/option", "--local", f"{tmp_path}/option-local", "--json", **extra)
    environment = info("--json", **extra)
    settings = info("--json", XDG_CONFIG_HOME=home)
    default = info("--json", XDG_CONFIG_HOME=str(tmp_path / "none"), XDG_CACHE_HOME=str(tmp_path))
    for done, name, source in (
        (option, "option", "--{}"),
        (environment, "env", "TTBERT_{}"),
        (settings, "file", file),
    ):
        found = done.succeeded().document
        assert (found["cache"], found["local"]) == (f"{tmp_path}/{name}", f"{tmp_path}/{name}-local")
        assert found["chosen_by"] == source.format("cache" if "-" in source else "CACHE")
        assert found["local_chosen_by"] == source.format("local" if "-" in source else "LOCAL")
    found = default.succeeded().document
    assert (found["cache"], found["local"], found["chosen_by"]) == (f"{tmp_path}/ttbert", None, "default")


def test_a_cache_in_a_network_has_a_local_tier_unless_told_otherwise(url: str, tmp_path: Path) -> None:
    home = {"XDG_CACHE_HOME": str(tmp_path)}
    assert info("--cache", url, "--json", **home).succeeded().document["local"] == f"{tmp_path}/ttbert"
    for arguments, extra in ((["--no-local"], {}), (["--local", "none"], {}), ([], {"TTBERT_LOCAL": "none"})):
        found = info("--cache", url, *arguments, "--json", **home, **extra).succeeded().document
        assert found["local"] is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text,says",
    [
        ("cache = 3", "cache is 3, not text in quotes"),
        ('read_only = "yes"', "read_only is 'yes', not true or false"),
        ('cash = "x"', "'cash' is no setting"),
        ("cache =", "is not TOML"),
        ("\udcff", "cannot be read"),
    ],
)
def test_settings_that_cannot_be_understood_are_two_lines(tmp_path: Path, text: str, says: str) -> None:
    home = tmp_path / "config"
    (home / "ttbert").mkdir(parents=True)
    (home / "ttbert/config.toml").write_bytes(text.encode(errors="surrogateescape"))
    info(XDG_CONFIG_HOME=str(home)).failed_at_once(2, says, "config.toml")


def test_a_home_that_is_no_folder_has_no_settings_and_no_keys(tmp_path: Path) -> None:
    """As a service's may be; a file in the place of the trusted keys is something else."""
    ttbert("cache", "trust", "list", HOME="/dev/null", XDG_CONFIG_HOME="").succeeded()
    ttbert("convert", "bundled", "--dry-run", "--cache", tmp_path / "cache", HOME="/dev/null", XDG_CONFIG_HOME="").succeeded()
    (tmp_path / "ttbert").mkdir()
    (tmp_path / "ttbert/trusted").touch()
    ttbert("cache", "trust", "list", XDG_CONFIG_HOME=str(tmp_path)).failed(2, "trusted cannot be read")


def test_info_tells_endpoint_region_and_where_credentials_are_from_and_no_secret(url: str, proxy: FaultProxy) -> None:
    publish(Places(url).open())
    human = info("--cache", url, AWS_SECRET_ACCESS_KEY="my-secret", AWS_SESSION_TOKEN="my-token").succeeded()
    for each in (url, proxy.endpoint, "us-east-1", "AWS_ACCESS_KEY_ID", "exactly once", "--cache"):
        assert each in human.out
    document = info("--cache", url, "--json", AWS_SECRET_ACCESS_KEY="my-secret", AWS_SESSION_TOKEN="my-token").succeeded()
    assert document.document["endpoint"] == proxy.endpoint and document.document["models"] == 1
    for done in (human, document):
        assert "my-secret" not in done.out + done.err and "my-token" not in done.out + done.err


def test_info_tells_what_is_in_force_where_the_store_does_not_answer(tmp_path: Path) -> None:
    done = info("--cache", "s3://lab", AWS_ENDPOINT_URL="http://127.0.0.1:9", AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b")
    assert done.exit_code == 11 and "http://127.0.0.1:9" in done.out and "connection refused" in done.err


@pytest.mark.parametrize("local", ["s3://lab/x", "memory://x", "sftp://host/x"])
def test_a_local_tier_is_a_folder(tmp_path: Path, local: str) -> None:
    ttbert("cache", "pull", "x", "--cache", tmp_path, "--local", local).failed_at_once(2, "cannot be a local tier")


def test_a_local_tier_that_cannot_be_made_is_an_error_of_that_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    done = info("--cache", tmp_path / "cache", "--local", tmp_path / "file/local")
    done.failed_at_once(5, f"{tmp_path}/file/local cannot be made: {tmp_path}/file is a file", "--local")


def test_a_local_tier_and_none_is_refused(tmp_path: Path) -> None:
    info("--cache", tmp_path / "a", "--local", tmp_path / "b", "--no-local").failed_at_once(2, "--no-local wants none")
    assert info("--no-local", "--json", TTBERT_CACHE=str(tmp_path / "a"), TTBERT_LOCAL=str(tmp_path / "b")).succeeded()


@pytest.mark.parametrize("shared,local", [("a", "a/b"), ("a/b", "a"), ("link", "a/b")])
def test_a_cache_and_its_local_tier_lie_beside_each_other(tmp_path: Path, shared: str, local: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    done = info("--cache", tmp_path / shared, "--local", tmp_path / local)
    done.failed_at_once(2, "one is inside of the other", "--local")


# A model from one machine to another


def test_what_one_machine_converts_another_one_loads(url: str, tmp_path: Path) -> None:
    """Two home folders, one bucket: the second machine converts nothing, and reads the bucket once."""
    first, second = tmp_path / "first", tmp_path / "second"
    converted = ttbert("convert", "bundled", *both(url, first), "--json").succeeded().document
    assert converted["hit"] is False and converted["cache"] == url
    assert ttbert("cache", "verify", "bundled", "--cache", first).succeeded(), "it has a copy of its own"
    again = ttbert("convert", "bundled", *both(url, second)).succeeded()
    assert "already in the cache" in again.out and f"{url}, the shared tier" in again.out
    demo = ttbert("demo", "--model", "bundled", *both(url, second), "--json").succeeded()
    assert demo.document["manifest"] == converted["manifest"]
    counters = demo.document["counters"]
    assert counters["misses"] > 10 and counters["hits"] == 0 and counters["bytes"]["cache"] == converted["bytes"]
    assert "fetching bundled" in demo.err and "converting" not in demo.err
    hook = make_hook(tmp_path / "hook", NO_SOCKETS)
    offline = ttbert("demo", "--model", "bundled", *both(url, second), "--offline", "--json", hook=hook).succeeded()
    assert offline.document["answers"] == demo.document["answers"]


def test_pull_and_push_move_a_whole_model(url: str, tmp_path: Path) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    publish(open_local(near))
    pushed = ttbert("cache", "push", "tiny", *both(url, near), "--json").succeeded().document
    assert (pushed["ref"], pushed["bytes_pushed"]) == (str(TINY), pushed["bytes"])
    assert "nothing to do" in ttbert("cache", "push", "tiny", *both(url, near)).succeeded().out
    pulled = ttbert("cache", "pull", "tiny", *both(url, far)).succeeded()
    assert "pulled 6.0 kB of 6.0 kB" in pulled.out and "fetching" in pulled.err
    assert "nothing to do" in ttbert("cache", "pull", "tiny", *both(url, far)).succeeded().out
    assert ttbert("cache", "verify", "--cache", far).succeeded()
    with_blobs = {path: content for path, content in files(far).items() if path.startswith(("blobs/", "manifests/"))}
    assert with_blobs.items() <= files(near).items() and len(with_blobs) == len(TENSORS) + len(FILES) + 1


def test_push_asks_the_shared_store_for_a_blob_no_more_often_than_it_takes(url: str, proxy: FaultProxy, tmp_path: Path) -> None:
    """Once to know what is lacking, as often as its parts of publishing do, and not once more for the sake of the display."""
    cached = publish(open_local(tmp_path))
    ttbert("cache", "push", "tiny", *both(url, tmp_path)).succeeded()
    proxy.calm()
    far = Places(url).open()
    entry = far.read_ref(TINY)
    assert entry and push(open_local(tmp_path), far, TINY, entry, cached) == {}
    asked = proxy.count("HEAD", "/blobs/")
    proxy.calm()
    ttbert("cache", "push", "tiny", *both(url, tmp_path)).succeeded()
    assert proxy.count("HEAD", "/blobs/") == asked > 0


def test_pull_reads_the_copies_that_are_here_and_fetches_damaged_ones_again(url: str, tmp_path: Path) -> None:
    publish(Places(url).open())
    ttbert("cache", "pull", "tiny", *both(url, tmp_path)).succeeded()
    sound = files(tmp_path)
    damaged = flip_bit(blob_path(tmp_path, TENSORS["layer"]))
    done = ttbert("cache", "pull", "tiny", *both(url, tmp_path), "--json")
    assert done.exit_code == 0 and "is damaged; moved to quarantine/" in done.err and "checking" in done.err
    assert done.document["bytes_pulled"] == len(TENSORS["layer"]) and done.document["counters"]["damaged"] == 1
    assert sound.items() <= files(tmp_path).items() and damaged in files(tmp_path).values()
    assert "nothing to do" in ttbert("cache", "pull", "tiny", *both(url, tmp_path)).succeeded().out


def test_pull_asks_for_no_other_model(url: str, proxy: FaultProxy, tmp_path: Path) -> None:
    publish(Places(url).open())
    other = publish_other(Places(url).open())
    proxy.calm()
    ttbert("cache", "pull", "tiny", *both(url, tmp_path)).succeeded()
    assert proxy.count("GET", "/blobs/") > 0 == proxy.count("GET", "someone") + proxy.count("GET", other.digest.hex)
    listed = {parse_qs(urlsplit(path).query)["prefix"][0].split("/")[1] for _, path in proxy.seen if "prefix=" in path}
    assert listed == {"refs", "signatures"}


def test_push_and_pull_need_two_tiers_and_a_model(url: str, tmp_path: Path) -> None:
    ttbert("cache", "push", "tiny", "--cache", tmp_path).failed_at_once(2, "has no local tier", "--local")
    ttbert("cache", "pull", "tiny", "--cache", url, "--no-local").failed_at_once(2, "has no local tier")
    ttbert("cache", "pull", "tiny", "--cache", tmp_path, "--local", tmp_path).failed_at_once(2, "leads to that very folder")
    ttbert("cache", "pull", "tiny", *both(url, tmp_path)).failed_at_once(6, f"there is no cache in {url}")
    ttbert("cache", "push", "tiny", *both(url, tmp_path)).failed_at_once(6, f"there is no cache in {tmp_path}")
    publish_other(Places(url).open())
    publish_other(open_local(tmp_path))
    ttbert("cache", "pull", "tiny", *both(url, tmp_path)).failed_at_once(2, "no model in the cache is called 'tiny'")
    ttbert("cache", "push", "tiny", *both(url, tmp_path)).failed_at_once(2, "no model in the cache is called 'tiny'")


def test_a_damaged_model_is_not_pushed(url: str, tmp_path: Path) -> None:
    publish(open_local(tmp_path))
    flip_bit(blob_path(tmp_path, TENSORS["layer"]))
    ttbert("cache", "push", "tiny", *both(url, tmp_path)).failed(7, "is damaged")
    assert list(Places(url).open().list_refs()) == []


# Offline, read-only, weak


def test_without_a_network_a_model_that_is_whole_here_is_said_to_be(tmp_path: Path) -> None:
    publish(open_local(tmp_path), HUB, repo="someone/tiny")
    network = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    demo = ("demo", "--model", "someone/tiny", *both("s3://lab", tmp_path))
    ttbert(*demo, **network).failed(11, "connection refused", f"add --offline: all of {HUB} is in {tmp_path}")
    blob_path(tmp_path, TENSORS["head"]).unlink()
    assert "--offline" not in ttbert(*demo, **network).failed(11, "connection refused").err


def test_offline_opens_no_socket_and_lists_what_is_missing(url: str, tmp_path: Path) -> None:
    hook = make_hook(tmp_path / "hook", NO_SOCKETS)
    local = tmp_path / "local"
    cached = publish(open_local(local), HUB, repo="someone/tiny")
    blob_path(local, TENSORS["head"]).unlink()
    done = ttbert("demo", "--model", "someone/tiny", *both(url, local), "--offline", hook=hook)
    done.failed(6, f"someone/tiny@main:bfp8 lacks 1 of its 5 parts in {local}", "head", "ttbert cache pull")
    ttbert("demo", "--model", "bundled", "--cache", url, "--no-local", "--offline", hook=hook).failed_at_once(
        6, "reached over the network"
    )
    assert cached and COMMIT


def test_a_damaged_copy_is_refused_offline_and_mended_by_the_same_command_online(url: str, tmp_path: Path) -> None:
    local = tmp_path / "local"
    ttbert("convert", "bundled", *both(url, local)).succeeded()
    demo = ("demo", "--model", "bundled", *both(url, local))
    flip_bit(damaged := max((local / "blobs").rglob("*"), key=lambda path: path.stat().st_size))
    ttbert(*demo, "--offline").failed(7, f"{damaged}", "is damaged", "hint: run the same command without --offline")
    ttbert(*demo).succeeded()
    ttbert(*demo, "--offline").succeeded()


def test_a_damaged_manifest_is_refused_offline_with_the_same_hint(url: str, tmp_path: Path) -> None:
    cached = publish(open_local(tmp_path), HUB, repo="someone/tiny")
    flip_bit(tmp_path / manifest_key(cached.digest))
    done = ttbert("demo", "--model", "someone/tiny", *both(url, tmp_path), "--offline")
    done.failed_at_once(7, "is damaged", "hint: run the same command without --offline")


def test_a_read_only_machine_publishes_nothing(url: str, tmp_path: Path, proxy: FaultProxy) -> None:
    local = tmp_path / "local"
    done = ttbert("convert", "bundled", *both(url, local), "--read-only")
    done.failed(9, "for reading only", "--read-only")
    ttbert("convert", "bundled", *both(url, local)).succeeded()
    proxy.calm()
    hit = ttbert("convert", "bundled", *both(url, local), TTBERT_READ_ONLY="1").succeeded()
    assert "already in the cache" in hit.out
    ttbert("demo", "--model", "bundled", *both(url, tmp_path / "other"), "--read-only").succeeded()
    home = write_settings(tmp_path / "config", "read_only = true\n")
    for extra in ({"XDG_CONFIG_HOME": home}, {"TTBERT_READ_ONLY": "1"}):
        ttbert("cache", "rm", "bundled", "--yes", "--cache", url, **extra).failed(9, "for reading only")
        ttbert("cache", "verify", "--repair", "--cache", url, **extra).succeeded()
        ttbert("cache", "gc", "--yes", "--grace", "0", "--cache", url, **extra).succeeded()
    assert [each for each in proxy.seen if each[0] not in ("GET", "HEAD")] == []


def test_a_read_only_machine_publishes_nothing_offline_either(tmp_path: Path) -> None:
    local = tmp_path / "local"
    convert = ("convert", "bundled", *both("s3://lab", local), "--offline")
    ttbert(*convert, "--read-only").failed(9, f"{local} is used for reading only", "--read-only")
    ttbert("demo", "--model", "bundled", *both("s3://lab", local), "--offline", TTBERT_READ_ONLY="1").failed(9, "reading only")
    assert not local.exists()
    ttbert(*convert).succeeded()
    for day in (local / "used").rglob("*-*"):
        day.unlink()
    ttbert("demo", "--model", "bundled", *both("s3://lab", local), "--offline", "--read-only").succeeded()
    assert list((local / "used").rglob("*-*"))


def test_a_conversion_is_done_though_there_is_no_room_for_a_copy_here(tmp_path: Path, small_disk: Path) -> None:
    convert = ("convert", "bundled", *both(f"{tmp_path}/share", small_disk / "local"))
    done = ttbert(*convert, "--json")
    assert done.exit_code == 0 and done.document["hit"] is False
    assert f"warning: no space for a copy of the model in {small_disk}/local" in done.err
    assert f"the model is in {tmp_path}/share" in done.err and "error:" not in done.err
    ttbert("demo", "--model", "bundled", "--cache", tmp_path / "share").succeeded()


def test_a_weak_store_is_refused_and_accepted_on_demand(url: str, tmp_path: Path, proxy: FaultProxy) -> None:
    proxy.meet(forgets_condition, "PUT", times=100_000)
    done = ttbert("convert", "bundled", *both(url, tmp_path))
    done.failed(5, "does not refuse to overwrite", "--accept-weak-store")
    ttbert("convert", "bundled", *both(url, tmp_path), "--accept-weak-store").succeeded()


def test_a_shared_group_is_kept_to_by_everybody(tmp_path: Path) -> None:
    root = tmp_path / "share"
    ttbert("convert", "bundled", "--cache", root, "--shared-group", GROUP).succeeded()
    for path in (root, *root.rglob("*")):
        assert path.group() == GROUP and path.stat().st_mode & 0o7777 == (0o2775 if path.is_dir() else 0o664), path
    ttbert("convert", "bundled", "--cache", tmp_path / "other", "--shared-group", "nobody-has-this").failed_at_once(
        2, "there is no group"
    )
    (tmp_path / "private").mkdir()
    ttbert("convert", "bundled", "--cache", tmp_path / "private", "--shared-group", GROUP).failed_at_once(
        2, f"not shared with the group {GROUP}", "chmod"
    )


def test_machines_that_want_one_model_at_once_convert_it_once(url: str, tmp_path: Path) -> None:
    """Each with a process of its own. The lease is in the bucket, and gone afterwards."""

    def machine(number: int) -> Done:
        return ttbert("convert", "bundled", *both(url, tmp_path / str(number)), "--json")

    with ThreadPoolExecutor(3) as machines:
        done = [each.succeeded() for each in machines.map(machine, range(3))]
    assert sorted(each.document["hit"] for each in done) == [False, True, True]
    assert len({each.document["manifest"] for each in done}) == 1
    assert sum("at work on this already" in each.err for each in done) == 2
    assert list(Places(url).open().store.list("leases")) == []


def test_a_copy_on_a_read_only_disk_without_room_is_not_claimed(tmp_path: Path, small_disk: Path) -> None:
    shared, local = tmp_path / "shared", small_disk / "local"
    publish(open_local(shared), tensors={"large": bytes(200_000)}, recipe=b"large")
    local.mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = ttbert("cache", "pull", "tiny", *both(str(shared), local))
    done.failed(9, "holds no copy of local/tiny:bfp8", "--local")
    assert "pulled" not in done.out and "no space" not in done.err


def test_a_cache_that_begins_where_one_may_have_been_meant_is_told_of(url: str, tmp_path: Path) -> None:
    folder, local = tiny.write(tmp_path / "tiny", tiny.checkpoint()), tmp_path / "local"
    convert = ("convert", folder, *both(url, local))
    assert f"is the first model in {url}; if there should be others" in ttbert(*convert).succeeded().err
    assert "note:" not in ttbert(*convert, "--policy", "bf16").succeeded().err
    push = ("cache", "push", "tiny:bfp8", *both(f"{url}-mistyped", local))
    assert f"is the first model in {url}-mistyped" in ttbert(*push).succeeded().err
    assert "note:" not in ttbert(*push).succeeded().err
    assert "note:" not in ttbert("convert", folder, XDG_CACHE_HOME=str(tmp_path / "home")).succeeded().err


def test_a_model_converted_from_a_folder_is_run_by_its_name_where_that_folder_is_not(url: str, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "my-bert", tiny.checkpoint())
    ttbert("convert", folder, *both(url, tmp_path / "publisher")).succeeded()
    ttbert("convert", folder, "--name", "team/qa", *both(url, tmp_path / "publisher")).succeeded()
    shutil.rmtree(folder)
    questions = tmp_path / "questions.json"
    questions.write_text(json.dumps([{"context": "the cat sat on the mat", "question": "who sat"}]))
    for name in ("local/my-bert", "team/qa"):
        local = tmp_path / name.replace("/", "-")
        demo = ("demo", "--model", name, "--batch", "1", "--input", questions, *both(url, local))
        assert f"note: {name}:bfp8 is this cache's own name; the hub was not asked" in ttbert(*demo).succeeded().err
        ttbert(*demo, "--offline").succeeded()
        whole = ("demo", "--model", f"{name}:bfp8", *demo[3:], "--offline")
        ttbert(*whole).succeeded()  # as `cache ls` shows it
        ttbert(*whole, "--policy", "bf16").failed_at_once(2, f"{name}:bfp8 is not of policy bf16", "pass --policy bfp8")
    done = ttbert("demo", "--model", "team/qa", "--revision", "main", *both(url, tmp_path / "other"))
    done.failed(11, "the list of files of team/qa could not be fetched")
