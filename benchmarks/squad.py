"""Windows in a second on the CPU: `ttbert squad`'s way against transformers' BertForQuestionAnswering, in one process.

    python benchmarks/squad.py --model bundled --data dev-v2.0.json --sample 200

Both run the same windows with the same float32 weights and threads, tokenized beforehand, in batches of the same size,
in turns, so that both meet the same load of the machine; the median of the rounds counts. transformers runs twice: with
windows padded to 384 tokens, as its question-answering examples do by default, and padded to the longest of each batch
in the order of the data. Last it checks that all three give the same logits.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import BertForQuestionAnswering

from ttbert.convert.wanted import BUNDLED, BUNDLED_FOLDER, Wanted
from ttbert.runtime.tokens import Batch, make_batches
from ttbert.squad.batches import Layout, make_jobs
from ttbert.squad.dataset import Part, choose_part, read_dataset
from ttbert.squad.subject import load_float32

Logits = dict[tuple[int, int], np.ndarray]


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
    folder = BUNDLED_FOLDER if given.model == BUNDLED else given.model
    theirs = BertForQuestionAnswering.from_pretrained(folder, dtype=torch.float32).eval()
    jobs = list(make_jobs(dataset.questions, subject.encoder, Layout(given.batch, real_length=True)))
    by_place = {row.place[:2]: row.window for job in jobs for row in job.rows}
    places = sorted(by_place)
    sides = list(grouped(places, by_place, given.batch, subject.encoder.tokens, subject.encoder.pad_id))

    ways: dict[str, Callable[[], Logits]] = {
        "ttbert": lambda: {
            row.place[:2]: logits[i, : len(row.window)]
            for job in jobs
            for logits in [subject.runtime.run(job.batch)[0]]
            for i, row in enumerate(job.rows)
        },
        "transformers, 384 tokens": lambda: run_theirs(theirs, sides, by_place, None),
        "transformers, longest of the batch": lambda: run_theirs(theirs, sides, by_place, given.batch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found = {}
    for _ in range(given.rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            found[name] = way()
            seconds[name].append(time.perf_counter() - started)
    report(found, seconds, given.model, len(dataset.questions))


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
        for place, row in zip(group, output.start_logits.numpy(), strict=True):
            made[place] = row[: len(by_place[place])]
    return made


def report(found: dict[str, Logits], seconds: dict[str, list[float]], model: str, questions: int) -> None:
    ours = found["ttbert"]
    tokens = sum(len(row) for row in ours.values())
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    print(f"{Path(model).name}: {questions:,} questions, {len(ours):,} windows, {tokens / len(ours):.0f} tokens on average")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {platform.processor() or platform.machine()}")
    for name, median in medians.items():
        error = max(float(np.abs(row - ours[place]).max()) for place, row in found[name].items())
        print(
            f"{name:36} {len(ours) / median:7.1f} windows/s   {median / medians['ttbert']:5.2f} x the time"
            f"   logits within {error:.1e}   rounds {json.dumps([round(each, 2) for each in seconds[name]])}"
        )


if __name__ == "__main__":
    main()
