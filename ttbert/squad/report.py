"""The report of a run: one HTML page that needs nothing else, and the same as JSON."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from . import plots
from .analysis import (
    by_answer_kind,
    by_context_length,
    calibration,
    calibration_error,
    marked_context,
    worst_misses,
)
from .answers import NULL_THRESHOLD
from .compare import Comparison, worst_and_best
from .document import REPORT, write_json, write_text
from .metrics import threshold_curve
from .result import Result, result_document

PAGE = "index.html"

_MISSES = 4
_CHANGES = 10
_CONTEXT_SHOWN = 700


def write_report(folder: Path, result: Result, comparison: Comparison | None = None) -> Path:
    """Write `index.html` and `report.json`; the path of the page."""
    document = result_document(result)
    if comparison:
        document["comparison"] = comparison.document()
    write_json(folder / REPORT, document)
    write_text(folder / PAGE, render_page(result, comparison))
    return folder / PAGE


def render_page(result: Result, comparison: Comparison | None = None) -> str:
    """The page. All that comes from data or model is escaped; control characters become visible signs."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ttbert.squad"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["clean"] = visible
    bins = calibration(result)
    misses = {
        name: [{"miss": miss, "pieces": _excerpt(marked_context(miss))} for miss in found]
        for name, found in worst_misses(result, _MISSES).items()
    }
    page: str = environment.get_template("report.html").render(
        result=result,
        metrics=result.metrics,
        dataset=result.dataset,
        timings=result.timings,
        provenance=result.provenance,
        figures=[Markup(each) for each in _figures(result)],
        calibration_error=calibration_error(bins),
        misses=misses,
        comparison=comparison,
        changes=worst_and_best(comparison.changes, _CHANGES) if comparison else [],
        texts={each.id: each.question for each in result.dataset.questions},
    )
    return page


def visible(text: Any) -> str:
    """A text in which control characters, which HTML forbids, are replaced by their pictures or U+FFFD."""
    made = []
    for char in str(text):
        if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs"):
            made.append(char)
        else:
            made.append(chr(0x2400 + ord(char)) if ord(char) < 32 else "\N{REPLACEMENT CHARACTER}")
    return "".join(made)


def _figures(result: Result) -> list[str]:
    questions = result.dataset.questions
    nulls = result.null_scores
    figures = []
    if result.dataset.allows_no_answer:
        curve = threshold_curve(questions, result.best_spans, nulls)
        best = max(curve, key=lambda point: point[2])
        figures += [
            plots.threshold_plot(curve, (best[0], best[2]), NULL_THRESHOLD),
            plots.histogram_plot(
                [nulls[each.id] for each in questions if each.has_answer],
                [nulls[each.id] for each in questions if not each.has_answer],
                NULL_THRESHOLD,
            ),
        ]
    return [
        *figures,
        plots.slices_plot(by_answer_kind(result), "F1 by kind of answer", "gold answer"),
        plots.slices_plot(by_context_length(result), "F1 by length of context", "tokens"),
        plots.calibration_plot(calibration(result)),
    ]


def _excerpt(pieces: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pieces of a context with long unmarked stretches cut short, the ends next to marks kept."""
    if sum(len(text) for text, _ in pieces) <= _CONTEXT_SHOWN:
        return pieces
    if len(pieces) == 1:
        return [(pieces[0][0][:_CONTEXT_SHOWN] + " …", "")]
    half = _CONTEXT_SHOWN // 4
    made = []
    for number, (text, mark) in enumerate(pieces):
        if mark:
            made.append((text if len(text) <= _CONTEXT_SHOWN else text[:_CONTEXT_SHOWN] + " …", mark))
            continue
        begin = text[:half].rpartition(" ")[0] if number else ""
        end = text[-half:].partition(" ")[2] if number + 1 < len(pieces) else ""
        made.append((text if len(text) <= len(begin) + len(end) + 3 else f"{begin} … {end}" if number else f"… {end}", mark))
    return made
