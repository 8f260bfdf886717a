"""What a source promises, for folders and, in processes of their own against `HubServer`, for the hub and its cache."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer
from program import NO_SOCKETS

from ttbert.convert.wanted import Wanted, is_folder, open_source
from ttbert.errors import CheckpointError, InputError

REPO = "org/bert"
WEIGHTS = os.urandom(300_000)
FILES = {"config.json": b'{"hidden_size": 32}', "vocab.txt": b"[PAD]\n[UNK]\n", "model.safetensors": WEIGHTS}
OTHERS = {"tf_model.h5": os.urandom(100_000), "onnx/model.onnx": os.urandom(100_000)}

# Waits between retries are skipped; what `out` holds at the end, or the error, is printed.
BEFORE = """
import json, os, sys, time
time.sleep = lambda seconds: None
from ttbert.convert.wanted import open_source
from ttbert.errors import TtbertError
out = {}
try:
"""
AFTER = """
except TtbertError as error:
    chain, cause = [], error.__cause__
    while cause is not None:
        chain.append(type(cause).__name__)
        cause = cause.__cause__
    out["error"], out["message"], out["hint"] = type(error).__name__, error.message, error.hint
    out["chain"], out["exit_code"] = chain, error.exit_code
print(json.dumps(out))
"""


@dataclass(frozen=True)
class Run:
    """One process after another with the same hub and the same HF_HOME."""

    hub: HubServer
    home: Path

    def __call__(self, code: str, before: str = "", **env: str) -> dict[str, Any]:
        body = "\n".join("    " + line for line in code.strip().splitlines())
        done = subprocess.run(
            [sys.executable, "-c", before + BEFORE + body + AFTER],
            env=self.hub.env(self.home, **env),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        out: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if "error" in out:
            assert "\n" not in out["message"] + out["hint"] and "Traceback" not in done.stderr
        return out

    def cached(self, pattern: str) -> list[Path]:
        return sorted((self.home / "hub").glob(pattern))


@pytest.fixture
def run(hub: HubServer, tmp_path: Path) -> Run:
    return Run(hub, tmp_path / "hf")


FETCH = f"""
source = open_source({REPO!r})
out["digest"] = str(source.digest("model.safetensors"))
out["paths"] = [str(source.path(name)) for name in ("config.json", "model.safetensors")]
out["commit"] = source.commit
"""
OFFLINE = FETCH.replace("open_source('org/bert')", "open_source('org/bert', offline=True)")


# Folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_folder_lists_and_digests_the_files_in_it(folder: Path) -> None:
    (folder / "checkpoint-500").mkdir()
    source = open_source(str(folder))
    assert source.label == str(folder) and source.commit is None and not source.is_partial
    assert {name: file.size for name, file in source.files.items()} == {k: len(v) for k, v in FILES.items()}
    assert source.digest("model.safetensors").hex == hashlib.sha256(WEIGHTS).hexdigest()
    assert source.path("model.safetensors") == folder / "model.safetensors"
    source.check_unchanged()


def test_folder_reads_through_symbolic_links(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    links = tmp_path_factory.mktemp("links")
    for name in FILES:
        (links / name).symlink_to(folder / name)
    assert open_source(str(links)).digest("config.json").hex == hashlib.sha256(FILES["config.json"]).hexdigest()


def test_broken_link_is_an_error_and_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    source = open_source(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"a link to .*gone"):
        source.path("model.safetensors")


def test_each_file_is_hashed_once(folder: Path) -> None:
    source = open_source(str(folder))
    digest = source.digest("vocab.txt")
    (folder / "vocab.txt").unlink()
    assert source.digest("vocab.txt") == digest


def test_relative_and_home_folders_are_made_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for model in (f"./{folder.name}", folder.name, f"~/{folder.name}"):
        assert is_folder(model) and open_source(model).label == str(folder)


@pytest.mark.parametrize("model", ["./absent", "../absent", "/absent", "~/absent", "~nobody-here/absent"])
def test_path_that_is_not_there_is_not_taken_for_an_id(model: str) -> None:
    with pytest.raises(InputError, match="folder"):
        open_source(model)


def test_file_in_place_of_a_folder_is_said_to_be_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    for model in (folder / "config.json", f"{folder.name}/config.json"):  # the latter could be an id
        with pytest.raises(InputError, match="is a file"):
            open_source(str(model))


def test_folder_has_no_revisions(folder: Path) -> None:
    with pytest.raises(InputError, match="no revisions"):
        open_source(str(folder), "main")


@pytest.mark.parametrize("model", ["", "a/b/c", "org/..", "org--x/y", "two words", "-x", "org/model.git", "café/model"])
def test_malformed_id_is_refused(model: str) -> None:
    with pytest.raises(InputError, match="neither a folder nor"):
        open_source(model)


@pytest.mark.parametrize("revision", ["", "../../x", "a//b", "/main", "a b", "a\\b", "..", "x\0", "-x", "a/.b"])
def test_malformed_revision_is_refused(revision: str) -> None:
    with pytest.raises(InputError, match="not a revision"):
        open_source(REPO, revision, offline=True)


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("org/bert", ("org/bert", None, "bfp8")),
        ("org/bert@v2:bf16", ("org/bert", "v2", "bf16")),
        ("org/bert@refs/pr/1", ("org/bert", "refs/pr/1", "bfp8")),
        ("local/my-bert:bfp4", ("local/my-bert", None, "bfp4")),
        ("bundled:bfp8", ("bundled", None, "bfp8")),
    ],
)
def test_whole_name_as_the_cache_lists_it_means_that_model(written: str, means: tuple[str, str | None, str]) -> None:
    wanted = Wanted.parse(written, None, None)
    assert (wanted.model, wanted.revision, wanted.policy) == means
    assert Wanted.parse(written, *means[1:]) == wanted


@pytest.mark.parametrize(
    ("model", "revision", "policy", "says"),
    [
        ("org/bert:bf16", None, "bfp8", "org/bert:bf16 is not of policy bfp8"),
        ("org/bert@v2", "v1", None, "org/bert@v2 is not of revision v1"),
        ("org/bert:latest", None, None, "neither a folder nor"),
        ("https://huggingface.co/org/bert", None, None, "neither a folder nor"),
        ("", None, None, "neither a folder nor"),
    ],
)
def test_name_that_contradicts_itself_or_is_none_is_refused(
    model: str, revision: str | None, policy: str | None, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        Wanted.parse(model, revision, policy)


def test_unknown_file_is_named(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no file 'absent\.json'"):
        open_source(str(folder)).path("absent.json")


def _rewrite(path: Path) -> None:
    path.write_bytes(os.urandom(300_000))


def _replace(path: Path) -> None:
    other = path.with_name("new")
    other.write_bytes(WEIGHTS)
    other.rename(path)


@pytest.mark.parametrize("change", [_rewrite, _replace, Path.unlink])
def test_file_that_changes_during_the_conversion_is_noticed(folder: Path, change: Any) -> None:
    source = open_source(str(folder))
    source.digest("model.safetensors")
    source.check_unchanged()
    path = folder / "model.safetensors"
    change(path)
    if path.exists():
        os.utime(path, ns=(1, 1))
    with pytest.raises(CheckpointError, match=r"model\.safetensors changed while"):
        source.check_unchanged()
    source.path("model.safetensors")
    with pytest.raises(CheckpointError, match="changed"):
        source.check_unchanged()


def test_change_of_a_file_that_was_not_used_does_not_matter(folder: Path) -> None:
    source = open_source(str(folder))
    source.digest("model.safetensors")
    (folder / "vocab.txt").write_text("other")
    source.check_unchanged()


def test_import_is_light() -> None:
    code = "import sys, ttbert.convert.source as s, ttbert.convert.checkpoint; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"huggingface_hub", "torch", "safetensors", "transformers", "httpx2", "requests"} & set(loaded)


# The hub


def test_digests_of_large_files_are_known_without_a_download(run: Run) -> None:
    commit = run.hub.add(REPO, FILES | OTHERS)
    out = run(
        f"""
