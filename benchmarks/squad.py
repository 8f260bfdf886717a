"""Windows in a second on the CPU: `ttbert squad`'s way against transformers' BertForQuestionAnswering, in one process.

    python benchmarks/squad.py --model bundled --data dev-v2.0.json --sample 200

Both run the same windows with the same weights and threads, tokenized beforehand, in batches of the same size, in turns,
so that both meet the same load of the machine; the median of the rounds counts, and of the processor's time the least,
which other programs disturb less. transformers runs with windows padded to 384 tokens, as its question-answering examples
do by default, and padded to the longest of each batch in the order of the data. All of it in float32 and in bfloat16, and
last it says how far the logits are apart from those of ttbert in float32.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import BertForQuestionAnswering

from ttbert.boards import CPU
from ttbert.cache.places import Places
from ttbert.convert.convert import convert, plan_conversion
from ttbert.convert.wanted import BUNDLED, BUNDLED_FOLDER, Wanted
from ttbert.recipe.policy import BFLOAT16
from ttbert.runtime.runtime import Runtime
from ttbert.runtime.target import Target
from ttbert.runtime.tokens import Batch, make_batches
from ttbert.squad.batches import Job, Layout, make_jobs
from ttbert.squad.dataset import Part, choose_part, read_dataset
from ttbert.squad.subject import load_cached, load_float32

Logits = dict[tuple[int, int], np.ndarray]

OURS = "ttbert"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=BUNDLED, help="a folder, or `bundled`")
    parser.add_argument("--data", type=Path, required=True, help="a file in the format of SQuAD")
    parser.add_argument("--sample", type=int, help="so many questions at random")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of torch")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)

    dataset = choose_part(read_dataset(given.data), Part(sample=given.sample))
    subject = load_float32(Wanted(given.model))
    wanted = Wanted(given.model, policy="bf16")
    folder = BUNDLED_FOLDER if given.model == BUNDLED else given.model
    theirs32, theirs16 = (
        BertForQuestionAnswering.from_pretrained(folder, dtype=dtype).eval() for dtype in (torch.float32, torch.bfloat16)
    )
    jobs = list(make_jobs(dataset.questions, subject.encoder, Layout(given.batch, real_length=True)))
    by_place = {row.place[:2]: row.window for job in jobs for row in job.rows}
    places = sorted(by_place)
    sides = list(grouped(places, by_place, given.batch, subject.encoder.tokens, subject.encoder.pad_id))

    with tempfile.TemporaryDirectory() as cache_folder:
        cache = Places(cache_folder).open()
        cached = convert(plan_conversion(wanted), cache).cached
        rounded = load_cached(wanted, Places(cache_folder), cache, cached, Target(CPU, precision=BFLOAT16), given.batch)
        with subject.open() as ours32, rounded.open() as ours16:
            ways: dict[str, Callable[[], Logits]] = {
                OURS: lambda: run_ours(ours32, jobs),
                "transformers, 384 tokens": lambda: run_theirs(theirs32, sides, by_place, None),
                "transformers, longest of the batch": lambda: run_theirs(theirs32, sides, by_place, given.batch),
                "ttbert, bfloat16": lambda: run_ours(ours16, jobs),
                "transformers, 384 tokens, bfloat16": lambda: run_theirs(theirs16, sides, by_place, None),
                "transformers, longest, bfloat16": lambda: run_theirs(theirs16, sides, by_place, given.batch),
            }
            found = {}
            seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
            for _ in range(given.rounds):
                for name, way in ways.items():
                    started = time.perf_counter(), time.process_time()
                    found[name] = way()
                    seconds[name].append((time.perf_counter() - started[0], time.process_time() - started[1]))
    report(found, seconds, given.model, len(dataset.questions))


def run_ours(runtime: Runtime, jobs: list[Job]) -> Logits:
    return {
        row.place[:2]: logits[i, : len(row.window)]
        for job in jobs
        for logits in [runtime.run(job.batch)[0]]
        for i, row in enumerate(job.rows)
    }


def grouped(places: list, by_place: dict, batch: int, tokens: int, pad_id: int) -> Iterator[tuple[list, Batch]]:
    """The windows in the order of the data, padded to full length."""
    for begin in range(0, len(places), batch):
        group = places[begin : begin + batch]
        yield group, next(make_batches([by_place[place] for place in group], len(group), tokens, pad_id=pad_id))


@torch.inference_mode()
def run_theirs(model: BertForQuestionAnswering, sides: list, by_place: dict, longest: int | None) -> Logits:
    made: Logits = {}
    for group, batch in sides:
        cut = max(len(by_place[place]) for place in group) if longest else batch.ids.shape[1]
        output = model(
            input_ids=torch.from_numpy(batch.ids[:, :cut]).long(),
            token_type_ids=torch.from_numpy(batch.token_types[:, :cut]).long(),
            attention_mask=torch.from_numpy(batch.attention_mask[:, :cut]).long(),
        )
        for place, row in zip(group, output.start_logits.float().numpy(), strict=True):
            made[place] = row[: len(by_place[place])]
    return made


def report(found: dict[str, Logits], seconds: dict[str, list[tuple[float, float]]], model: str, questions: int) -> None:
    ours = found[OURS]
    tokens = sum(len(row) for row in ours.values())
    print(f"{Path(model).name}: {questions:,} questions, {len(ours):,} windows, {tokens / len(ours):.0f} tokens on average")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {platform.processor() or platform.machine()}")
    walls = {name: statistics.median(wall for wall, _ in each) for name, each in seconds.items()}
    busy = {name: min(processor for _, processor in each) for name, each in seconds.items()}
    for name in seconds:
        error = max(float(np.abs(row - ours[place]).max()) for place, row in found[name].items())
        print(
            f"{name:36} {len(ours) / walls[name]:7.1f} windows/s   {walls[name] / walls[OURS]:5.2f} x the time"
            f"   {busy[name] / busy[OURS]:5.2f} x the processor's time   logits within {error:.1e}"
            f"   rounds {json.dumps([round(wall, 2) for wall, _ in seconds[name]])}"
        )


if __name__ == "__main__":
    main()
