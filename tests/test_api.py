"""ttbert in a program of one's own, as docs/python.md has it."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import tiny
from program import HELD, environment, make_hook, objects, ttbert

from ttbert.api import Answer, TtbertError, load_model, open_reader
from ttbert.demo.inputs import built_in_questions
from ttbert.errors import CheckpointError, InputError, NotCached
from ttbert.runtime.mock import temporary_mock_environment

DOCUMENT = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```.*?```\n(.*?)```", DOCUMENT, re.DOTALL)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api") / "cache"
    ttbert("convert", "bundled", "--cache", folder).succeeded()
    return folder


def printed(program: str, env: Mapping[str, str]) -> str:
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_document_shows_what_a_reader_prints(cache: Path) -> None:
    program, expected = PROGRAMS[0]
    assert printed(program, environment(TTBERT_CACHE=str(cache))) == expected


def test_the_readme_shows_what_a_reader_prints(cache: Path) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    found = re.search(r"\n\n(    from ttbert\.api .*?)# (\w+)\n", readme, re.DOTALL)
    assert found
    assert printed(textwrap.dedent(found[1]), environment(TTBERT_CACHE=str(cache))) == f"{found[2]}\n"


@pytest.mark.parametrize("board", ["n150", "n300"])
def test_the_document_shows_what_tensors_on_a_device_are(cache: Path, board: str) -> None:
    program, expected = PROGRAMS[1]
    with temporary_mock_environment(board) as env:
        assert printed(program, {**env, "TTBERT_CACHE": str(cache)}) == expected


def test_reading_tensors_does_not_decide_what_devices_a_process_has(cache: Path) -> None:
    """Two chips, where the mock that packing takes has one."""
    program = """