source = open_source({REPO!r})
out["files"] = {{name: [file.size, str(file.sha256)] for name, file in source.files.items()}}
out["digest"] = str(source.digest("model.safetensors"))
out["commit"], out["label"] = source.commit, source.label
"""
    )
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    assert out["files"]["model.safetensors"] == [len(WEIGHTS), f"sha256:{sha256}"]
    assert out["files"]["config.json"] == [len(FILES["config.json"]), "None"]
    assert out["digest"] == f"sha256:{sha256}" and out["commit"] == commit and out["label"] == REPO
    assert run.hub.bytes_sent.total() == 0
    # The second is huggingface_hub's own, once a day.
    asked = [path for _, path in run.hub.requests if path != "/api/agent-harnesses"]
    assert asked == [f"/api/models/{REPO}/revision/main"]


def test_only_the_files_asked_for_are_downloaded(run: Run) -> None:
    run.hub.add(REPO, FILES | OTHERS)
    out = run(FETCH)
    assert [Path(path).read_bytes() for path in out["paths"]] == [FILES["config.json"], WEIGHTS]
    assert dict(run.hub.bytes_sent) == {"config.json": len(FILES["config.json"]), "model.safetensors": len(WEIGHTS)}


def test_second_open_of_a_revision_downloads_nothing(run: Run) -> None:
    run.hub.add(REPO, FILES)
    first = run(FETCH)
    run.hub.requests.clear()
    run.hub.bytes_sent.clear()
    assert run(FETCH) == first
    assert run.hub.bytes_sent.total() == 0
    assert run.hub.requests == [("GET", f"/api/models/{REPO}/revision/main")]


def test_small_file_is_digested_by_fetching_only_that_file(run: Run) -> None:
    run.hub.add(REPO, FILES)
    out = run(f'out["digest"] = str(open_source({REPO!r}).digest("vocab.txt"))')
    assert out["digest"] == f"sha256:{hashlib.sha256(FILES['vocab.txt']).hexdigest()}"
    assert dict(run.hub.bytes_sent) == {"vocab.txt": len(FILES["vocab.txt"])}


def test_revision_is_resolved_once_and_then_followed_by_commit(run: Run) -> None:
    old = run.hub.add(REPO, FILES)
    new = run.hub.add(REPO, FILES | {"model.safetensors": WEIGHTS[::-1]}, branch="v2")
    code = f"""
