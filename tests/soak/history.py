"""What happened in a soak, operation by operation, and what of it should not have happened."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from ttbert import errors

Content = Mapping[str, str]
"""Digests of what a model's tensors and files hold, by name."""

_UNTIDY = 10.0
"""Seconds for which what a killed process had sent may still be on its way."""

_NAMES = {
    each.exit_code: each.__name__
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, errors.TtbertError) and "exit_code" in vars(each)
}
_ACCEPTABLE = {code for code, name in _NAMES.items() if name != "TtbertError"}
"""TtbertError itself, 1, is what the command line says of an error that it did not foresee."""


@dataclass(frozen=True)
class Operation:
    """One operation on one machine: when it began and ended, and how."""

    machine: int
    what: str
    model: str
    started: float
    ended: float
    exit_code: int
    was_killed: bool
    was_stuck: bool
    out: str
    err: str

    @property
    def succeeded(self) -> bool:
        return self.exit_code == 0

    @property
    def outcome(self) -> str:
        if self.was_killed:
            return "killed"
        return "succeeded" if self.succeeded else _NAMES.get(self.exit_code, f"exit code {self.exit_code}")

    @property
    def document(self) -> Any:
        return json.loads(self.out)

    def __str__(self) -> str:
        span = f"{self.started:.1f} to {self.ended:.1f} s"
        return f"machine {self.machine}, {self.what} {self.model}, {span}: {self.outcome}\n{self.err.strip()}"


class History:
    """All operations of a soak. `expected` is what each model holds; `log` gets a line or some of each operation that ended."""

    def __init__(self, expected: Mapping[str, Content], log: TextIO | None = None) -> None:
        self.operations: list[Operation] = []
        self._expected, self._log = expected, log
        self._misled: list[tuple[int, float]] = []

    def add(self, operation: Operation) -> None:
        self.operations.append(operation)
        if self._log:
            print(operation, file=self._log, flush=True)

    def mislead(self, machine: int, now: float) -> None:
        """Note that a machine got wrong bytes of what no digest protects: a name, or a listing."""
        self._misled.append((machine, now))

    def outcomes(self) -> dict[str, Counter[str]]:
        """How many operations of each kind ended in which way."""
        found: dict[str, Counter[str]] = {}
        for each in self.operations:
            found.setdefault(each.what, Counter())[each.outcome] += 1
        return found

    def served(self) -> list[Operation]:
        return [each for each in self.operations if each.what == "load" and each.succeeded]

    def wrong(self) -> list[Operation]:
        """Loads that gave other bytes than those of an undisturbed conversion."""
        return [each for each in self.served() if each.document != self._expected[each.model]]

    def rude(self) -> list[Operation]:
        """Operations that ended in none of the ways in which a command of ttbert ends, or not at all."""

        def is_rude(each: Operation) -> bool:
            if "Traceback" in each.err:
                return True
            return each.was_stuck or not (each.succeeded or each.was_killed or each.exit_code in _ACCEPTABLE)

        return [each for each in self.operations if is_rude(each)]

    def lost(self) -> list[Operation]:
        """Loads that did not find a model, or a part of it, that had been published, and not been removed since.

        Those are left out that were misled; what is really lost, the next ones do not find either.
        """
        return [each for each in self._not_found() if not self._was_misled(each)]

    def misled(self) -> list[Operation]:
        """Loads that did not find what had been published, since they were given wrong bytes of a name or of a listing."""
        return [each for each in self._not_found() if self._was_misled(each)]

    def _was_misled(self, operation: Operation) -> bool:
        return any(
            machine == operation.machine and operation.started <= when <= operation.ended for machine, when in self._misled
        )

    def _not_found(self) -> list[Operation]:

        def is_absent(each: Operation) -> bool:
            return _NAMES.get(each.exit_code) in ("NotCached", "InputError") or "is missing" in each.err

        return [
            each
            for each in self.operations
            if each.what == "load" and is_absent(each) and self.must_have(each.model, each.started, each.ended)
        ]

    def must_have(self, model: str, since: float, until: float) -> bool:
        """Whether somebody had published the model before `since`, and nobody tried to remove it from then to `until`."""

        def select(what: tuple[str, ...], choose: Callable[[Operation], bool]) -> list[Operation]:
            return [each for each in self.operations if each.model == model and each.what in what and choose(each)]

        published = select(("convert", "push"), lambda each: each.succeeded and each.ended <= since)
        removed = select(("rm",), lambda each: each.started <= until)
        return any(all(gone.ended + _UNTIDY < made.started for gone in removed) for made in published)
