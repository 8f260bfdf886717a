"""One scored run, from loaded model to written files, and the other one that it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import platformdirs

from ..boards import CPU
from ..cache.digest import blake3_of
from ..cache.document import canonical
from ..convert.wanted import Wanted
from ..errors import AccuracyError
from ..recipe.policy import FLOAT32, POLICIES
from .batches import Layout
from .compare import Comparison, LogitsByWindow
from .dataset import Dataset
from .engine import Engine
from .journal import Journal
from .result import Result, make_result, part_document, write_result
from .runner import Progress, run_questions
from .subject import Subject


@dataclass(frozen=True, eq=False)
class Run:
    """What is to be run, and where its files go."""

    dataset: Dataset
    subject: Subject
    layout: Layout
    engine: Engine
    folder: Path | None = None
    """If nobody says, a folder of its own in the user's state folder."""

    @property
    def identity(self) -> dict[str, object]:
        """All that decides the logits, to the last bit: a journal goes on only where all of it is the same."""
        return {
            **self.subject.identity(),
            **self.engine.machine.decides,
            "tokenizers": version("tokenizers"),  # here alone: wherever the model is, its batches are made in this process
            "data": str(self.dataset.digest),
            "part": part_document(self.dataset),
            "batch": self.layout.batch,
            "real_length": self.layout.real_length,
        }

    @property
    def output(self) -> Path:
        if self.folder:
            return self.folder
        return Path(platformdirs.user_state_dir("ttbert"), "squad", blake3_of(canonical(self.identity)).short)


def other_model(wanted: Wanted, compare: str) -> Wanted:
    """The model that `--compare` means: the same for `cpu`, in another precision, or another one."""
    if compare in (CPU, FLOAT32):
        return wanted
    if compare in POLICIES:
        return replace(wanted, policy=compare)
    return Wanted.parse(compare, None, None, wanted.offline, default=wanted.policy)


def score(
    run: Run, resume: bool, progress: Callable[[Progress], None], keep_logits: bool = False
) -> tuple[Result, LogitsByWindow]:
    """Run it, or what is left of it, and write its files, unless it computed nothing. Errors as of a journal and of a run."""
    with Journal(run.output / "journal", run.identity, resume) as journal:
        outcome = run_questions(run.dataset, run.subject.encoder, run.engine, run.layout, journal, progress, keep_logits)
        result = make_result(run.dataset, run.subject, run.layout, run.engine.machine, outcome)
        if not result.is_mock:
            write_result(run.output, result)
        journal.finish()
    return result, outcome.logits


def find_fault(
    result: Result, comparison: Comparison | None, least: float | None, largest_drop: float | None
) -> AccuracyError | None:
    """The error for an F1 below `least`, or below that of the other run by more than `largest_drop`."""
    f1 = result.metrics.all.f1
    if least is not None and f1 < least:
        return AccuracyError(f"F1 is {f1:.2f}, below the bound of {least:g}", "look at the answers with --report DIR")
    if largest_drop is not None and comparison is not None and -comparison.f1.value > largest_drop:
        # Plus zero takes the minus off a zero.
        found, low, high = (each + 0.0 for each in (comparison.f1.value, comparison.f1.low, comparison.f1.high))
        return AccuracyError(
            f"F1 minus that of {comparison.second} is {found:+.2f} (95% interval {low:+.2f} to {high:+.2f}), "
            f"below the bound of {0.0 - largest_drop:+g}",
            "choose a policy of higher precision with --policy, or look at the answers that changed with --report DIR",
        )
    return None