for revision in (None, "v2", {old!r}):
    source = open_source({REPO!r}, revision)
    out[str(revision)] = [source.commit, source.path("model.safetensors").read_bytes()[:4].hex()]
"""
    out = run(code)
    assert out["None"] == out[old] == [old, WEIGHTS[:4].hex()]
    assert out["v2"] == [new, WEIGHTS[::-1][:4].hex()]
    resolved = {path.split("/resolve/")[1].split("/")[0] for _, path in run.hub.requests if "/resolve/" in path}
    assert resolved == {old, new}


def test_branch_that_moves_after_the_open_does_not_mix_two_versions(run: Run) -> None:
    run.hub.add(REPO, FILES)
    marker = run.home.parent / "opened"
    code = f"""
source = open_source({REPO!r})
open({str(marker)!r}, "w").close()
while os.path.exists({str(marker)!r}): pass
out["config"] = source.path("config.json").read_text()
"""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(run, code)
        while not marker.exists() and not pending.done():
            pass
        run.hub.add(REPO, {"config.json": b"new"})
        marker.unlink()
        assert pending.result()["config"] == FILES["config.json"].decode()


def test_token_goes_to_the_hub_and_not_to_the_cdn(run: Run) -> None:
    run.hub.add(REPO, FILES)
    run.hub.repos[REPO].access = "private"
    assert "error" not in run(FETCH, HF_TOKEN=run.hub.token)
    assert f"Bearer {run.hub.token}" in run.hub.authorizations["hub"]
    assert run.hub.authorizations["cdn"] == [None]


# Damage on the way and in the cache


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_wrong_bytes_are_an_integrity_error_until_the_file_is_deleted(run: Run, name: str) -> None:
    run.hub.add(REPO, FILES)
    run.hub.break_file(name, "corrupt", times=1)
    code = f'out["path"] = str(open_source({REPO!r}).path({name!r}))'
    out = run(code)
    assert (out["error"], out["exit_code"]) == ("IntegrityError", 7)
    assert name in out["message"] and "expected" in out["message"] and "found" in out["message"]
    # Neither a second run nor an offline one takes the damaged file for good.
    assert run(code)["error"] == "IntegrityError"
    assert run(code.replace(")", ", offline=True)", 1))["error"] == "IntegrityError"
    damaged = Path(out["hint"].removeprefix("delete ").removesuffix(" and try again"))
    damaged.unlink()
    assert Path(run(code)["path"]).read_bytes() == FILES[name]


@pytest.mark.parametrize("fault", ["drop", "truncate", "unavailable", "reset"])
def test_download_that_fails_once_is_retried_or_repeated_without_harm(run: Run, fault: Any) -> None:
    run.hub.add(REPO, FILES)
    run.hub.break_file("model.safetensors", fault, times=1)
    first = run(FETCH)
    if "error" in first:
        assert (first["error"], first["exit_code"]) == ("StoreUnavailable", 11)
    assert not run.cached("**/*.incomplete")
    again = run(FETCH)
    assert Path(again["paths"][1]).read_bytes() == WEIGHTS


def test_dropped_download_is_resumed_where_it_stopped(run: Run) -> None:
    # huggingface_hub keeps whole pieces of 10 MiB.
    size, piece = 24 << 20, 10 << 20
    run.hub.add(REPO, {"config.json": b"{}", "model.safetensors": bytes(size)})
    run.hub.break_file("model.safetensors", "drop", times=1)
    assert "error" not in run(FETCH)
    assert run.hub.bytes_sent["model.safetensors"] == size // 2 + size - piece


def test_server_without_ranges_is_read_again_from_the_start(run: Run) -> None:
    run.hub.add(REPO, FILES)
    run.hub.supports_ranges = False
    run.hub.break_file("model.safetensors", "drop", times=1)
    assert Path(run(FETCH)["paths"][1]).read_bytes() == WEIGHTS


@pytest.mark.parametrize("fault", ["drop", "truncate", "unavailable", "reset"])
def test_download_that_keeps_failing_is_unavailable_and_leaves_nothing(run: Run, fault: Any) -> None:
    run.hub.add(REPO, FILES)
    run.hub.break_file("model.safetensors", fault)
    out = run(f'open_source({REPO!r}).path("model.safetensors")')
    assert (out["error"], out["exit_code"]) == ("StoreUnavailable", 11) and out["chain"]
    assert not run.cached("**/*.incomplete") and not run.cached("**/model.safetensors")


@pytest.mark.parametrize(
    ("code", "expected"),
    [(errno.ENOSPC, "NoSpaceError"), (errno.EDQUOT, "NoSpaceError"), (errno.EROFS, "StoreReadOnly")],
)
def test_disk_that_fails_during_the_download_is_said_to_be_the_reason(run: Run, code: int, expected: str) -> None:
    run.hub.add(REPO, FILES)
    failing_disk = f"""
