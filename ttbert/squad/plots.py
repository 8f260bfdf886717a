"""The plots of a report, as SVG that takes its colours from the page, so that it is legible on light and on dark.

matplotlib draws with marker colours, which are replaced by CSS variables.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import matplotlib
from matplotlib.figure import Figure

from .analysis import Bin, Slice

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_VARIABLES = {"#010101": "--ink", "#020202": "--line", "#030303": "--one", "#040404": "--two", "#050505": "--paper"}
_INK, _LINE, _ONE, _TWO, _PAPER = _VARIABLES

_STYLE = {
    "svg.fonttype": "path",
    "svg.hashsalt": "ttbert",  # ids that are the same in every run
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _LINE,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
}

_BINS = 40


def threshold_plot(curve: Sequence[tuple[float, float, float]], best_f1: tuple[float, float], used: float) -> str:
    """Exact match and F1 over the null threshold, with the one that was used and the best one."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure("null threshold: “no answer” above it", "%", "Score by null threshold")
        thresholds = [point[0] for point in curve]
        axes.step(thresholds, [point[2] for point in curve], where="post", color=_ONE, label="F1")
        axes.step(thresholds, [point[1] for point in curve], where="post", color=_TWO, label="exact match")
        axes.axvline(used, color=_INK, linewidth=0.8, linestyle="--", label=f"used: {used:g}")
        axes.plot(*best_f1, "o", color=_ONE, markersize=5, label=f"best F1: {best_f1[1]:.2f} at {best_f1[0]:.2f}")
        _legend(figure, 2)
        return _svg(figure)


def slices_plot(slices: Sequence[Slice], title: str, label: str) -> str:
    """F1 of each group as a bar, with the number of questions in it."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure("F1, %", label, title, height=0.9 + 0.4 * len(slices), grid="x")
        places = range(len(slices))
        axes.barh(places, [each.f1 for each in slices], color=_ONE, height=0.62)
        axes.set_yticks(places, [each.name for each in slices])
        axes.invert_yaxis()
        axes.set_xlim(0, 125)
        axes.set_xticks(range(0, 101, 20))
        for place, each in zip(places, slices, strict=True):
            axes.text(each.f1 + 1, place, f"{each.f1:.1f}  ({each.count:,})", va="center", fontsize=9)
        return _svg(figure)


def histogram_plot(with_answer: Sequence[float], without: Sequence[float], used: float) -> str:
    """Null scores of questions with and without an answer."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure("null score: “no answer” minus best span", "questions", "Null scores")
        both = [*with_answer, *without]
        low, high = min(both), max(both)
        if low == high:
            low, high = low - 0.5, high + 0.5
        for values, color, name in ((with_answer, _ONE, "with answer"), (without, _TWO, "without")):
            axes.hist(values, bins=_BINS, range=(low, high), color=color, alpha=0.6, label=f"{name} ({len(values):,})")
        axes.axvline(used, color=_INK, linewidth=0.8, linestyle="--", label=f"threshold: {used:g}")
        _legend(figure, 3)
        return _svg(figure)


def calibration_plot(bins: Sequence[Bin]) -> str:
    """The share of exactly right answers by the probability that the model gives them."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure("probability that the model gives its answer, %", "exactly right, %", "Calibration")
        axes.plot([0, 100], [0, 100], color=_INK, linewidth=0.8, linestyle="--", label="perfect")
        largest = max(each.count for each in bins)
        axes.scatter(
            [each.probability for each in bins],
            [each.exact for each in bins],
            s=[20 + 180 * each.count / largest for each in bins],
            color=_ONE,
            edgecolors=_PAPER,
            zorder=3,
            label="answers, larger where there are more",
        )
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 105)
        _legend(figure, 2, markerscale=0.6)
        return _svg(figure)


def _figure(x: str, y: str, title: str, height: float = 3.5, grid: Literal["both", "x"] = "both") -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.6, height), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.grid(visible=True, axis=grid)
    return figure, axes


def _legend(figure: Figure, columns: int, markerscale: float = 1.0) -> None:
    """Below the axes, where it can cover nothing."""
    figure.legend(loc="outside lower center", ncols=columns, markerscale=markerscale, fontsize=9)


def _svg(figure: Figure) -> str:
    """The picture alone: no XML head, nothing that differs from run to run, colours of the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    # Ids of several pictures share one page.
    salt = re.sub(r"\W", "", figure.axes[0].get_title(loc="left"))
    text = re.sub(r'id="', f'id="{salt}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{salt}-", text)
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'role="img"', text, count=1)
