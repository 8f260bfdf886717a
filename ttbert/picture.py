"""Pictures of plans, by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InputError
from .runtime.l1 import usage

if TYPE_CHECKING:
    from .runtime.plan import Plan

_FORMATS = (".svg", ".png")
_KIB = 1024


def draw_l1(plan: Plan, path: Path, title: str) -> None:
    """One core's L1 while each op runs: circular buffers from the bottom, tensors at their addresses.

    InputError for a name that is not of a picture, or a place that cannot be written.
    """
    if path.suffix.lower() not in _FORMATS:
        raise InputError(f"{path} is not the name of a picture", f"end it in {' or '.join(_FORMATS)}")
    import matplotlib as mpl
    import matplotlib.patches

    mpl.use("agg")
    from matplotlib import pyplot

    steps = usage(plan)
    names = list(dict.fromkeys(each.name for step in steps for each in step.held))
    colours = dict(zip(names, pyplot.get_cmap("tab20").colors * 2, strict=False))
    figure, axes = pyplot.subplots(figsize=(12, 6), layout="constrained")
    for i, step in enumerate(steps):
        axes.bar(i, step.circular / _KIB, width=0.96, color="0.75", edgecolor="0.4", hatch="///", linewidth=0.5)
        for each in step.held:
            axes.bar(i, each.size / _KIB, bottom=each.start / _KIB, width=0.96, color=colours[each.name])
            if each.size > plan.chip.l1 / 30:
                middle = (each.start + each.size / 2) / _KIB
                axes.text(i, middle, each.name, ha="center", va="center", fontsize=6)
    handles = [mpl.patches.Patch(color=colours[name], label=name) for name in names]
    figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False)
    axes.axhline(plan.chip.l1 / _KIB, color="black", linewidth=1)
    axes.set_ylim(0, plan.chip.l1 / _KIB * 1.02)
    axes.set_xticks(range(len(steps)), [step.op for step in steps], rotation=45, ha="right")
    axes.set_ylabel("usable L1 of a core, KiB")
    axes.set_title(f"{title}\ntensors from the top, circular buffers (hatched) from the bottom; white is free", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}", "name a place that you may write to") from error
    finally:
        pyplot.close(figure)