import os, pathlib
real = pathlib.Path.open
class Failing:
    def __init__(self, file): self.file = file
    def __enter__(self): return self
    def __exit__(self, *error): self.file.close()
    def __getattr__(self, name): return getattr(self.file, name)
    def write(self, content): raise OSError({code}, os.strerror({code}))
def open_(path, *args, **kwargs):
    file = real(path, *args, **kwargs)
    return Failing(file) if path.name.endswith(".incomplete") else file
pathlib.Path.open = open_
"""
    out = run(f'open_source({REPO!r}).path("model.safetensors")', before=failing_disk)
    assert out["error"] == expected and "HF_HOME" in out["hint"]
    assert "error" not in run(FETCH)


def test_cache_that_cannot_be_made_is_read_only(run: Run) -> None:
    run.hub.add(REPO, FILES)
    run.home.write_text("a file where the folder is to be")
    out = run(f'open_source({REPO!r}).path("model.safetensors")')
    assert (out["error"], out["exit_code"]) == ("StoreReadOnly", 9) and "HF_HOME" in out["hint"]


def test_file_in_the_hubs_cache_that_changes_is_noticed(run: Run) -> None:
    run.hub.add(REPO, FILES)
    code = f"""
source = open_source({REPO!r})
path = source.path("model.safetensors")
source.check_unchanged()
path.write_bytes(b"other")
source.check_unchanged()
"""
    out = run(code)
    assert out["error"] == "UnreadableError" and "changed" in out["message"]


# Refusals


@pytest.mark.parametrize("token", [None, "hf_test"])
def test_unknown_repo_is_an_input_error(run: Run, token: str | None) -> None:
    out = run('open_source("org/absent")', **({"HF_TOKEN": token} if token else {}))
    assert (out["error"], out["exit_code"]) == ("InputError", 2)
    assert "org/absent" in out["message"] and out["chain"]


def test_private_repo_looks_unknown_and_the_hint_says_how_to_sign_in(run: Run) -> None:
    run.hub.add(REPO, FILES)
    run.hub.repos[REPO].access = "private"
    out = run(f"open_source({REPO!r})")
    assert out["error"] == "InputError" and "HF_TOKEN" in out["hint"]


def test_wrong_token_is_not_called_a_missing_repo(run: Run) -> None:
    run.hub.add(REPO, FILES)
    out = run(f"open_source({REPO!r})", HF_TOKEN="hf_wrong")
    assert out["error"] == "StoreUnavailable" and "token" in out["hint"] and "hf_wrong" not in json.dumps(out)


def test_gated_repo_says_where_to_ask(run: Run) -> None:
    run.hub.add(REPO, FILES)
    run.hub.repos[REPO].access = "gated"
    out = run(FETCH)
    assert (out["error"], out["exit_code"]) == ("CheckpointError", 3)
    assert f"/{REPO}" in out["hint"] and "gated" in out["message"]
    assert "error" not in run(FETCH, HF_TOKEN=run.hub.token)


def test_unknown_revision_is_named(run: Run) -> None:
    run.hub.add(REPO, FILES)
    out = run(f'open_source({REPO!r}, "v9")')
    assert (out["error"], out["exit_code"]) == ("CheckpointError", 3) and "'v9'" in out["message"]


def test_file_that_the_hub_lists_and_does_not_have_is_named(run: Run) -> None:
    commit = run.hub.add(REPO, FILES)
    code = f"""
