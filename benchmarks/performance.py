"""docs/performance.md, its tables and pictures, and the README's few figures, from the records of whole runs beside them.

    python -m benchmarks all --folder /some/disk --json > docs/performance/intel-xeon-2026-11-27.json
    python -m benchmarks.performance

Tables and pictures are those of the last record by name, which is of the kind of processor that the targets were set on. The
table of targets has a column for each of them, so that it shows what held on another day or machine, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttbert.console import size_text

from .report import Report, machine_text, milliseconds

README = Path(__file__).parents[1] / "README.md"
PAGE = README.parent / "docs" / "performance.md"
RECORDS = PAGE.with_suffix("")
_MADE = re.compile(r"(<!-- made by benchmarks/performance.py: (\w+) ?(\d*) -->\n).*?(?=<!-- end -->)", re.DOTALL)

Run = Mapping[str, Any]
"""The documents of one whole run, by the benchmark's name."""


@dataclass(frozen=True)
class Target:
    """What a row `takes` is to be at most, as a part of what a peer's row does, or of the bytes that were loaded."""

    what: str
    against: str
    at_most: float
    benchmark: str
    table: int
    ours: str
    peer: str | None
    takes: str = "seconds"

    def measured(self, run: Run) -> float:
        table = run[self.benchmark]["tables"][self.table]
        rows = {row["name"]: row[self.takes] for row in table["rows"]}
        return float(rows[self.ours] / (rows[self.peer] if self.peer else table["bytes"]))


_UPSTREAM, _NOTHING = "from_pretrained, as_tensor", "ttbert convert, a hit, weights met before"
_LOAD, _TIER, _S3FS = "ttbert, digests checked", "ttbert, into an empty local tier", "s3fs cat, a tensor an object"
_PADDED = "transformers, bfloat16, 384 tokens"
TARGETS = (
    Target("convert, fsynced", "from_pretrained + as_tensor: time", 0.15, "convert", 0, "ttbert convert", _UPSTREAM),
    Target("", "... peak RSS", 0.4, "convert", 0, "ttbert convert", _UPSTREAM, "peak_rss"),
    Target("convert, nothing to do, weights met before", "the same: time", 0.03, "convert", 1, _NOTHING, _UPSTREAM),
    Target("load, page cache warm", "from_pretrained + as_tensor", 0.2, "load", 0, _LOAD, _UPSTREAM),
    Target("", "safetensors load_file + copy", 1.5, "load", 0, _LOAD, "safetensors load_file, copied"),
    Target("load, page cache cold", "from_pretrained + as_tensor", 0.2, "load", 1, _LOAD, _UPSTREAM),
    Target("", "ttnn.load_tensor of every file + copy", 0.75, "load", 1, _LOAD, "ttnn.load_tensor of each, copied"),
    Target("peak RSS of a load", "the bytes loaded", 1.2, "load", 0, _LOAD, None, "added_rss"),
    Target("load from S3, local tier empty", "s3fs `cat`: time", 0.35, "s3", 0, _TIER, _S3FS),
    Target("", "... client CPU", 0.3, "s3", 0, _TIER, _S3FS, "cpu_seconds"),
    Target("", "Run:ai model streamer: time", 0.6, "s3", 0, _TIER, "Run:ai streamer, one safetensors"),
    Target("`ttbert --help`", "importing ttnn", 0.06, "startup", 0, "ttbert --help", "import ttnn"),
    Target("`ttbert cache ls`, 100 models", "the same", 0.15, "startup", 0, "ttbert cache ls, 100 models", "import ttnn"),
    Target("inference, 8 x 384, bfloat16", "transformers", 1.0, "infer", 0, "ttbert, bfloat16, 384 tokens", _PADDED),
    Target("... as long as the inputs are", "the same, padded", 0.5, "infer", 0, "ttbert, bfloat16, real length", _PADDED),
)
SUMMARY = {
    "converting, fsynced, beside `from_pretrained` and `ttnn.as_tensor`": TARGETS[0],
    "converting what is in the cache already, beside the same": TARGETS[2],
    "loading from a cold disk, digests checked, beside the same": TARGETS[5],
    "loading from memory, digests checked, beside safetensors' `load_file` and a copy": TARGETS[4],
    "loading from S3 into an empty local tier, digests checked, beside s3fs without a check": TARGETS[8],
    "answering on the CPU in bfloat16, beside transformers": TARGETS[13],
}
"""What the README tells, by targets."""


