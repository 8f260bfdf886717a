"""What `ttbert demo` promises: the right answers from the cache alone, and one clear error for each cause."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import tiny
from program import HELD, NO_SOCKETS, command, environment, imported, make_hook, objects, ttbert

from ttbert.cache.places import Places
from ttbert.cache.refs import Ref
from ttbert.demo.inputs import Question, built_in_questions, read_questions

ANSWERS = [
    "Canada's Bay of Fundy",
    "Luis Ramírez de Lucena",
    "",
    "John Fowler and Benjamin Baker",
    "nine years",
    "Edward Wright",
    "",
    "twenty thousand pounds",
]
LONG = Path(__file__).parent / "data" / "long_context.json"
QUESTIONS = [{"context": "the tea is hot", "question": "is it tea"}, {"context": "a hat", "question": "hat"}]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the bundled model in it."""
    cache = tmp_path_factory.mktemp("demo") / "cache"
    ttbert("convert", "bundled", "--cache", cache).succeeded()
    return cache


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("models") / "tiny", tiny.checkpoint())


@pytest.fixture(scope="module")
def tiny_cache(tiny_folder: Path) -> Path:
    cache = tiny_folder.parent / "cache"
    ttbert("convert", tiny_folder, "--cache", cache).succeeded()
    return cache


def inputs(folder: Path, content: object) -> Path:
    path = folder / "questions.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


TORCH_WAITS = """
import os, sys, threading
opened, all_opened = set(), threading.Event()
def note(event, arguments):
    if event == "open" and "/blobs/" in str(arguments[0]):
        opened.add(arguments[0])
        if len(opened) > 3:  # the small files, and a pack
            all_opened.set()
class Waiting:
    def find_spec(self, name, path=None, target=None):
        if name == "torch" and "ttnn" not in sys.modules and not all_opened.wait(60):
            os._exit(98)
sys.addaudithook(note)
sys.meta_path.insert(0, Waiting())
"""
"""A hook: end the process, with 98, when torch is imported and nobody reads weights meanwhile."""


# Answers


def test_bundled_model_answers_the_built_in_questions_from_the_cache_alone(cache: Path, tmp_path: Path) -> None:
    before = objects(cache)
    hook = make_hook(tmp_path / "hook", NO_SOCKETS)
    arguments = ("demo", "--model", "bundled", "--json", "--cache", cache)
    done = ttbert(*arguments, hook=hook, PYTHONPROFILEIMPORTTIME="1").succeeded()
    assert not {name.partition(".")[0] for name in imported(done)} & {"transformers", "huggingface_hub", "safetensors"}
    assert objects(cache) == before

    document = done.document
    answers = document.pop("answers")
    assert [each["answer"] for each in answers] == ANSWERS
    for each, question in zip(answers, built_in_questions(), strict=False):
        assert each.keys() == {"question", "answer", "start", "end", "score"} and each["question"] == question.question
        assert question.context[each["start"] : each["end"]] == each["answer"]
        assert 0 < each["score"] <= 1.000001
    seconds = document.pop("seconds")
    assert seconds.keys() == {"preparing_inputs", "loading_weights", "first_run", "steady_runs", "postprocessing"}
    assert seconds["steady_runs"] and min(*seconds["steady_runs"], seconds["loading_weights"], seconds["first_run"]) > 0
    assert document.pop("inputs_per_second") > 0
    counters = document.pop("counters")
    assert counters["bytes"]["cache"] > 19e6 and counters["damaged"] == 0
    assert document == {
        "model": "bundled",
        "policy": "bfp8",
        "board": "cpu",
        "batch": 8,
        "manifest": str(Places(str(cache)).open().resolve(Ref("bundled", None, "bfp8")).digest),
        "precision": "float32",
        "tokens": 191,
        "windows": 8,
        "batches": 1,
    }


def test_weights_are_read_while_torch_is_imported(cache: Path, tmp_path: Path) -> None:
    hook = make_hook(tmp_path / "hook", TORCH_WAITS)
    ttbert("demo", "--model", "bundled", "--json", "--cache", cache, hook=hook).succeeded()


