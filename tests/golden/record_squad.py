"""Record what the official evaluation script and the reference post-processing make of given input.

`squad_metrics.json` is of the official evaluate-v2.0.py of SQuAD, `squad_answers.json` of `postprocess_qa_predictions`
in utils_qa.py of transformers 4's question-answering examples. Neither is a part of this project; both are run from
where they lie, with numpy and tqdm installed, from the root of the repository:

    PYTHONPATH=. python tests/golden/record_squad.py evaluate-v2.0.py utils_qa.py

The metrics are of hand-made and seeded random texts; `best_*` are with the null scores, and thresholds are the
default. Sums were made by Python 3.12, which adds floats more exactly than 3.10. Logits are whole multiples of 1/1024,
exact in float32, and those of padding are -100, as the examples fill it in.
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ttbert.runtime.tokens import Encoder

HERE = Path(__file__).parent
TOKENIZER = Path("ttbert/models/bundled/tokenizer.json")
UNIT = 1024

PIECES = [
    *("the", "a", "An", "THE", "theatre", "a.", "U.S.", "é", "É", "İ", "ß", "—", "“x”", "don't", "1,000", "3.5%", "  ", "\t"),
    *("\u00a0", "a-b", "the-end", "", "x", "y", "z", "同", "e\u0301", "\u200b", "!", "_", "the_", "ﬁ", "the\u2019s", "x x"),
]

CONTEXT = (
    "The old stone bridge at Harlow Mill was built in 1742 by the mason Thomas Eddery, who was paid forty pounds for the work. "
    "A flood in the spring of 1881 carried away two of its five arches, and they were rebuilt in brick."
)
EXAMPLES = [
    ("bridge", "Who built the bridge at Harlow Mill?", CONTEXT),
    ("long", "What was built?", " ".join(f"{CONTEXT} That is part {number}." for number in range(9))),
    ("unicode", "Où est le café?", "Le café de l\u2019été — “naïve” — 東京 lies in İstanbul; it has 🙂 two e\u0301 accents."),
    ("word", "Who?", "Eddery"),
    ("nothing", "Who?", ""),
    ("blank", "Who?", " \n"),
]


def main(evaluate: str, utils_qa: str) -> None:
    metrics = [*fixed_metrics(), *(random_metrics(seed) for seed in range(40))]
    official = load("evaluate", evaluate)
    for case in metrics:
        case["expected"] = run_official(official, case)
    write("squad_metrics.json", metrics)
    reference = load("utils_qa", utils_qa)
    reference.tqdm = lambda each: each
    write("squad_answers.json", [run_reference(reference, seed, null) for seed in range(4) for null in (True, False)])


def fixed_metrics() -> list[dict[str, Any]]:
    return [
        {"golds": {"1": ["Paris"]}, "predictions": {"1": "Paris"}, "null_scores": {"1": 0.0}},
        {"golds": {"1": []}, "predictions": {"1": ""}, "null_scores": {"1": 5.0}},
        {"golds": {"1": []}, "predictions": {"1": "x"}, "null_scores": {"1": 5.0}},
        {"golds": {"1": ["the"], "2": ["x y"]}, "predictions": {"1": "a", "2": "y x"}, "null_scores": {"1": -1, "2": -2}},
    ]


def random_metrics(seed: int) -> dict[str, Any]:
    chance = random.Random(seed)

    def text() -> str:
        return "".join(chance.choice(PIECES) + chance.choice(["", " "]) for _ in range(chance.randint(0, 6)))

    golds = {str(i): [text() for _ in range(chance.choice([0, 0, 1, 2, 4]))] for i in range(chance.randint(1, 12))}
    predictions = {id: chance.choice([text(), "", *given]) for id, given in golds.items()}
    order = list(golds)
    chance.shuffle(order)
    nulls = {id: chance.choice([0.0, -1.0, 1.0, 2.0, round(chance.uniform(-3, 3), 3)]) for id in order}
    return {"golds": golds, "predictions": predictions, "null_scores": nulls}


def run_official(official: ModuleType, case: dict[str, Any]) -> dict[str, float]:
    qas = [{"id": id, "answers": [{"text": gold} for gold in golds]} for id, golds in case["golds"].items()]
    with tempfile.TemporaryDirectory() as folder:
        names = {}
        data = {"data": [{"paragraphs": [{"qas": qas}]}]}
        for name, document in (("data", data), ("predictions", case["predictions"]), ("nulls", case["null_scores"])):
            names[name] = Path(folder, name)
            names[name].write_text(json.dumps(document))
        out = Path(folder, "out")
        sys.argv = ["", str(names["data"]), str(names["predictions"]), "-n", str(names["nulls"]), "-o", str(out)]
        official.OPTS = official.parse_args()
        official.main()
        expected: dict[str, float] = json.loads(out.read_text())
        return expected


class Examples(list):
    def __getitem__(self, key: Any) -> Any:
        return [each[key] for each in self] if isinstance(key, str) else super().__getitem__(key)


def run_reference(reference: ModuleType, seed: int, null: bool) -> dict[str, Any]:
    encoder = Encoder(TOKENIZER.read_bytes(), 96, 32)
    chance = np.random.default_rng(seed)
    examples, features, cases = Examples(), [], []
    padded: tuple[list[Any], list[Any]] = ([], [])
    for id, question, context in EXAMPLES:
        examples.append({"id": id, "context": context})
        made: list[list[list[int]]] = [[], []]
        for window in encoder.windows(question, context):
            mapping: list[Any] = [None] * encoder.tokens
            for number, (begin, end) in enumerate(window.offsets.tolist()):
                mapping[window.context_start + number] = (begin, end)
            features.append({"example_id": id, "offset_mapping": mapping})
            for side in (0, 1):
                # Without ties, whose order is numpy's own affair.
                logits = chance.permutation(np.arange(len(window)) * 37 - 1500) + seed
                if seed == 1:
                    logits[0] += 3000
                if seed == 2:
                    logits[: window.context_start] += 4000
                made[side].append(logits.tolist())
                full = np.full(encoder.tokens, -100, np.float32)
                full[: len(window)] = logits / UNIT
                padded[side].append(full)
        cases.append({"id": id, "question": question, "context": context, "starts": made[0], "ends": made[1]})
    with tempfile.TemporaryDirectory() as folder:
        answers = reference.postprocess_qa_predictions(
            examples, features, (np.array(padded[0]), np.array(padded[1])), version_2_with_negative=null, output_dir=folder
        )
        n_best = json.loads(Path(folder, "nbest_predictions.json").read_text())
        nulls = json.loads(Path(folder, "null_odds.json").read_text()) if null else {}
    for case in cases:
        id = case["id"]
        case |= {"answer": answers[id], "null_score": nulls.get(id), "n_best": n_best[id][:5], "n_best_length": len(n_best[id])}
    return {"allow_no_answer": null, "tokens": 96, "stride": 32, "cases": cases}


def load(name: str, path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(name: str, document: object) -> None:
    (HERE / name).write_text(json.dumps(document, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
