"""Conversions that are killed, interrupted or run twice at once: nobody sees a half, and the next one finishes the work."""

from __future__ import annotations

import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
from forks import Forks
from models import age
from program import Done, command, environment, make_hook, objects, ttbert

from ttbert.errors import NotCached

KILLED = -signal.SIGKILL


@dataclass(frozen=True)
class Undisturbed:
    """A conversion that ran to its end: what it left, and in how many steps."""

    forks: Forks
    folder: Path
    manifest: str
    objects: dict[str, bytes]
    steps: int


@pytest.fixture(scope="module")
def undisturbed(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    root = tmp_path_factory.mktemp("undisturbed")
    one_layer = tiny.checkpoint(tiny.arrays(layers=1), num_hidden_layers=1)
    folder, cache = tiny.write(root / "tiny", one_layer), root / "cache"
    done, steps = forks.run("convert", folder, "--json", cache=cache)
    return Undisturbed(forks, folder, done.succeeded().document["manifest"], objects(cache), steps)


def contents(found: dict[str, bytes]) -> dict[str, bytes]:
    """Without the refs, which say when they were made, and leases, which killed conversions leave."""
    return {path: content for path, content in found.items() if not path.startswith(("refs/", "leases/"))}


def convert(case: Undisturbed, cache: Path, kill_at: int = 0) -> Done:
    return case.forks.run("convert", case.folder, "--json", cache=cache, kill_at=kill_at)[0]


def test_undisturbed_conversion_leaves_no_temporary_file(undisturbed: Undisturbed) -> None:
    assert undisturbed.steps > 60
    assert not [path for path in undisturbed.objects if "/." in path]


def test_conversion_killed_at_any_step_leaves_no_visible_damage_and_is_finished_by_the_next(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    # All blobs are published alike; what differs is at the end: manifest, action and ref.
    last = undisturbed.steps
    for step in [*range(1, last - 36, 15), *range(last - 36, last + 1)]:
        cache = tmp_path / str(step)
        assert convert(undisturbed, cache, kill_at=step).exit_code == KILLED, step
        visible = {path: content for path, content in objects(cache).items() if "/." not in path}
        assert contents(visible).items() <= undisturbed.objects.items(), step
        models, _ = undisturbed.forks.run("cache", "ls", "--json", cache=cache)
        assert {each["state"] for each in models.succeeded().document} <= {"complete"}, step
        verified, _ = undisturbed.forks.run("cache", "verify", cache=cache)
        assert verified.exit_code == (0 if visible else NotCached.exit_code), step

        again = convert(undisturbed, cache).succeeded()
        assert again.document["manifest"] == undisturbed.manifest, step
        whole = {
            path: content for path, content in objects(cache).items() if "/." not in path and not path.startswith("leases/")
        }
        assert contents(whole) == contents(undisturbed.objects), step
        assert len(whole) == len(undisturbed.objects), step
        shutil.rmtree(cache)


def test_conversions_killed_one_after_another_still_get_done(undisturbed: Undisturbed, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for _ in range(20):
        done = convert(undisturbed, cache, kill_at=40)
        if done.exit_code != KILLED:
            break
    assert done.succeeded().document["manifest"] == undisturbed.manifest
    assert contents(undisturbed.objects).items() <= objects(cache).items()


def test_what_a_killed_conversion_leaves_is_counted_and_collected(undisturbed: Undisturbed, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    step = next(step for step in range(20, 40) if _leaves_a_temporary(undisturbed, cache, step))
    info, _ = undisturbed.forks.run("cache", "info", "--json", cache=cache)
    assert info.document["left_behind"] >= 1, step
    spared, _ = undisturbed.forks.run("cache", "gc", "--yes", cache=cache)
    assert "spared: a writer may be at work" in spared.succeeded().out and [path for path in objects(cache) if "/." in path]
    age(cache / "leases")  # a conversion of which nothing was heard for so long is none any more
    undisturbed.forks.run("cache", "gc", "--grace", "0", "--yes", cache=cache)[0].succeeded()
    assert not objects(cache)


def _leaves_a_temporary(case: Undisturbed, cache: Path, step: int) -> bool:
    shutil.rmtree(cache, ignore_errors=True)
    convert(case, cache, kill_at=step)
    return any("/." in path for path in objects(cache))


def test_two_conversions_at_once_both_succeed_and_leave_one_copy(undisturbed: Undisturbed, tmp_path: Path) -> None:
    arguments = command("convert", undisturbed.folder, "--json", "--cache", tmp_path / "cache")
    both = [subprocess.Popen(arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=120)
        done = Done(process.returncode, out.decode(), err.decode()).succeeded()
        assert done.document["manifest"] == undisturbed.manifest
    found = objects(tmp_path / "cache")
    assert contents(found) == contents(undisturbed.objects) and len(found) == len(undisturbed.objects)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda how: how.name)
def test_interrupted_conversion_says_so_in_one_line_and_leaves_nothing(
    undisturbed: Undisturbed, tmp_path: Path, how: signal.Signals
) -> None:
    by = "" if how is signal.SIGINT else f" by {how.name}"
    for step in range(1, undisturbed.steps - 10, 20):
        cache = tmp_path / str(step)
        arguments = ("convert", undisturbed.folder)
        done, _ = undisturbed.forks.run(*arguments, cache=cache, kill_at=step, kill_with=how)
        assert done.exit_code == 128 + how and done.out == "", step
        assert done.err.split("\n")[-2] == f"interrupted{by}; nothing incomplete was published" and "Traceback" not in done.err
        assert not [path for path in objects(cache) if "/." in path or path.startswith(("refs", "leases"))], step
        assert convert(undisturbed, cache).succeeded().document["manifest"] == undisturbed.manifest


def test_what_a_process_was_told_to_ignore_it_ignores(tmp_path: Path) -> None:
    hook = make_hook(tmp_path / "hook", INTERRUPT.format(module="ttbert.convert.convert").replace("SIGINT", "SIGHUP"))
    folder = tiny.write(tmp_path / "tiny", tiny.checkpoint())
    nohup = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command("convert", folder, "--cache", tmp_path / "cache")]
    assert subprocess.run(nohup, env=environment(hook=hook), capture_output=True, timeout=100, check=False).returncode == 0


INTERRUPT = """
import os, signal, sys
def interrupt(event, arguments):
    if event == "import" and arguments[0] == {module!r}:
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(interrupt)
"""

FIRST_THREAD = """
import os, signal, threading
start = threading.Thread.start
def interrupted(thread):
    os.kill(os.getpid(), signal.SIGINT)
    start(thread)
threading.Thread.start = interrupted
"""


@pytest.mark.parametrize("module", ["ttbert.convert.convert", "huggingface_hub", "flatbuffers", "(its first thread)"])
def test_process_interrupted_while_it_starts_says_so_too(tmp_path: Path, module: str) -> None:
    hook = make_hook(tmp_path / "hook", FIRST_THREAD if module == "(its first thread)" else INTERRUPT.format(module=module))
    model = "org/model" if module == "huggingface_hub" else tiny.write(tmp_path / "tiny", tiny.checkpoint())
    done = ttbert("convert", model, "--cache", tmp_path / "cache", hook=hook)
    assert done.exit_code == 130 and done.out == ""
    assert done.err.strip() == "interrupted; nothing incomplete was published"
    done = ttbert("convert", model, "--cache", tmp_path / "cache", "--json", hook=hook)
    assert done.exit_code == 130 and done.document["error"]["kind"] == "Interrupted"


def test_process_interrupted_before_it_has_imported_the_command_line_is_quiet(tmp_path: Path) -> None:
    done = ttbert("--help", hook=make_hook(tmp_path / "hook", INTERRUPT.format(module="click")))
    assert done.exit_code == 130 and done.out == done.err == ""
