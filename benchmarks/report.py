"""What a benchmark found: tables for people, JSON for programs, and a picture of bars."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from ttbert.console import table
from ttbert.text import size_text

_PACKAGES = (
    *("ttbert", "ttnn", "torch", "transformers", "numpy", "safetensors", "blake3"),
    *("obstore", "s3fs", "boto3", "runai-model-streamer"),
)


@dataclass(frozen=True)
class Sample:
    """One run of a case. `added_rss` is by how much the process grew at most while the clock ran."""

    seconds: float
    cpu_seconds: float
    peak_rss: int
    added_rss: int


@dataclass(frozen=True)
class Row:
    """All runs of one case."""

    name: str
    samples: tuple[Sample, ...]

    @property
    def seconds(self) -> float:
        """The median, as every number of a row is."""
        return median(each.seconds for each in self.samples)

    @property
    def cpu_seconds(self) -> float:
        return median(each.cpu_seconds for each in self.samples)

    def document(self, ours: Row | None) -> dict[str, Any]:
        cpu = self.cpu_seconds
        ratio = {"ours_to_this": ours.seconds / self.seconds, "cpu_ours_to_this": ours.cpu_seconds / cpu} if ours else {}
        return {
            "name": self.name,
            "seconds": self.seconds,
            "fastest": min(each.seconds for each in self.samples),
            "slowest": max(each.seconds for each in self.samples),
            "cpu_seconds": cpu,
            "peak_rss": int(median(each.peak_rss for each in self.samples)),
            "added_rss": int(median(each.added_rss for each in self.samples)),
            **ratio,
            "samples": [asdict(each) for each in self.samples],
        }


@dataclass(frozen=True)
class Limit:
    """What the machine can do at best, as measured in the same run."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Table:
    """Cases that did the same work. The first one is ttbert's, and the others' ratios are to it.

    Or the same case on more and more: then `counts` says on how many, and `grows_by` of what. `size` is how many bytes each
    of them loaded, if they did.
    """

    title: str
    rows: tuple[Row, ...]
    limit: Limit | None = None
    grows_by: str = ""
    counts: tuple[int, ...] = ()
    size: int = 0

    def document(self) -> dict[str, Any]:
        rows = [row.document(None if self.counts else self.rows[0]) for row in self.rows]
        for row, count in zip(rows, self.counts, strict=False):
            row["count"], row["cpu_seconds_each"] = count, row["cpu_seconds"] / count
        limit = asdict(self.limit) if self.limit else None
        return {"title": self.title, "grows_by": self.grows_by, "bytes": self.size, "rows": rows, "limit": limit}

    @classmethod
    def of(cls, document: dict[str, Any]) -> Table:
        """The table that `document` was made of."""
        rows = document["rows"]
        return cls(
            document["title"],
            tuple(Row(row["name"], tuple(Sample(**each) for each in row["samples"])) for row in rows),
            Limit(**document["limit"]) if document["limit"] else None,
            document["grows_by"],
            tuple(row["count"] for row in rows if "count" in row),
            document["bytes"],
        )

    def text(self) -> str:
        last = (f"CPU ms a {self.grows_by}",) if self.counts else ("ttbert / this", "in CPU")
        rows: list[tuple[str, ...]] = [("", "ms", "fastest", "slowest", "CPU ms", "peak RSS", "grew by", *last)]
        for row in self.document()["rows"]:
            times = (milliseconds(row[name]) for name in ("seconds", "fastest", "slowest", "cpu_seconds"))
            sizes = (size_text(row[name]) for name in ("peak_rss", "added_rss"))
            ratios = [f"{row[name]:.2f}" for name in ("ours_to_this", "cpu_ours_to_this") if name in row]
            rows.append((row["name"], *times, *sizes, *(ratios or [milliseconds(row["cpu_seconds_each"])])))
        if self.limit:
            rows.append((f"limit: {self.limit.name}", milliseconds(self.limit.seconds), *[""] * (len(rows[0]) - 2)))
        return f"{self.title}\n{table(rows, right=range(1, len(rows[0])))}"


@dataclass(frozen=True)
class Report:
    """One benchmark's tables, with what they were measured on."""

    name: str
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "date": time.strftime("%Y-%m-%d"),
            "machine": machine(),
            "tables": [each.document() for each in self.tables],
            "notes": self.notes,
        }

    @classmethod
    def of(cls, document: dict[str, Any]) -> Report:
        """The report that `document` was made of."""
        return cls(document["name"], tuple(map(Table.of, document["tables"])), tuple(document["notes"]))

    def text(self) -> str:
        return "\n\n".join([each.text() for each in self.tables] + list(self.notes))

    def plot(self, path: Path) -> None:
        """Bars of the medians with the spread, a panel for each table, in the format that the path's ending names."""
        import matplotlib as mpl

        mpl.use("agg")
        from matplotlib.figure import Figure

        height = sum(len(each.rows) for each in self.tables) * 0.4 + 1.1 * len(self.tables)
        figure = Figure(figsize=(9, height), layout="constrained")
        ratios = [len(each.rows) + 1 for each in self.tables]
        panels = figure.subplots(len(self.tables), 1, squeeze=False, height_ratios=ratios)[:, 0]
        for panel, each in zip(panels, self.tables, strict=True):
            _draw(panel, each)
        with mpl.rc_context({"svg.hashsalt": "ttbert"}):  # the same picture of the same record, to the byte
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def machine() -> dict[str, Any]:
    """What decides the numbers and is no part of ttbert."""
    cpu = next((line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory": memory,
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: found for name in _PACKAGES if (found := _version(name))},
    }


def machine_text(found: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {found[name]}" for name in ("python", *_PACKAGES) if name in found)
    return f"{found['cpu']}, {found['cores']} cores, {size_text(found['memory'])}, Linux {found['kernel']}\n{versions}"


def to_json(reports: Sequence[Report]) -> str:
    return json.dumps([each.document() for each in reports], indent=1)


def _draw(panel: Any, found: Table) -> None:
    rows = found.document()["rows"]
    names = [row["name"] for row in rows]
    medians = [1000 * row["seconds"] for row in rows]
    spread = [[1000 * abs(row[end] - row["seconds"]) for row in rows] for end in ("fastest", "slowest")]
    colors = ["#1f6f8b" if i == 0 or found.counts or name.startswith("ttbert") else "#b8bcc2" for i, name in enumerate(names)]
    panel.barh(names, medians, xerr=spread, color=colors, ecolor="#555555", capsize=2)
    for i, row in enumerate(rows):
        text = f"  {milliseconds(row['seconds'])} ms" + (
            f"  ({1 / row['ours_to_this']:.1f} x)" if i and not found.counts else ""
        )
        panel.annotate(text, (1000 * row["slowest"], i), va="center", fontsize=8)
    if found.limit:
        panel.axvline(1000 * found.limit.seconds, color="#c0392b", linestyle="--", linewidth=1)
    panel.set_xlim(0, 1.2 * max(1000 * row["slowest"] for row in rows))
    panel.invert_yaxis()
    panel.set_title(found.title, loc="left", fontsize=10)
    line = f"; the dashed line: {found.limit.name}, {milliseconds(found.limit.seconds)} ms" if found.limit else ""
    panel.set_xlabel(f"milliseconds{line}", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.0f}" if seconds >= 0.01 else f"{1000 * seconds:.2f}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