from ttbert.api import load_model
tensors = [tensor for _, tensor in load_model("bundled").tensors()]
import ttnn
print(len(tensors), ttnn.get_num_devices())
"""
    with temporary_mock_environment("n300") as env:
        assert printed(program, {**env, "TTBERT_CACHE": str(cache)}) == "79 2\n"


def test_a_reader_answers_as_the_demo_does(cache: Path) -> None:
    questions = built_in_questions()[:3]
    with open_reader(load_model("bundled", cache=str(cache)), board="cpu", batch=8) as reader:
        found = reader.answer(questions)
        assert reader.answer([]) == []
    done = ttbert("demo", "--model", "bundled", "--pad", "--json", "--cache", cache).succeeded()
    assert [each.text for each in found] == [each["answer"] for each in done.document["answers"]][:3]


def test_answers_do_not_depend_on_what_else_is_asked(cache: Path) -> None:
    """Windows of all lengths are put together by length, and those of one passage come to lie in several batches."""
    short = built_in_questions()
    passages = " ".join(each.context for each in short)
    asked = [*short[:3], (short[1].question, passages), *short[3:6], ("Who?", "")]
    with open_reader(load_model("bundled", cache=str(cache)), board="cpu", batch=3) as reader:
        together, alone = reader.answer(asked), [reader.answer([each])[0] for each in asked]
        prepared = reader.prepare(asked)
    assert [each.text for each in together] == [each.text for each in alone]
    assert [each.score for each in together] == pytest.approx([each.score for each in alone], abs=1e-4)
    lengths = [len(window) for batch in prepared.batches for window in batch.windows]
    assert len(prepared.windows) > len(asked) + 3 and lengths == sorted(lengths)
    assert [batch.ids.shape for batch in prepared.batches] == [
        (len(batch.windows), max(map(len, batch.windows))) for batch in prepared.batches
    ]


def test_a_model_that_is_not_in_the_cache_is_converted_once(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    first = load_model("bundled", cache=folder, policy="bf16")
    before = objects(folder)
    again = load_model("bundled", cache=str(folder), policy="bf16")
    assert first.digest == again.digest and first.manifest.policy == "bf16" and objects(folder) == before


def test_ctrl_c_during_a_conversion_is_a_keyboard_interrupt(tmp_path: Path) -> None:
    told, cache = tmp_path / "told", tmp_path / "cache"
    env = environment(hook=make_hook(tmp_path / "hook", HELD.format(told=str(told))), TTBERT_CACHE=str(cache))
    program = 'from ttbert.api import load_model\ntry: load_model("bundled")\nexcept KeyboardInterrupt: print("left")'
    with subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True) as process:
        while not told.exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=100)[0] == "left\n"
    assert not [key for key in objects(cache) if ".tmp-" in key or key.startswith("leases/")]


def test_the_cache_is_the_one_that_variables_and_settings_name(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("TTBERT_")]:
        monkeypatch.delenv(name)
    settings = tmp_path / "ttbert" / "config.toml"
    settings.parent.mkdir()
    settings.write_text(f'cache = "{cache}"\nread_only = true\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load_model("bundled").cache.store.url == str(cache)
    monkeypatch.setenv("TTBERT_CACHE", str(tmp_path / "other"))
    with pytest.raises(TtbertError, match="for reading only"):
        load_model("bundled")
    monkeypatch.setenv("TTBERT_READ_ONLY", "perhaps")
    with pytest.raises(InputError, match="TTBERT_READ_ONLY is 'perhaps', which is neither true nor false"):
        load_model("bundled")


def test_mistakes_are_told_before_anything_is_done(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'int8' is no policy"):
        load_model("bundled", policy="int8", cache=str(cache))
    with pytest.raises(NotCached):
        load_model("nobody/nothing", cache=str(cache), offline=True)
    model = load_model("bundled", cache=str(cache))
    for wrong in ({"board": "n15"}, {"precision": "int8"}, {"batch": 0}):
        with pytest.raises(InputError):
            open_reader(model, **wrong)  # type: ignore[arg-type]


def test_an_answer_is_a_piece_of_its_passage(cache: Path) -> None:
    question, passage = built_in_questions()[1]
    with open_reader(load_model("bundled", cache=str(cache)), board="cpu", precision="bfloat16") as reader:
        (answer,) = reader.answer([(question, passage)])
        ((best, second, *others),) = reader.rank([(question, passage)], 5)
    assert best == answer and best.score > second.score and len(others) == 3
    assert isinstance(answer, Answer) and answer.text == passage[answer.start : answer.end] != ""


def test_questions_are_pairs_of_any_iterable(cache: Path) -> None:
    """A dictionary would be taken for a question about the names of its fields."""
    asked = built_in_questions()[:2]
    with open_reader(load_model("bundled", cache=cache), board="cpu") as reader:
        questions, passages = zip(*asked, strict=True)
        assert reader.answer(zip(questions, passages, strict=True)) == reader.answer(asked)
        for wrong, what in ([asked[0]._asdict()], "dict"), (["ab"], "str"), (asked[0], "str"):
            with pytest.raises(TypeError, match=f"question 1 is a {what}, not"):
                reader.answer(wrong)  # type: ignore[arg-type]


def test_a_question_that_is_too_long_is_told_by_its_number(cache: Path) -> None:
    says = "question 2: the question has 500 tokens; at most 380 fit"
    with open_reader(load_model("bundled", cache=cache), board="cpu") as reader, pytest.raises(InputError, match=says):
        reader.answer([("Who?", "It was Ann."), ("what " * 500, "It was Ann.")])


def test_what_fails_in_a_conversion_is_an_error_of_its_kind_and_goes_to_other_processes(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "model", tiny.checkpoint(tiny.arrays(layers=3)))
    with pytest.raises(CheckpointError, match=r"not known: encoder\.layer\.2") as caught:
        load_model(folder, cache=tmp_path / "cache")
    sent = pickle.loads(pickle.dumps(caught.value))
    assert (type(sent), sent.message, sent.hint, sent.exit_code) == (CheckpointError, *caught.value.args, caught.value.hint, 3)


def test_a_reader_in_a_process_forked_after_it_was_opened_is_an_error(cache: Path) -> None:
    """Not a process that hangs."""
    program = """
import os
import torch
from ttbert.api import load_model, open_reader
torch.set_num_threads(2)
def ask(reader):
    try:
        return reader.answer([("Who?", "It was Ann.")])[0].text
    except RuntimeError as error:
        return str(error)[:23]
def forked(ask):
    if os.fork() == 0:
        print(ask(), flush=True)
        os._exit(0)
    os.wait()
def ask_anew():
    try:
        with open_reader(model, board="cpu") as reader:
            return "opened"
    except RuntimeError as error:
        return str(error)[:23]
model = load_model("bundled")
forked(ask_anew)
with open_reader(model, board="cpu") as reader:
    forked(lambda: ask(reader))
    forked(ask_anew)
    torch.set_num_threads(1)
    forked(lambda: len(ask(reader)))
"""
    refused = "this process was forked"
    assert printed(program, environment(TTBERT_CACHE=str(cache))).split("\n")[:3] == ["opened", refused, refused]
