"""Record what the question-answering pipeline of transformers 4 makes of given logits, in `qa_pipeline.json`.

The file in this directory is of transformers 4.57.6, tokenizers 0.22.2, torch 2.13.0 and numpy 1.26.4. transformers 5
has no such pipeline, so this needs an environment of its own; it is run from the root of the repository:

    python -m venv /tmp/transformers4
    /tmp/transformers4/bin/pip install "transformers==4.57.6" torch "numpy<2"
    /tmp/transformers4/bin/python tests/golden/record_qa_pipeline.py

Each case has a question, a context, the logits of each window as whole multiples of 1/1024 (exact in float32, and no
model is needed to read them), and what `QuestionAnsweringPipeline.postprocess` returned for several settings. The
logits are those of the bundled model, or synthetic: seeded noise, ties, and peaks at named words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import BertForQuestionAnswering, BertTokenizerFast, QuestionAnsweringPipeline

MODEL = Path("ttbert/models/bundled")
GOLDEN = Path(__file__).with_name("qa_pipeline.json")
UNIT = 1024

# (top_k, handle_impossible_answer, max_answer_len)
SETTINGS = [(1, True, 30), (1, False, 30), (5, True, 30), (5, False, 30), (3, True, 4)]

BRIDGE = (
    "The old stone bridge at Harlow Mill was built in 1742 by the mason Thomas Eddery, who was paid forty pounds for "
    "the work. A flood in the spring of 1881 carried away two of its five arches, and they were rebuilt in brick."
)
RIVER = (
    "The river rises in the northern hills and runs for ninety miles through farmland before it meets the sea at "
    "Port Lowen. Salmon were once so common that the town council set a tax on them; in 1903 the last weir was taken "
    "down, and the fish came back within ten years. Barges carried coal, timber and grain until the railway opened."
)
LIGHTHOUSE = (
    "The lighthouse on Gull Rock was designed by Ada Renwick and first lit on 3 November 1867. Its lamp burned whale "
    "oil, then paraffin, and was changed to electricity in 1931. The last keeper, Samuel Orde, left in 1984, when the "
    "light became automatic. It stands 41 metres tall and can be seen from 18 nautical miles away."
)
ORCHESTRA = (
    "The city orchestra gave its first concert in the corn exchange with thirty-two players, most of them miners and "
    "clerks. Its first conductor, Helena Vasquez-Moor, stayed for twenty-six seasons. In 1956 the orchestra moved to "
    "the new concert hall beside the university, which seats one thousand nine hundred people."
)
GLACIER = (
    "Glaciers form where more snow falls in winter than melts in summer. Under its own weight the snow turns first "
    "into firn and then into ice, which flows slowly downhill. A glacier that ends in the sea loses ice by calving: "
    "blocks break from its front and float away as icebergs. Meltwater carries fine rock flour, which colours lakes."
)
TYPEWRITER = (
    "Early typewriters struck the paper from below, so the typist could not see the line being written. The machine "
    "that the Dunmore company sold from 1895 had its type bars in front, and it outsold all of its rivals. Production "
    "stopped in 1972 after more than four million machines; the factory is now a museum."
)
LONG = " ".join([RIVER, GLACIER, ORCHESTRA, TYPEWRITER, BRIDGE, GLACIER, LIGHTHOUSE, RIVER, ORCHESTRA, GLACIER, BRIDGE])
LONGER = " ".join([GLACIER, TYPEWRITER, RIVER, ORCHESTRA, LONG])

REAL = [
    ("Who built the bridge?", BRIDGE),
    ("When was the bridge built?", BRIDGE),
    ("How much was the mason paid?", BRIDGE),
    ("Who painted the bridge?", BRIDGE),
    ("Where does the river meet the sea?", RIVER),
    ("What did barges carry?", RIVER),
    ("How tall is the lighthouse?", LIGHTHOUSE),
    ("When was the lighthouse first lit?", LIGHTHOUSE),
    ("Who was the first conductor?", ORCHESTRA),
    ("How many people does the hall seat?", ORCHESTRA),
    ("What colours the lakes?", GLACIER),
    ("When did production stop?", TYPEWRITER),
    ("Who designed the lighthouse on Gull Rock?", LONG),
    ("Who was the last keeper of the lighthouse?", LONGER),
    ("What is the capital of France?", LONG),
    ("Who wrote it?", "Émile Zolá wrote it in the café\u0301 of Zürich; 😀 nobody re\u0301ad it."),
    ("東京はどこ?", "東京は日本の首都です。 Tokyo is the capital of Japan 🇯🇵."),
    ("Who\x00 is\u200b it?", "It\x07 is Ann\u00adabel\tSmythe-Jones,\r\n they\u2019d said."),
    ("Who?", "Ann."),
    ("What [SEP] is it?", "A [SEP] literal [CLS] marker [PAD] in [UNK] the text."),
]

Logits = Callable[[Any, int], tuple[np.ndarray, np.ndarray]]


def noise(seed: int, spread: float) -> Logits:
    def logits(encoding: Any, window: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng([seed, window])
        return random.normal(0, spread, len(encoding)), random.normal(0, spread, len(encoding))

    return logits


def flat() -> Logits:
    return lambda encoding, window: (np.zeros(len(encoding)), np.zeros(len(encoding)))


def peaks(context: str, *spans: tuple[str, float, int | None], null: float = 0.0) -> Logits:
    """A peak of the given height at every token of a text that starts, and ends, like one of the spans.

    With a window named, only there. Logits elsewhere fall gently, so that there are no ties but those made.
    """

    def logits(encoding: Any, window: int) -> tuple[np.ndarray, np.ndarray]:
        start = -6 - np.arange(len(encoding)) / 101
        end = -6 - np.arange(len(encoding)) / 89
        start[0] = end[0] = null
        for text, height, only in spans:
            if only is not None and only != window:
                continue
            for match in re.finditer(re.escape(text), context):
                for token, (begin, stop) in enumerate(encoding.offsets):
                    if encoding.sequence_ids[token] != 1:
                        continue
                    if begin == match.start():
                        start[token] = height
                    if stop == match.end():
                        end[token] = height
        return start, end

    return logits


PARIS = "Paris is old. PARIS is loud, and paris is far; London is not Paris."
PIECES = "The Glyndwrfawr and the Vasquez-Moorington unbelievabilities."
SYNTHETIC = [
    ("What is it?", BRIDGE, noise(1, 1.0)),
    ("What is it?", RIVER, noise(2, 4.0)),
    ("What is it?", LONG, noise(3, 3.0)),
    ("all equal, one word", "Salmon", flat()),
    ("all equal, two words", "red fish", flat()),
    (
        "the same text, four times",
        PARIS,
        peaks(PARIS, ("aris", 3.0, None), ("Paris", 2.5, None), ("London", 3.2, None)),
    ),
    ("from the middle of a word", PIECES, peaks(PIECES, ("lyn", 4.0, None), ("ori", 3.0, None), ("bel", 2.0, None))),
    ("two equal peaks", GLACIER, peaks(GLACIER, ("firn", 3.0, None), ("icebergs", 3.0, None))),
    ("nothing but no answer", GLACIER, peaks(GLACIER, ("firn", 1.0, None), null=9.0)),
    (
        "in the second window only",
        LONG,
        peaks(LONG, ("1867", 6.0, 1), ("Gull Rock", 5.0, 1), ("1903", 2.0, 0), null=3.0),
    ),
    ("in the overlap of both windows", LONG, peaks(LONG, ("1895", 5.0, None), ("four million", 4.5, None), null=1.0)),
    ("as long as may be", RIVER, peaks(RIVER, ("Salmon", 5.0, None), ("down", 5.5, None), ("ten years", 4.0, None))),
]


def record(pipe: QuestionAnsweringPipeline, question: str, context: str, synthetic: Logits | None) -> dict[str, Any]:
    outputs = []
    for number, window in enumerate(pipe.preprocess({"question": question, "context": context})):
        if synthetic is None:
            with torch.no_grad():
                output = pipe._forward(dict(window))
            start, end = output["start"].numpy()[0], output["end"].numpy()[0]
        else:
            start, end = synthetic(window["encoding"], number)
        units = [np.rint(np.asarray(logits, np.float64) * UNIT).astype(int) for logits in (start, end)]
        start, end = (torch.tensor(values[None] / UNIT, dtype=torch.float32) for values in units)
        outputs.append({**window, "start": start, "end": end, "units": [values.tolist() for values in units]})
    expected = []
    for top_k, impossible, longest in SETTINGS:
        answers = pipe.postprocess(
            outputs, top_k=top_k, handle_impossible_answer=impossible, max_answer_len=longest, align_to_words=True
        )
        answers = [answers] if isinstance(answers, dict) else answers
        rows = [[answer["answer"], int(answer["start"]), int(answer["end"]), answer["score"]] for answer in answers]
        expected.append({"top_k": top_k, "allow_no_answer": impossible, "max_answer_tokens": longest, "answers": rows})
    logits = [output["units"] for output in outputs]
    return {"question": question, "context": context, "logits": logits, "expected": expected}


def main() -> None:
    tokenizer = BertTokenizerFast.from_pretrained(MODEL)
    model = BertForQuestionAnswering.from_pretrained(MODEL, dtype=torch.float32).eval()
    pipe = QuestionAnsweringPipeline(model=model, tokenizer=tokenizer, framework="pt", device="cpu")
    cases = [record(pipe, question, context, None) for question, context in REAL]
    cases += [record(pipe, question, context, synthetic) for question, context, synthetic in SYNTHETIC]
    lines = ",\n".join(json.dumps(case, ensure_ascii=True, separators=(",", ":")) for case in cases)
    head = f'"transformers":"{transformers.__version__}","unit":{UNIT}'
    GOLDEN.write_text(f'{{{head},"cases":[\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