source = open_source({REPO!r})
open(os.environ["MARKER"], "w").close()
while os.path.exists(os.environ["MARKER"]): pass
source.path("vocab.txt")
"""
    marker = run.home.parent / "opened"
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(run, code, MARKER=str(marker))
        while not marker.exists() and not pending.done():
            pass
        del run.hub.repos[REPO].commits[commit]["vocab.txt"]
        marker.unlink()
        out = pending.result()
    assert out["error"] == "CheckpointError" and "vocab.txt" in out["message"]


def test_hub_that_is_down_or_not_there_is_unavailable(run: Run) -> None:
    run.hub.down = True
    out = run(f"open_source({REPO!r})")
    assert (out["error"], out["exit_code"]) == ("StoreUnavailable", 11) and "503" in out["message"]
    for endpoint in ("http://127.0.0.1:9", "no-scheme.example", "http://hub.invalid"):
        out = run(f"open_source({REPO!r})", HF_ENDPOINT=endpoint)
        assert out["error"] == "StoreUnavailable" and "HF_ENDPOINT" in out["hint"] and out["chain"]


def test_hub_that_never_answers_is_given_up(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        out = run(f"open_source({REPO!r})", HF_ENDPOINT=endpoint, HF_HUB_ETAG_TIMEOUT="1", HF_HUB_DISABLE_TELEMETRY="1")
    assert out["error"] == "StoreUnavailable"


@pytest.mark.parametrize("answer", [b"<html>sign in to the wireless network</html>", b"[]", b"{}", b'{"id": "x"}'])
def test_server_that_is_no_hub_is_unavailable(run: Run, answer: bytes) -> None:
    run.hub.portal = answer
    out = run(f"open_source({REPO!r})")
    assert out["error"] == "StoreUnavailable" and "HF_ENDPOINT" in out["hint"]


# Offline


@pytest.mark.parametrize("name", ["config.json", "vocab.txt"])
def test_a_file_that_would_fill_the_memory_is_not_read(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate((32 << 20) + 1)
    with pytest.raises(CheckpointError, match=f"{name} of .* has 33,554,433 bytes: that is no {name}"):
        open_source(str(tmp_path)).read(name)


def test_offline_opens_no_socket_and_gives_the_same_files(run: Run) -> None:
    commit = run.hub.add(REPO, FILES)
    online = run(FETCH)
    out = run(OFFLINE, before=NO_SOCKETS, HF_ENDPOINT="http://127.0.0.1:9")
    assert out == online and out["commit"] == commit
    by_commit = OFFLINE.replace("offline=True", f"{commit!r}, offline=True")
    assert run(by_commit, before=NO_SOCKETS) == online


def test_the_guard_against_sockets_would_notice_one(run: Run) -> None:
    run.hub.add(REPO, FILES)
    with pytest.raises(AssertionError, match="opened a socket"):
        run(FETCH, before=NO_SOCKETS)


def test_offline_by_the_hubs_own_variable(run: Run) -> None:
    run.hub.add(REPO, FILES)
    online = run(FETCH)
    assert run(FETCH, before=NO_SOCKETS, HF_HUB_OFFLINE="1") == online
    out = run('open_source("org/absent")', before=NO_SOCKETS, HF_HUB_OFFLINE="1")
    assert out["error"] == "NotCached" and "HF_HUB_OFFLINE" in out["hint"]


def test_offline_lists_only_what_is_there(run: Run) -> None:
    run.hub.add(REPO, FILES)
    run(f'open_source({REPO!r}).path("config.json")')
    code = f"""