def main() -> None:
    runs = read_runs()
    for page in (README, PAGE):
        page.write_text(filled_in(page.read_text(), runs))
    for name, document in list(runs.values())[-1].items():
        Report.of(document).plot(RECORDS / f"{name}.svg")


def read_runs() -> dict[str, Run]:
    """Whole runs by their record's name, in its order."""
    paths = sorted(RECORDS.glob("*.json"))
    return {path.stem: {each["name"]: each for each in json.loads(path.read_text())} for path in paths}


def filled_in(page: str, runs: Mapping[str, Run]) -> str:
    """The page with all that is made of runs made anew."""
    last = list(runs.values())[-1]

    def made(match: re.Match[str]) -> str:
        begin, what, number = match.groups()
        if what == "targets":
            lines = _targets(runs)
        elif what == "summary":
            lines = _summary(runs)
        elif what == "machine":
            lines = (f"- {_label(run)}: {machine_text(run['s3']['machine'])}".replace("\n", "; ") for run in runs.values())
        else:
            lines = _table(last[what]["tables"][int(number)])
        return begin + "".join(f"{line}\n" for line in lines)

    return _MADE.sub(made, page)


def _targets(runs: Mapping[str, Run]) -> Iterator[str]:
    yield from _head("target", "against", "at most", *map(_label, runs.values()))
    for target in TARGETS:
        found = (target.measured(run) for run in runs.values())
        cells = (f"{each:.3f}{' missed' if each > target.at_most else ''}" for each in found)
        yield _line(target.what, target.against, f"{target.at_most:.2f}", *cells)


def _summary(runs: Mapping[str, Run]) -> Iterator[str]:
    yield from _head("of a BERT-large, as a part of their time", *map(_label, runs.values()))
    for what, target in SUMMARY.items():
        yield _line(what, *(f"{target.measured(run):.2f}" for run in runs.values()))


def _label(run: Run) -> str:
    """When and on which processor it was."""
    return f"{run['s3']['date']}, {re.sub(r'[(]R[)]| Processor', '', run['s3']['machine']['cpu'])}"


def _table(table: Mapping[str, Any]) -> Iterator[str]:
    rows = table["rows"]
    if unit := table["grows_by"]:
        yield from _head(table["title"], *(f"{row['count']:,}" for row in rows))
        yield _line("ms", *(milliseconds(row["seconds"]) for row in rows))
        yield _line(f"CPU ms a {unit}", *(milliseconds(row["cpu_seconds_each"]) for row in rows))
        yield _line("peak RSS", *(size_text(row["peak_rss"]) for row in rows))
        return
    sizes = {"peak RSS": "peak_rss", "grew by": "added_rss"}
    if max(row["added_rss"] for row in rows) < 1e6:  # the work was done by other processes
        del sizes["grew by"]
    yield from _head(table["title"], "ms", "fastest", "slowest", "CPU ms", *sizes, "ttbert / this")
    for i, row in enumerate(rows):
        name = f"**{row['name']}**" if not i or row["name"].startswith("ttbert") else row["name"]
        times = (milliseconds(row[each]) for each in ("seconds", "fastest", "slowest", "cpu_seconds"))
        yield _line(name, *times, *(size_text(row[each]) for each in sizes.values()), f"{row['ours_to_this']:.2f}")
    if limit := table["limit"]:
        yield _line(f"the machine's limit: {limit['name']}", milliseconds(limit["seconds"]), *[""] * (len(sizes) + 4))


def _head(*names: str) -> Iterator[str]:
    yield _line(*names)
    yield _line(*["---"] * len(names))


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
