"""`ttbert squad` as a user runs it, on the bundled model and a small data set: files, resume, comparisons, exit codes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path

import pytest
from program import Done, command, environment, ttbert
from squads import built_in, document, write

from ttbert.cli import main
from ttbert.squad.document import N_BEST, NULL_ODDS, PREDICTIONS, RUN

QUESTIONS = 36


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache that holds the bundled model, and a data set."""
    folder = tmp_path_factory.mktemp("squad")
    write(folder / "data.json", built_in(QUESTIONS))
    ttbert("convert", "bundled", "--cache", folder / "cache").succeeded()
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command line in this process, which spares the seconds that torch and TT-NN need to start."""

    def invoke(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["ttbert", *map(str, arguments)])
        capsys.readouterr()
        exit_code = 0
        try:
            main()
        except SystemExit as leaving:
            exit_code = int(leaving.code or 0)
        return Done(exit_code, *capsys.readouterr())

    return invoke


def arguments(place: Path, output: Path, *more: object) -> list[object]:
    files = ["--data", place / "data.json", "--cache", place / "cache", "--output", output]
    return ["squad", "--model", "bundled", "--offline", "--batch", 2, *files, *more]


@pytest.fixture(scope="module")
def whole(place: Path) -> tuple[Path, Done]:
    """The files and the output of a run that nobody interrupted."""
    output = place / "whole"
    return output, ttbert(*arguments(place, output, "--report", place / "report", "--compare", "float32")).succeeded()


def files(output: Path) -> dict[str, object]:
    """All that a run says, without its timings."""
    found = {name: json.loads((output / name).read_text()) for name in (PREDICTIONS, NULL_ODDS, N_BEST, RUN)}
    for name in ("timings", "questions_per_second"):
        del found[RUN][name]
    return found


def test_run_prints_the_score_of_all_questions(whole: tuple[Path, Done]) -> None:
    _, done = whole
    assert f"data.json: all {QUESTIONS} questions" in done.out and "partial" not in done.out.lower()
    assert re.search(r"all +\d+\.\d\d +\d+\.\d\d +36", done.out)
    assert "95% interval" in done.out and "PCC of the logits: 0.99" in done.out
    assert "no device is used" in done.err and "as long as their longest window" in done.err


def test_files_are_in_the_official_format(whole: tuple[Path, Done]) -> None:
    output, _ = whole
    ids = [f"q{number}" for number in range(QUESTIONS)]
    predictions, nulls = (json.loads((output / name).read_text()) for name in (PREDICTIONS, NULL_ODDS))
    assert list(predictions) == ids and all(isinstance(each, str) for each in predictions.values())
    assert list(nulls) == ids and all(isinstance(each, float) for each in nulls.values())
    assert all((nulls[id] > 0) == (predictions[id] == "") for id in ids)
    run = json.loads((output / RUN).read_text())
    assert run["partial"] is None and run["score"]["total"] == QUESTIONS
    assert run["provenance"]["manifest"].startswith("blake3:") and run["timings"]["busy_share"] > 0.5


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_interrupted_run_goes_on_to_the_very_same_result(
    run: Callable[..., Done], place: Path, whole: tuple[Path, Done], tmp_path: Path, how: signal.Signals
) -> None:
    journal = tmp_path / "journal"
    process = subprocess.Popen(
        command(*arguments(place, tmp_path, "--json")), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while (not journal.exists() or journal.stat().st_size < 6_000) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (-9 if how is signal.SIGKILL else 128 + how)
    assert not (tmp_path / PREDICTIONS).exists()
    if how is not signal.SIGKILL:
        assert b"--resume" in err and b"Traceback" not in err
        error = json.loads(out)["error"]
        assert error["kind"] == "Interrupted" and str(tmp_path) in error["message"] and "--resume" in error["hint"]
    else:
        assert out == b""

    run(*arguments(place, tmp_path)).failed(2, "an unfinished run is in", "--resume")
    done = run(*arguments(place, tmp_path, "--resume")).succeeded()
    resumed = int(re.search(r"(\d+) of them from the journal", done.out)[1])
    assert 0 < resumed < QUESTIONS // 2
    assert files(tmp_path) == files(whole[0])


def test_a_finished_run_is_the_same_from_its_journal(run: Callable[..., Done], place: Path, whole: tuple[Path, Done]) -> None:
    before = files(whole[0])
    done = run(*arguments(place, whole[0], "--resume")).succeeded()
    assert "18 batches, 18 of them from the journal" in done.out
    assert files(whole[0]) == before


def test_resume_with_other_options_is_refused(run: Callable[..., Done], place: Path, whole: tuple[Path, Done]) -> None:
    run(*arguments(place, whole[0], "--resume", "--batch", 4)).failed(2, "its batch is 2, not 4")
    run(*arguments(place, whole[0], "--resume", "--limit", 4)).failed(2, "its limit is unset, not 4")


def test_resume_with_another_version_of_the_tokenizer_is_refused(
    run: Callable[..., Done], place: Path, whole: tuple[Path, Done], tmp_path: Path
) -> None:
    """It may cut the same text into other words, in batches that look alike."""
    mine = version("tokenizers")
    journal = (whole[0] / "journal").read_bytes()
    (tmp_path / "journal").write_bytes(journal.replace(f'"tokenizers":"{mine}"'.encode(), b'"tokenizers":"0.0"', 1))
    run(*arguments(place, tmp_path, "--resume")).failed(2, f"its tokenizers is 0.0, not {mine}")


def test_precisions_are_never_mixed_up(run: Callable[..., Done], place: Path, whole: tuple[Path, Done], tmp_path: Path) -> None:
    rounded = ["--precision", "bfloat16"]
    run(*arguments(place, whole[0], "--resume", *rounded)).failed(2, "its precision is float32, not bfloat16")
    done = run(*arguments(place, tmp_path, *rounded, "--limit", 4, "--compare", "cpu", "--report", tmp_path)).succeeded()
    assert "in bfloat16, not the reference," in done.err and "(bfp8) on cpu in bfloat16" in done.out
    assert "A  bundled (bfp8, cpu in bfloat16)" in done.out and "B  bundled (bfp8, cpu)" in done.out
    assert 0.999 < json.loads((tmp_path / "report.json").read_text())["comparison"]["pcc"] < 1
    assert json.loads((tmp_path / RUN).read_text())["provenance"]["precision"] == "bfloat16"
    assert "in bfloat16, not the reference" in (tmp_path / "index.html").read_text()


def test_partial_score_is_said_to_be_one_everywhere(run: Callable[..., Done], place: Path, tmp_path: Path) -> None:
    part = ["--sample", 6, "--seed", 3, "--limit", 4]
    done = run(*arguments(place, tmp_path, *part, "--report", tmp_path / "report")).succeeded()
    assert "PARTIAL: the first 4 of a random sample of 6 (seed 3), 4 of 36 questions" in done.out
    assert "all (partial)" in done.out
    expected = {"questions": 4, "of": QUESTIONS, "limit": 4, "sample": 6, "seed": 3}
    assert json.loads((tmp_path / RUN).read_text())["partial"] == expected
    assert json.loads((tmp_path / "report" / "report.json").read_text())["partial"] == expected
    assert "Partial score: 4 of 36 questions" in (tmp_path / "report" / "index.html").read_text()


def test_bounds_end_in_an_accuracy_error(run: Callable[..., Done], place: Path, whole: tuple[Path, Done]) -> None:
    done = run(*arguments(place, whole[0], "--resume", "--fail-below", 99.5))
    assert done.exit_code == 13 and "all 36 questions" in done.out
    assert "below the bound of 99.5" in done.err and "hint:" in done.err
    document = run(*arguments(place, whole[0], "--resume", "--fail-below", 99.5, "--json"))
    assert document.exit_code == 13 and document.document["error"]["kind"] == "AccuracyError"
    assert document.document["score"]["total"] == QUESTIONS
    compare = ["--resume", "--compare", "float32", "--max-drop"]
    run(*arguments(place, whole[0], *compare, 100)).succeeded()
    dropped = run(*arguments(place, whole[0], *compare, -100))
    assert dropped.exit_code == 13 and "F1 minus that of bundled (float32, cpu) is +0.00 (" in dropped.err
    alone = run(*arguments(place, whole[0], "--max-drop", 1))
    assert alone.exit_code == 2 and "--max-drop needs --compare" in alone.err


def test_a_bound_that_nothing_can_fail_is_refused(run: Callable[..., Done]) -> None:
    for option in ("--fail-below", "--max-drop"):
        for bound in ("nan", "-nan", "200", "inf", "-101"):
            done = run("squad", "--model", "bundled", "--compare", "cpu", f"{option}={bound}")
            done.failed_at_once(2, f"invalid value for '{option}'")
    assert "is not in the range" in run("squad", "--model", "bundled", "--fail-below=-1").err


def test_a_model_to_compare_with_that_is_not_there_is_told_before_anything_runs(
    run: Callable[..., Done], place: Path, tmp_path: Path
) -> None:
    run(*arguments(place, tmp_path / "out", "--compare", "./nope")).failed_at_once(2, "the folder ./nope is not there")
    assert not (tmp_path / "out").exists()


def test_two_results_are_compared(run: Callable[..., Done], place: Path, whole: tuple[Path, Done], tmp_path: Path) -> None:
    float32 = whole[0] / "compare" / "float32"
    done = run("squad", "diff", place / "report", float32, "--json").succeeded().document
    assert done["questions"] == QUESTIONS and done["pcc"] > 0.99 and not done["partial"]
    first, second = (json.loads((each / PREDICTIONS).read_text()) for each in (whole[0], float32))
    assert {each["id"] for each in done["changes"]} == {id for id in first if first[id] != second[id]}
    same = run("squad", "diff", whole[0], whole[0] / RUN).succeeded()
    assert "0 of 36 answers differ" in same.out and "+0.00 to +0.00" in same.out
    run("squad", "diff", whole[0], tmp_path).failed_at_once(2, "is no result of a run")
    other = tmp_path / "other.json"
    changed = json.loads((whole[0] / RUN).read_text())
    changed["provenance"]["data"]["digest"] = "blake3:" + 64 * "0"
    other.write_text(json.dumps(changed))
    run("squad", "diff", whole[0], other).failed_at_once(2, "different data")


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(str(value))
            if name in ("href", "src", "xlink:href"):
                self.links.append(str(value))


def test_report_is_one_page_that_needs_nothing_else(place: Path, whole: tuple[Path, Done]) -> None:
    text = (place / "report" / "index.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.tags.count("svg") == 5 and "script" not in page.tags and "img" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert "prefers-color-scheme: dark" in text and "url(http" not in text and "@import" not in text
    manifest = json.loads((whole[0] / RUN).read_text())["provenance"]["manifest"]
    assert manifest in text and "Partial score" not in text


def test_report_escapes_what_data_says(run: Callable[..., Done], place: Path, tmp_path: Path) -> None:
    hostile = "</blockquote><script>alert(1)</script> & \u0000\u001b the cat"
    data = write(tmp_path / "data.json", document((hostile, "<b>who</b>\u0007?", ["the cat"]), (hostile, "<i>when</i>?", [])))
    options = ["--cache", place / "cache", "--output", tmp_path, "--report", tmp_path]
    run("squad", "--model", "bundled", "--data", data, *options).succeeded()
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<script" not in text and "<b>who" not in text and "<i>when" not in text
    assert not any(char in text for char in "\u0000\u0007\u001b")


def test_version_1_data_always_gets_an_answer(run: Callable[..., Done], place: Path, tmp_path: Path) -> None:
    content = document(("The cat sat on the mat.", "Who sat?", ["The cat"]), ("The dog ran.", "Who ran?", ["The dog"]))
    content["version"] = "1.1"
    for paragraph in content["data"][0]["paragraphs"]:
        del paragraph["qas"][0]["is_impossible"]
    data = write(tmp_path / "data.json", content)
    options = ["--cache", place / "cache", "--output", tmp_path, "--report", tmp_path, "--json"]
    done = run("squad", "--model", "bundled", "--data", data, *options).succeeded().document
    assert "best_f1" not in done["score"] and "NoAns_total" not in done["score"]
    assert all(json.loads((tmp_path / PREDICTIONS).read_text()).values()) and not (tmp_path / NULL_ODDS).exists()


def test_bad_input_ends_in_two_lines(run: Callable[..., Done], place: Path, tmp_path: Path) -> None:
    cache = ["--cache", place / "cache", "--model", "bundled"]
    empty = tmp_path / "empty.json"
    empty.write_text("")
    run("squad", *cache, "--data", empty).failed_at_once(2, "is empty", "format of SQuAD")
    run("squad", *cache, "--data", tmp_path / "absent.json").failed_at_once(2, "there is no file")
    run("squad", *cache, "--data", place / "data.json", "--limit", 99).failed_at_once(2, "more than the 36 questions")
    run("squad", *cache, "--data", place / "data.json", "--board", "n150", "--batch", 9).failed_at_once(4, "does not fit")
    long = write(tmp_path / "long.json", document(("the cat", "who " * 500, ["cat"])))
    run("squad", *cache, "--data", long, "--output", tmp_path / "out").failed(2, "question q0", "tokens")