source = open_source({REPO!r}, offline=True)
out["files"], out["partial"] = list(source.files), source.is_partial
source.path("model.safetensors")
"""
    out = run(code, before=NO_SOCKETS)
    assert out["files"] == ["config.json"] and out["partial"]
    assert (out["error"], out["exit_code"]) == ("NotCached", 6)
    assert "model.safetensors" in out["message"] and "--offline" in out["hint"]


@pytest.mark.parametrize("arguments", ["'org/absent', None", f"{REPO!r}, 'v2'", f"{REPO!r}, '{'a' * 40}'"])
def test_offline_miss_names_the_model_and_what_to_do(run: Run, arguments: str) -> None:
    run.hub.add(REPO, FILES)
    run(FETCH)
    out = run(f"open_source({arguments}, offline=True)", before=NO_SOCKETS)
    assert (out["error"], out["exit_code"]) == ("NotCached", 6)
    assert "org/" in out["message"] and "without --offline" in out["hint"] and "local folder" in out["hint"]


def test_newer_commit_of_which_nothing_was_fetched_leaves_the_older_one_usable_offline(run: Run) -> None:
    run.hub.add(REPO, FILES)
    online = run(FETCH)
    run.hub.add(REPO, FILES | {"model.safetensors": b"newer"})
    assert run(f'out["digest"] = str(open_source({REPO!r}).digest("model.safetensors"))') != online["digest"]
    assert run(OFFLINE, before=NO_SOCKETS) == online


def test_damaged_note_of_a_revision_is_written_anew(run: Run) -> None:
    commit = run.hub.add(REPO, FILES)
    online = run(FETCH)
    (note,) = run.cached("*/refs/main")
    note.write_bytes(b"\xff" * 40)
    assert run(FETCH) == online and note.read_bytes() == commit.encode()


def test_complete_cache_is_enough_on_a_read_only_disk(run: Run) -> None:
    run.hub.add(REPO, FILES)
    online = run(FETCH)
    read_only = """
import os, pathlib, errno
def guard(event, arguments):
    path = str(arguments[0]) if arguments else ""
    writes = event in ("os.mkdir", "os.rename", "os.remove", "os.symlink")
    writes = writes or (event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
    if writes and path.startswith(os.environ["HF_HOME"]):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
import sys; sys.addaudithook(guard)
"""
    assert run(FETCH, before=read_only) == online
    assert run(OFFLINE, before=read_only) == online


def test_cache_without_symbolic_links_works(run: Run) -> None:
    run.hub.add(REPO, FILES)
    online = run(FETCH, HF_HUB_DISABLE_SYMLINKS="1")
    assert not Path(online["paths"][1]).is_symlink()
    assert run(OFFLINE, before=NO_SOCKETS) == online
