"""`ttbert demo`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..console import passage, plain, say, show, styled, tell
from ..text import count_text, size_text
from .options import (
    batch_option,
    board_option,
    json_option,
    model_option,
    offline_option,
    places_option,
    precision_option,
    progress_option,
    trace_option,
    wanted_option,
)
from .tiers import supply_to_load

if TYPE_CHECKING:
    from ..cache.cache import Cached
    from ..cache.places import Places
    from ..convert.wanted import Wanted
    from ..demo.demo import Outcome, Timings
    from ..demo.inputs import Question
    from ..runtime.target import Target


_NOTHING = "   nothing: a mock device computes no answer"


@click.command("demo")
@model_option
@wanted_option
@batch_option
@board_option
@trace_option
@precision_option
@click.option(
    "--input",
    "input_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='Questions: a JSON list of {"context", "question"}.  [default: built in]',
)
@click.option("--pad", is_flag=True, help="Take any number of inputs; the last batch may be partly empty.")
@places_option
@offline_option
@progress_option
@json_option
def demo_command(
    wanted: Wanted,
    batch: int,
    board: str,
    trace: bool | None,
    precision: str,
    input_path: Path | None,
    pad: bool,
    places: Places,
    as_json: bool,
) -> None:
    """Answer a batch of questions, each from its own passage.

    The model is converted first if it is not in the cache; after that neither its checkpoint nor the hub is opened.

    \b
    ttbert demo --model bundled --batch 8
    ttbert demo --batch 7 --input my-questions.json
    """
    from ..demo.inputs import choose_questions
    from ..runtime.target import choose_target

    target = choose_target(board, batch, trace, precision)
    questions = choose_questions(input_path, batch, pad, target.chips)
    cache = places.open(wanted.offline)
    cached = supply_to_load(wanted, places, cache)

    from ..demo.demo import run_demo

    outcome = run_demo(target, cache, cached, questions, batch, lambda on: tell(f"running {wanted} on {on}"))
    if as_json:
        document = _outcome_document(outcome, questions, wanted, batch, target, cached)
        show({**document, "counters": cache.counters.document()})
    else:
        _print_outcome(outcome, questions, batch, target)


def _print_outcome(outcome: Outcome, questions: list[Question], batch: int, target: Target) -> None:
    for number, (question, answer) in enumerate(zip(questions, outcome.answers, strict=True), 1):
        say()
        say(styled(f"{number}. {plain(question.question)}", bold=True))
        if target.is_mock:
            say(_NOTHING)
            continue
        say(f"   {plain(answer.text) or 'no answer in this passage'}  (score {answer.score:.2f})")
        say(passage(question.context, answer.start, answer.end, "   "))
    timings = outcome.timings
    say()
    inputs, windows = count_text(timings.inputs, "input"), count_text(outcome.windows, "window")
    batches = f"{count_text(outcome.batches, 'batch', 'batches')} of {target.chips * batch}"
    spread = f", {batch} on each of {target.chips} chips" if target.chips > 1 else ""
    say(f"{inputs} in {windows} of {outcome.tokens} tokens, {batches}{spread}")
    for label, value in _timing_rows(timings, target):
        say(f"  {label:<18} {value}")


def _timing_rows(timings: Timings, target: Target) -> list[tuple[str, str]]:
    steady = ", ".join(f"{seconds:.3f}" for seconds in timings.steady_runs)
    weights = size_text(timings.weight_bytes) + (" on each chip" if target.chips > 1 else "")
    rows = [("loading weights", f"{timings.loading_weights:.3f} s ({weights}, digests checked)")]
    if device := timings.device:
        rows = [
            ("opening the device", f"{device.opening:.3f} s"),
            ("reading weights", f"{device.reading:.3f} s ({weights}, digests checked)"),
            ("sending weights", f"{device.sending:.3f} s"),
            ("building programs", f"{device.compiling:.3f} s"),
        ]
    return [
        *rows,
        ("preparing inputs", f"{timings.preparing_inputs:.3f} s"),
        ("first run", f"{timings.first_run:.3f} s"),
        ("steady runs", f"{steady} s"),
        ("inputs/s", "none: a mock device computes nothing" if target.is_mock else f"{timings.inputs_per_second:.2f}"),
        ("postprocessing", f"{timings.postprocessing:.3f} s"),
    ]


def _outcome_document(
    outcome: Outcome, questions: list[Question], wanted: Wanted, batch: int, target: Target, cached: Cached
) -> dict[str, Any]:
    timings = outcome.timings
    document: dict[str, Any] = {
        "model": wanted.model,
        "policy": wanted.policy,
        "board": target.name,
        "precision": target.cpu_precision,
        "batch": batch,
        "manifest": str(cached.digest),
        "tokens": outcome.tokens,
        "windows": outcome.windows,
        "batches": outcome.batches,
        "answers": [
            {
                "question": question.question,
                "answer": a.text,
                "start": a.start,
                "end": a.end,
                "score": round(a.score, 6),
            }
            for question, a in zip(questions, outcome.answers, strict=True)
        ],
        "seconds": {
            "preparing_inputs": timings.preparing_inputs,
            "loading_weights": timings.loading_weights,
            "first_run": timings.first_run,
            "steady_runs": list(timings.steady_runs),
            "postprocessing": timings.postprocessing,
        },
        "inputs_per_second": timings.inputs_per_second,
    }
    if target.is_mock:
        document |= {"answers": None, "inputs_per_second": None}
    if outcome.device and timings.device:
        document["device"] = {**outcome.device, "loading": asdict(timings.device)}
    return document
