"""Progress where there is no terminal: lines, or one JSON object a line, also while nothing moves."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner
from forks import Forks
from models import open_local, publish
from program import ttbert

from ttbert import console
from ttbert.cli import cli
from ttbert.console import Progress, ScoreProgress, set_progress

NUMBERS = {"objects", "objects_of", "bytes", "bytes_of", "seconds", "seconds_since_last"}


def test_events_are_one_json_object_a_line_on_stderr(tmp_path: Path, forks: Forks) -> None:
    folder = tiny.write(tmp_path / "tiny", tiny.checkpoint())
    done = forks.ttbert("convert", folder, "--json", "--progress", "json", cache=tmp_path / "cache").succeeded()
    events = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
    assert [event["event"] for event in events] == ["begin", "end"] and done.document["tensors"] == events[-1]["objects"]
    assert all({"event", "what", *NUMBERS} == event.keys() for event in events)
    assert events[0]["objects"] == 0 and events[-1]["objects"] == events[-1]["objects_of"]
    assert 0 < events[-1]["bytes"] == events[-1]["bytes_of"]


def test_the_environment_chooses_too_and_nonsense_is_refused(tmp_path: Path) -> None:
    publish(open_local(tmp_path))
    done = ttbert("cache", "verify", "--cache", tmp_path, TTBERT_PROGRESS="json").succeeded()
    assert json.loads(done.err.splitlines()[-1])["event"] == "end"
    lines = ttbert("cache", "verify", "--cache", tmp_path, "--progress", "lines", TTBERT_PROGRESS="json").succeeded()
    assert lines.err.startswith("verifying: 8/8, ")
    ttbert("cache", "verify", "--cache", tmp_path, TTBERT_PROGRESS="nonsense").failed_at_once(2, "TTBERT_PROGRESS: 'nonsense'")


@pytest.mark.parametrize("mode", ["lines", "json"])
def test_it_speaks_while_nothing_moves_and_says_so(
    mode: console.ProgressMode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "_LINE_SECONDS", 0.05)
    monkeypatch.setattr(console, "_STALLED", 0.2)
    set_progress(mode)
    try:
        with Progress("fetching", 2, 300) as progress:
            progress.advance(100)
            time.sleep(0.5)
    finally:
        set_progress(None)
    lines = capsys.readouterr().err.splitlines()
    if mode == "lines":
        assert any("fetching: 1/2, 100 B" in line and "nothing for" in line for line in lines) and "nothing" not in lines[-1]
    else:
        events = [json.loads(line) for line in lines]
        assert {event["event"] for event in events} == {"begin", "progress", "end"}
        assert max(event["seconds_since_last"] for event in events) >= 0.2


def test_what_fails_does_not_end_as_if_it_had_succeeded(capsys: pytest.CaptureFixture[str]) -> None:
    set_progress("json")
    try:
        with pytest.raises(ValueError), Progress("fetching", 2, 300) as progress:
            progress.advance(100)
            raise ValueError
    finally:
        set_progress(None)
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["event"] == "failed"


def test_pull_push_and_demo_tell_events_and_so_does_the_conversion_that_a_demo_starts(tmp_path: Path) -> None:
    def events(*arguments: object) -> list[tuple[str, str]]:
        done = ttbert(*arguments, "--progress", "json", "--json").succeeded()
        found = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
        return [(event["event"], event["what"]) for event in found if event["event"] != "progress"]

    near, far, other = tmp_path / "near", tmp_path / "far", tmp_path / "other"
    assert events("demo", "--model", "bundled", "--cache", near) == [
        (event, "converting bundled") for event in ("begin", "end")
    ]
    pushing = [(event, "pushing bundled:bfp8") for event in ("begin", "end")]
    assert events("cache", "push", "bundled", "--cache", far, "--local", near) == pushing
    fetching = [(event, "fetching bundled:bfp8") for event in ("begin", "end")]
    assert events("cache", "pull", "bundled", "--cache", far, "--local", other) == fetching


def test_a_score_is_told_as_events_too(capsys: pytest.CaptureFixture[str]) -> None:
    set_progress("json")
    try:
        with ScoreProgress("tiny (bfp8)", 3) as progress:
            progress.advance((100.0, 100.0), resumed=True)
            progress.advance((50.0, 75.0), resumed=False)
    finally:
        set_progress(None)
    first, last = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["event"], first["questions"], first["exact"]) == ("begin", 0, None)
    assert (last["event"], last["questions"], last["questions_of"], last["resumed"]) == ("end", 2, 3, 1)
    assert (last["exact"], last["f1"], last["what"]) == (50.0, 75.0, "tiny (bfp8)")


@pytest.mark.parametrize(
    "command",
    ["convert", "demo", "squad", "bench", "plan", "check", "cache verify", "cache pull", "cache push", "cache export"],
)
def test_every_command_that_takes_long_lets_one_choose(command: str) -> None:
    assert "--progress [bar|lines|json]" in CliRunner().invoke(cli, [*command.split(), "--help"]).output


def test_a_bar_leaves_room_for_its_figures_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    set_progress("bar")
    try:
        with Progress("converting someone/a-model-whose-name-is-long", 1, 100):
            pass
    finally:
        set_progress(None)
    assert "converting…:   0%" in capsys.readouterr().err
