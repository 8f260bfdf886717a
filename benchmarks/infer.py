"""A batch of 8 questions through BERT on the CPU: `ttbert`'s reference beside transformers, with the same threads.

The questions are the demo's. transformers gets them padded to 384 tokens, as a device does; ttbert once so and once as long
as they are, as `ttbert squad` runs them on the CPU; both in float32, which is the reference, and with bfloat16 in the
matmuls. Each case has run once before the clock starts. Weights are random unless `--small`, which takes the bundled model:
the work is the same, the answers are not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ttbert.convert.wanted import BUNDLED_FOLDER
from ttbert.demo.inputs import built_in_questions
from ttbert.model import TOKENS
from ttbert.recipe.policy import PRECISIONS
from ttbert.runtime.loader import CachedModel
from ttbert.runtime.tokens import Encoder, Window, make_batches

from .inputs import make_cache, make_checkpoint, shape_of
from .load import open_model
from .measure import Case, Clock, compare
from .report import Report, Table

_BATCH = 8


def run(folder: Path, small: bool, rounds: int) -> Report:
    checkpoint = BUNDLED_FOLDER if small else make_checkpoint(folder, shape_of(small))
    places = {"checkpoint": str(checkpoint), "cache": str(make_cache(folder, checkpoint))}
    cases = [
        *(
            Case(f"ttbert, {precision}, {length}", "infer:run_ttbert", {**places, "precision": precision, "padded": padded})
            for precision in reversed(PRECISIONS)
            for length, padded in (("384 tokens", True), ("real length", False))
        ),
        *(
            Case(f"transformers, {dtype}, 384 tokens", "infer:run_transformers", {**places, "dtype": dtype})
            for dtype in ("float32", "bfloat16")
        ),
    ]
    title = f"a batch of {_BATCH} on the CPU, {checkpoint.name}"
    return Report("infer", (Table(title, tuple(compare(cases, rounds))),))


def run_ttbert(clock: Clock, cache: str, precision: str, padded: bool, **places: str) -> Any:
    from ttbert.runtime.reference import Reference

    model = open_model(cache)
    windows, encoder = _windows(model)
    tokens = TOKENS if padded else max(map(len, windows))
    (batch,) = make_batches(windows, _BATCH, tokens, pad_id=encoder.pad_id)
    runtime = Reference(model, precision)
    runtime.run(batch)
    with clock:
        starts, _ = runtime.run(batch)
    return len(starts)


def run_transformers(clock: Clock, checkpoint: str, cache: str, dtype: str) -> Any:
    import torch
    from transformers import BertForQuestionAnswering

    windows, encoder = _windows(open_model(cache))
    (batch,) = make_batches(windows, _BATCH, TOKENS, pad_id=encoder.pad_id)
    model = BertForQuestionAnswering.from_pretrained(checkpoint, dtype=getattr(torch, dtype)).eval()
    inputs = {
        "input_ids": torch.from_numpy(batch.ids).long(),
        "token_type_ids": torch.from_numpy(batch.token_types).long(),
        "attention_mask": torch.from_numpy(batch.attention_mask).long(),
    }
    with torch.inference_mode():
        model(**inputs)
        with clock:
            starts = model(**inputs).start_logits.float().numpy()
    return len(starts)


def _windows(model: CachedModel) -> tuple[list[Window], Encoder]:
    encoder = Encoder(model.tokenizer, TOKENS)
    questions = built_in_questions()[:_BATCH]
    return [encoder.windows(each.question, each.context, i)[0] for i, each in enumerate(questions)], encoder