def test_long_context_is_read_in_windows_and_answered_wherever_the_answer_is(cache: Path) -> None:
    done = ttbert("demo", "--model", "bundled", "--batch", "2", "--input", LONG, "--json", "--cache", cache).succeeded()
    assert {each["question"]: each["answer"] for each in done.document["answers"]} == {
        "How large was the prize that Parliament offered?": "twenty thousand pounds",
        "Who wrote the oldest surviving book on modern chess?": "Luis Ramírez de Lucena",
    }
    assert done.document["windows"] > 8 and done.document["batches"] == -(-done.document["windows"] // 2)
    for each, source in zip(done.document["answers"], json.loads(LONG.read_bytes()), strict=True):
        assert source["context"][each["start"] : each["end"]] == each["answer"]


def test_answer_is_in_brackets_in_a_pipe_and_in_colour_on_a_terminal(cache: Path) -> None:
    arguments = ("demo", "--model", "bundled", "--batch", "1", "--cache", cache)
    piped = ttbert(*arguments).succeeded().out
    assert re.search(r"\[\[Canada's\s+Bay\s+of\s+Fundy\]\]", piped) and "\033" not in piped
    assert "1. Where are the highest tides" in piped and "inputs/s" in piped
    shown = on_a_terminal(command(*arguments))
    assert re.search(r"\033\[1;32mCanada's\s+Bay\s+of\s+Fundy\033\[0m", shown) and "[[" not in shown


def on_a_terminal(arguments: Sequence[str]) -> str:
    """What a command writes to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(arguments, env=environment(TERM="xterm", COLUMNS="80"), stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    _, err = process.communicate()
    assert process.returncode == 0, err.decode()
    return shown.decode()


# Getting the model


def test_miss_is_converted_first_and_said_so_and_the_next_run_is_a_hit(tiny_folder: Path, tmp_path: Path) -> None:
    file = inputs(tmp_path, QUESTIONS)
    arguments = ("demo", "--model", tiny_folder, "--batch", "2", "--input", file, "--json", "--cache", tmp_path / "cache")
    first = ttbert(*arguments).succeeded()
    assert f"{tiny_folder} (bfp8) is not in the cache {tmp_path / 'cache'}: converting it first" in first.err
    before = objects(tmp_path / "cache")
    second = ttbert(*arguments).succeeded()
    assert "converting" not in second.err and objects(tmp_path / "cache") == before
    assert second.document["answers"] == first.document["answers"]


def test_folder_that_changed_is_not_answered_from_the_old_conversion(tiny_cache: Path, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "tiny", {**tiny.checkpoint(), "vocab.txt": tiny.VOCAB_TXT.replace(b"[CLS]", b"[CLX]")})
    arguments = ("demo", "--model", folder, "--batch", "1", "--cache", tiny_cache)
    done = ttbert(*arguments)
    assert "is not in the cache" in done.err
    done.failed(3, "vocab.txt has no [CLS]")


def test_read_only_cache_serves_a_demo(tiny_folder: Path, tiny_cache: Path, small_disk: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=10m", small_disk], check=True)
    subprocess.run(["cp", "-a", f"{tiny_cache}/.", small_disk], check=True)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    file = inputs(tmp_path, QUESTIONS)
    ttbert("demo", "--model", tiny_folder, "--batch", "2", "--input", file, "--cache", small_disk).succeeded()


def test_a_service_that_has_no_home_gets_its_answers(tiny_folder: Path, tiny_cache: Path, tmp_path: Path) -> None:
    homeless = {name: value for name, value in environment().items() if name != "HOME"}
    file = inputs(tmp_path, QUESTIONS)
    arguments = ("demo", "--model", tiny_folder, "--batch", "2", "--input", file, "--cache", tiny_cache)
    for board in ("cpu", "auto"):
        ttbert(*arguments, "--board", board, env=homeless).succeeded()


def test_what_is_not_there_and_may_not_be_published_is_not_announced(tiny_folder: Path, tmp_path: Path) -> None:
    arguments = ("demo", "--model", tiny_folder, "--batch", "1", "--cache", tmp_path / "cache", "--read-only")
    ttbert(*arguments).failed_at_once(9, f"is not in the cache {tmp_path / 'cache'}, which is used for reading only here")


@pytest.mark.parametrize(
    ("send", "how"),
    [(os.kill, signal.SIGINT), (os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM), (os.killpg, signal.SIGHUP)],
    ids=["the process", "its group, as Ctrl-C does", "terminated", "without its terminal"],
)
def test_an_interrupted_demo_leaves_nothing_of_the_conversion_it_began(
    tiny_folder: Path, tmp_path: Path, send: Callable[[int, int], None], how: signal.Signals
) -> None:
    told, cache = tmp_path / "told", tmp_path / "cache"
    not_ignored = f"import signal; signal.signal({int(how)}, signal.SIG_DFL)\n" if how is signal.SIGHUP else ""  # as by nohup
    hook = make_hook(tmp_path / "hook", not_ignored + HELD.format(told=str(told)))
    with subprocess.Popen(
        command("demo", "--model", tiny_folder, "--cache", cache),
        env=environment(hook=hook),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        while not told.exists():
            assert process.poll() is None
            time.sleep(0.02)
        send(process.pid, how)
        out, err = process.communicate(timeout=100)
    by = b"interrupted;" if how is signal.SIGINT else b"interrupted by %s;" % how.name.encode()
    assert (process.returncode, out, err.count(by), b"Traceback" in err) == (128 + how, b"", 1, False), err
    assert not _of_conversions(cache)


def test_a_demo_that_is_killed_leaves_nothing_of_the_conversion_it_began(tiny_folder: Path, tmp_path: Path) -> None:
    told, cache = tmp_path / "told", tmp_path / "cache"
    hook = make_hook(tmp_path / "hook", HELD.format(told=str(told)))
    with subprocess.Popen(
        command("demo", "--model", tiny_folder, "--cache", cache), env=environment(hook=hook), stderr=subprocess.DEVNULL
    ) as process:
        while not told.exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    deadline = time.monotonic() + 60
    while _of_conversions(cache):
        assert time.monotonic() < deadline, "the conversion is still at work"
        time.sleep(0.05)


def _of_conversions(cache: Path) -> list[str]:
    """What a conversion that is at work has in a cache, or one that was killed."""
    found = [f"{folder}/{name}" for folder, _, names in os.walk(cache) for name in names]
    return [path for path in found if "/.tmp-" in path or path.startswith(f"{cache}/leases/")]


def test_offline_without_the_default_model_names_the_bundled_one(tmp_path: Path) -> None:
    hook = make_hook(tmp_path / "hook", NO_SOCKETS)
    done = ttbert("demo", "--offline", "--cache", tmp_path / "cache", hook=hook, HF_HOME=str(tmp_path / "hf"))
    done.failed_at_once(6, "phiyodr/bert-large-finetuned-squad2", "--model bundled")


def test_hub_out_of_reach_names_the_bundled_model(tmp_path: Path) -> None:
    env = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    ttbert("demo", "--cache", tmp_path / "cache", **env).failed_at_once(11, "http://127.0.0.1:9", "--model bundled")


def test_model_without_a_head_is_refused(tmp_path: Path) -> None:
    weights = {name: array for name, array in tiny.arrays(prefix="").items() if not name.startswith("qa_")}
    folder = tiny.write(tmp_path / "plain", tiny.checkpoint(weights, architectures=["BertModel"]))
    ttbert("demo", "--model", folder, "--cache", tmp_path / "cache").failed(
        3, "BertModel, which has no question-answering head"
    )


def test_damaged_blob_is_named_with_its_tensor_and_nothing_is_answered(
    tiny_folder: Path, tiny_cache: Path, tmp_path: Path
) -> None:
    cache, blob = copied(tiny_cache, tmp_path)
    content = bytearray(blob.read_bytes())
    content[0] ^= 1
    blob.write_bytes(content)
    arguments = ("demo", "--model", tiny_folder, "--batch", "1", "--cache", cache)
    ttbert(*arguments).failed(7, str(blob), "layers.1.up.weight", "ttbert cache verify --repair")
    assert blob.name in ttbert("cache", "verify", "--repair", "--cache", cache).out and not blob.exists()
    ttbert(*arguments).succeeded()


def test_model_that_is_visibly_not_whole_is_converted_again(tiny_folder: Path, tiny_cache: Path, tmp_path: Path) -> None:
    cache, blob = copied(tiny_cache, tmp_path)
    content = blob.read_bytes()
    blob.write_bytes(content[:-1])
    done = ttbert("demo", "--model", tiny_folder, "--batch", "1", "--cache", cache).succeeded()
    assert f"is not whole in the cache {cache}: converting it again" in done.err and blob.read_bytes() == content
    assert len(list(cache.glob("quarantine/*"))) == 1


def copied(cache: Path, folder: Path) -> tuple[Path, Path]:
    """A copy of a cache with the tiny model, and the file of a pack of which a certain tensor is the first."""
    copy = folder / "cache"
    shutil.copytree(cache, copy)
    found = Places(str(copy)).open().resolve(Ref("local/tiny", None, "bfp8"))
    assert found is not None
    pack = next(each for each in found.manifest.packs if each.tensors[0].name == "layers.1.up.weight")
    return copy, copy / "blobs" / pack.blob.hex[:2] / pack.blob.hex


# Inputs


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[{", "is not JSON"),
        (b"\xff\xfe\xff", "is not JSON"),
        ({"context": "a", "question": "b"}, "holds no list"),
        ([], "holds nothing"),
        (["a"], "input 1 is not an object"),
        ([*QUESTIONS, {"context": "a"}], "input 3: it has no 'question'"),
        ([{"question": "a"}], "input 1: it has no 'context'"),
        ([{"context": " \n", "question": "b"}], "input 1: its 'context' is empty"),
        ([{"context": "a", "question": ""}], "input 1: its 'question' is empty"),
        ([{"context": ["a"], "question": "b"}], "input 1: its 'context' is not text"),
    ],
)
def test_input_that_is_not_a_list_of_questions_is_refused_with_its_place(tmp_path: Path, content: object, says: str) -> None:
    file = inputs(tmp_path, content)
    ttbert("demo", "--model", "bundled", "--input", file).failed_at_once(2, str(file), says, '{"context": "...", "question"')


def test_input_in_another_encoding_is_told_which_is_wanted(tmp_path: Path) -> None:
    file = inputs(tmp_path, '[{"context": "Béziers", "question": "Où ?"}]'.encode("latin-1"))
    ttbert("demo", "--model", "bundled", "--input", file).failed_at_once(2, "is not JSON: 'utf-8' codec", "written as UTF-8")


def test_half_of_a_character_is_refused_with_its_place(tmp_path: Path) -> None:
    file = inputs(tmp_path, [*QUESTIONS, {"context": "tea\ud800", "question": "b"}])
    says = f"{file}, input 3: its 'context' is not Unicode text: a lone surrogate at character 3"
    ttbert("demo", "--model", "bundled", "--input", file).failed_at_once(2, says, "encoding")


def test_input_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    ttbert("demo", "--input", tmp_path / "gone.json").failed_at_once(2, f"there is no file {tmp_path / 'gone.json'}")
    ttbert("demo", "--input", tmp_path).failed_at_once(2, str(tmp_path), "cannot be read")


def test_wrong_number_of_inputs_is_refused_with_what_to_pass(tmp_path: Path) -> None:
    file = inputs(tmp_path, QUESTIONS)
    ttbert("demo", "--input", file).failed_at_once(2, "has 2 inputs, but the batch is 8", "--batch 2", "--pad")
    ttbert("demo", "--batch", "1", "--input", file).failed_at_once(2, "has 2 inputs, but the batch is 1", "--batch 2")
    built_in = len(built_in_questions())
    ttbert("demo", "--batch", "500").failed_at_once(2, f"there are {built_in} built-in", f"--batch {built_in}", "--pad")


def test_pad_takes_any_number_of_inputs(tiny_folder: Path, tiny_cache: Path, tmp_path: Path) -> None:
    file = inputs(tmp_path, QUESTIONS + QUESTIONS[:1])
    arguments = ("demo", "--model", tiny_folder, "--input", file, "--json", "--cache", tiny_cache, "--pad", "--batch")
    padded, exact = (ttbert(*arguments, batch).succeeded().document for batch in ("2", "3"))
    assert (padded["batches"], exact["batches"]) == (2, 1) and len(padded["answers"]) == 3
    assert [each["answer"] for each in padded["answers"]] == [each["answer"] for each in exact["answers"]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_input_files_of_other_systems_are_read(tmp_path: Path, encoding: str) -> None:
    file = inputs(tmp_path, json.dumps([{"context": "東京", "question": "é"}], ensure_ascii=False).encode(encoding))
    assert read_questions(file) == [Question("é", "東京")]


def test_question_that_fills_the_model_is_refused(tiny_folder: Path, tiny_cache: Path, tmp_path: Path) -> None:
    file = inputs(tmp_path, [{"context": "tea", "question": "tea " * 40}])
    arguments = ("demo", "--model", tiny_folder, "--batch", "1", "--input", file, "--cache", tiny_cache)
    ttbert(*arguments).failed(2, "the question has 120 tokens; at most 92 fit")


# Boards


@pytest.mark.parametrize(
    ("board", "batch", "exit_code", "says"),
    [
        ("n150", 12, 4, ("batch 12 does not fit the board n150", "at most 8", "--batch 8 or less")),
        ("e150", 13, 4, ("batch 13 does not fit the board e150", "--batch 12 or less")),
        ("e150", 12, 12, ("v0.55", "--board cpu")),
        ("n150", 8, 12, ("batch 8 fits the board n150", "--board cpu")),
        ("n150", 7, 12, ("batch 7 fits the board n150", "--board cpu")),
    ],
)
def test_batch_is_checked_against_the_board_before_anything_else(
    tmp_path: Path, board: str, batch: int, exit_code: int, says: tuple[str, ...]
) -> None:
    arguments = ("demo", "--board", board, "--batch", batch, "--input", tmp_path / "gone", "--cache", tmp_path / "cache")
    ttbert(*arguments).failed_at_once(exit_code, *says)
    assert not (tmp_path / "cache").exists()


def test_batch_of_seven_runs_on_the_cpu(tiny_folder: Path, tiny_cache: Path, tmp_path: Path) -> None:
    file = inputs(tmp_path, QUESTIONS[:1] * 7)
    arguments = ("demo", "--model", tiny_folder, "--input", file, "--batch", "7", "--board", "cpu", "--json")
    done = ttbert(*arguments, "--cache", tiny_cache).succeeded()
    assert done.document["batch"] == 7 and len(done.document["answers"]) == 7


# Help

COMMANDS = ["convert", "demo", "bench", *(f"cache {verb}" for verb in ("info", "ls", "show", "verify", "rm", "gc"))]


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_has_an_example_and_starts_nothing_heavy(name: str) -> None:
    done = ttbert(*name.split(), "--help", PYTHONPROFILEIMPORTTIME="1").succeeded()
    assert re.search(rf"^  ttbert {name or 'convert'}\b", done.out, re.MULTILINE), done.out
    assert name == "" or "--json" in done.out
    roots = {module.partition(".")[0] for module in imported(done)}
    assert not roots & {"torch", "ttnn", "transformers", "numpy", "huggingface_hub", "tokenizers", "fsspec"}


def test_version_is_printed() -> None:
    from ttbert import __version__

    assert ttbert("--version").succeeded().out == f"ttbert, version {__version__}\n"
