"""`ttbert squad` and `ttbert squad diff`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..boards import CPU
from ..console import ScoreProgress, plain, say, show, show_result, table, tell
from ..errors import InputError, Interrupted
from ..frozen import Frozen
from ..recipe.policy import FLOAT32
from ..text import count_text
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
from .tiers import supply
from .units import NumberRange

if TYPE_CHECKING:
    from ..cache.cache import Cache
    from ..cache.places import Places
    from ..convert.wanted import Wanted
    from ..runtime.target import Target
    from ..squad.compare import Comparison, LogitsByWindow
    from ..squad.dataset import Dataset
    from ..squad.engine import Engine
    from ..squad.result import Result
    from ..squad.runner import Progress
    from ..squad.subject import Subject

_CHANGES_SHOWN = 3


@click.group("squad", invoke_without_command=True, subcommand_metavar="[diff A B]")
@model_option
@wanted_option
@batch_option
@board_option
@trace_option
@precision_option
@click.option(
    "--ray",
    "cluster",
    metavar="ADDRESS",
    help="Spread the run over the Ray cluster at ADDRESS, such as 10.0.0.1:6379: same score. `auto` is `cpu` there.",
)
@click.option(
    "--data",
    "data_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Questions in the format of SQuAD v1.1 or v2.0.  [default: SQuAD 2.0's dev set, through `datasets`]",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N questions: a partial score.")
@click.option("--sample", type=click.IntRange(1), metavar="N", help="Only N questions at random: a partial score.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of --sample.")
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Predictions, n-best lists, journal."
)
@click.option("--resume", is_flag=True, help="Go on with a run that was interrupted: same options, same score.")
@click.option(
    "--report", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Write a report: index.html, report.json."
)
@click.option(
    "--compare",
    metavar="WITH",
    help="Run another one too, on the CPU: `cpu` (the same model), `float32` (its checkpoint, not converted), a policy such as "
    "`bf16`, or another model.",
)
@click.option("--fail-below", type=NumberRange(0, 100), metavar="F1", help="Exit code 13 if F1 is lower.")
@click.option(
    "--max-drop",
    type=NumberRange(-100, 100),
    metavar="F1",
    help="Exit code 13 if F1 is lower by more than the one of --compare.",
)
@places_option
@offline_option
@progress_option
@json_option
@click.pass_context
def squad_command(context: click.Context, /, **given: Any) -> None:
    """Score a model on SQuAD: exact match and F1 as the official script computes them.

    All questions count unless --limit or --sample is given. What is in the output folder is enough to run the official
    script on it. A run that was interrupted goes on with --resume.

    \b
    ttbert squad --model bundled --data dev-v2.0.json --report report
    ttbert squad --policy bfp8 --compare float32 --max-drop 0.5
    ttbert squad --ray 10.0.0.1:6379 --cache /shared/ttbert
    ttbert squad diff report-of-monday report-of-tuesday
    """
    if context.invoked_subcommand is not None:
        return
    options = _Options(**given)
    if options.max_drop is not None and options.compare is None:
        raise click.UsageError("--max-drop needs --compare: a drop from what?", context)
    _score(options)


@squad_command.command("diff")
@click.argument("first", type=click.Path(path_type=Path), metavar="A")
@click.argument("second", type=click.Path(path_type=Path), metavar="B")
@json_option
def diff_command(first: Path, second: Path, as_json: bool) -> None:
    """Compare two finished runs over the same data: folders of --output or --report, or a file in them.

    \b
    ttbert squad diff monday tuesday
    """
    from ..squad.compare import compare_documents
    from ..squad.document import read_document

    comparison = compare_documents(read_document(first), read_document(second))
    if as_json:
        show(comparison.document())
    else:
        _print_comparison(comparison)


class _Options(Frozen):
    """What was given on the command line."""

    wanted: Wanted
    batch: int
    board: str
    trace: bool | None
    precision: str
    cluster: str | None
    data_path: Path | None
    limit: int | None
    sample: int | None
    seed: int
    output: Path | None
    resume: bool
    report: Path | None
    compare: str | None
    fail_below: float | None
    max_drop: float | None
    places: Places
    as_json: bool


def _score(options: _Options) -> None:
    from ..runtime.target import Target, choose_target

    if options.cluster is None:
        target = choose_target(options.board, options.batch, options.trace, options.precision)
    else:
        from ..squad.cluster import choose_cluster_target

        target = choose_cluster_target(options.board, options.batch, options.trace, options.precision)
    if target.is_mock and (options.compare or options.report or options.fail_below is not None):
        raise InputError(
            "a mock device computes nothing that could be scored", "leave out --compare, --report and --fail-below"
        )
    dataset = _dataset(options)

    from ..squad.compare import compare_documents
    from ..squad.result import result_document
    from ..squad.score import find_fault, other_model

    wanted, places = options.wanted, options.places
    cache = places.open(wanted.offline)
    subject = _cached(wanted, places, cache, target, options.batch)
    second = None
    if options.compare is not None:  # found and converted first: a run takes long, and is of no use without the other one
        second = _other(other_model(wanted, options.compare), options.compare, places, cache, Target(CPU), options.batch)
    result, logits, folder = _run(options, dataset, subject, options.output, keep_logits=second is not None)
    comparison = None
    if second is not None:
        other, other_logits, _ = _run(options, dataset, second, folder / "compare" / _plain(str(options.compare)), True)
        comparison = compare_documents(result_document(result), result_document(other), (logits, other_logits))
    if options.report is not None:
        from ..squad.report import write_report

        tell(f"report: {write_report(options.report, result, comparison)}")
    below = find_fault(result, comparison, options.fail_below, options.max_drop)
    if options.as_json:
        document = {**result_document(result), "output": str(folder)}
        del document["questions"]
        if comparison:
            document["comparison"] = comparison.document()
        show_result(document, below)
    else:
        _print_result(result)
        if comparison:
            say()
            _print_comparison(comparison)
        if not result.is_mock:
            say(f"\nfiles: {folder}")
    if below:
        raise below


def _dataset(options: _Options) -> Dataset:
    from ..squad.dataset import Part, choose_part, load_hub_dataset, read_dataset

    dataset = read_dataset(options.data_path) if options.data_path else load_hub_dataset(options.wanted.offline)
    if dataset.moved:
        moved = count_text(dataset.moved, "answer is", "answers are")
        tell(f"note: {moved} elsewhere in the context than answer_start says; no score depends on it")
    return choose_part(dataset, Part(options.limit, options.sample, options.seed))


def _cached(wanted: Wanted, places: Places, cache: Cache, target: Target, batch: int) -> Subject:
    from ..squad.subject import load_cached

    return load_cached(wanted, places, cache, supply(wanted, places, cache), target, batch)


def _other(wanted: Wanted, compare: str, places: Places, cache: Cache, target: Target, batch: int) -> Subject:
    from ..squad.subject import load_float32

    return load_float32(wanted) if compare == FLOAT32 else _cached(wanted, places, cache, target, batch)


def _run(
    options: _Options, dataset: Dataset, subject: Subject, folder: Path | None, keep_logits: bool
) -> tuple[Result, LogitsByWindow, Path]:
    from ..squad.batches import Layout
    from ..squad.score import Run, score

    target = subject.target
    with _engine(options.cluster, subject) as engine:
        layout = Layout(target.chips * options.batch, real_length=not target.is_device)
        run = Run(dataset, subject, layout, engine, folder)
        lengths = "" if target.is_device else "; batches are as long as their longest window, faster here than 384 tokens each"
        tell(f"scoring {subject.origin} on {engine.said}{lengths}")
        try:
            label = f"{Path(subject.origin.model).name} ({subject.origin.policy})"
            with ScoreProgress(label, len(dataset.questions)) as bar:

                def advance(each: Progress) -> None:
                    bar.advance(None if target.is_mock else (each.exact, each.f1), each.replayed)

                result, logits = score(run, options.resume, advance, keep_logits)
        except KeyboardInterrupt as stop:
            kept = f"what is finished is in {run.output}"
            raise Interrupted(stop, kept, "the same command with --resume goes on from there") from None
        return result, logits, run.output


def _engine(address: str | None, subject: Subject) -> AbstractContextManager[Engine]:
    if address is None:
        from ..squad.engine import open_local

        return open_local(subject)
    from ..squad.cluster import open_cluster

    return open_cluster(address, subject, tell)


def _plain(name: str) -> str:
    return "".join(each if each.isalnum() or each in "-._" else "-" for each in name).strip(".") or "other"


def _print_result(result: Result) -> None:
    dataset = result.dataset
    partial = f"PARTIAL: {dataset.part}, " if dataset.is_partial else "all "
    counted = f"{len(dataset.questions):,} of {dataset.total:,}" if dataset.is_partial else f"{dataset.total:,}"
    say(f"{dataset.source}: {partial}{counted} questions")
    if result.is_mock:
        say("no score, and no files but a journal: a mock device computes nothing, its logits are all zero")
    else:
        _print_score(result)
    timings = result.timings
    say()
    provenance = result.provenance
    precision = f" in {provenance['precision']}" if provenance["precision"] else ""
    say(f"{provenance['model']} ({provenance['policy']}) on {provenance['board']}{precision}")
    resumed = f", {timings.resumed_batches} of them from the journal" if timings.resumed_batches else ""
    say(f"  {count_text(timings.windows, 'window')} in {count_text(timings.batches, 'batch', 'batches')}{resumed}")
    if result.rate and not result.is_mock:
        workers = f" on {timings.workers} workers" if timings.workers > 1 else ""
        busy = f"the model busy {timings.busy_share:.1%} of the time"
        say(f"  {timings.wall:.1f} s{workers}, {result.rate:.1f} questions/s, {busy}")


def _print_score(result: Result) -> None:
    metrics = result.metrics
    mark = " (partial)" if result.dataset.is_partial else ""
    rows = [("", "exact", "F1", "questions")]
    for name, group in (("all", metrics.all), ("with answer", metrics.has_answer), ("without", metrics.no_answer)):
        if group:
            rows.append((f"{name}{mark}", f"{group.exact:.2f}", f"{group.f1:.2f}", f"{group.total:,}"))
    say(table(rows, right=(1, 2, 3)))
    if metrics.best_exact and metrics.best_f1:
        exact, f1 = metrics.best_exact, metrics.best_f1
        say(f"best null threshold: exact {exact.score:.2f} at {exact.threshold:.4f}, F1 {f1.score:.2f} at {f1.threshold:.4f}")


def _print_comparison(comparison: Comparison) -> None:
    one, two = comparison.first, comparison.second
    part = " (partial)" if comparison.partial else ""
    say(f"A  {one}\nB  {two}")
    rows = [("", "A", "B", "A - B", "95% interval")]
    for number, (name, difference) in enumerate((("exact", comparison.exact), ("F1", comparison.f1))):
        rows.append(
            (
                f"{name}{part}",
                f"{comparison.first_score[number]:.2f}",
                f"{comparison.second_score[number]:.2f}",
                f"{difference.value:+.2f}",
                f"{difference.low:+.2f} to {difference.high:+.2f}",
            )
        )
    say(table(rows, right=(1, 2, 3, 4)))
    changed = f"{len(comparison.changes):,} of {comparison.questions:,} answers differ"
    say(f"{changed}: A is better in {comparison.better}, worse in {comparison.worse}")
    if comparison.correlation is not None:
        say(f"PCC of the {comparison.correlated}: {comparison.correlation:.6f}")
    elif comparison.correlated == "logits":
        say("PCC of the logits: none, the models have different tokenizers")
    from ..squad.compare import worst_and_best

    for each in worst_and_best(comparison.changes, _CHANGES_SHOWN):
        say(f"  {100 * each.gain:+5.0f}  {plain(each.id)}  A: {_short(each.first)}  B: {_short(each.second)}")


def _short(answer: str) -> str:
    if not answer:
        return "no answer"
    printable = "".join(char if char.isprintable() else " " for char in answer)
    return repr(printable if len(printable) <= 40 else printable[:37] + "...")
