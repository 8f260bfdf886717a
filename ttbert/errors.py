"""Every error a user can meet: what happened, what to do, and the exit code of the command that met it.

Raise the narrowest class. The message says what is wrong in one line; `hint` says what to do about it.
Mistakes of a programmer (a wrong type, a call out of order) raise Python's own exceptions instead.
"""

from __future__ import annotations

import errno
import json
import signal


class TtbertError(Exception):
    """The base of all errors of ttbert; the command line prints `message` and `hint` and leaves with `exit_code`."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def kind(self) -> str:
        """The name of the error in documents."""
        return type(self).__name__

    def document(self) -> dict[str, object]:
        return {"kind": self.kind, "message": self.message, "hint": self.hint, "exit_code": self.exit_code}


class InputError(TtbertError):
    """What the user typed or gave as input cannot be used: a malformed file, a wrong count, an unknown name."""

    exit_code = 2


class CheckpointError(TtbertError):
    """The checkpoint is not one that can be converted: missing or extra tensors, a bad shape, an unsafe file."""

    exit_code = 3


class UnreadableError(CheckpointError):
    """The files of a checkpoint cannot be read here and now, which says nothing of the same files on another machine."""


class BoardError(TtbertError):
    """The board, its grid, the batch or the mesh is not supported."""

    exit_code = 4


class CacheError(TtbertError):
    """The cache cannot be used as asked."""

    exit_code = 5


class NotCached(CacheError):
    """Something is not there, and it may not be fetched or made: offline, or read-only."""

    exit_code = 6


class IntegrityError(CacheError):
    """Stored bytes are not what their digest, their size or their header says. Nothing of them was used."""

    exit_code = 7


class IncompatibleError(CacheError):
    """A stored thing is sound, but made by a version of ttbert that this one does not understand."""


class UntrustedError(CacheError):
    """No trusted key signed it, or it is older than what was seen before. Nothing of it was used."""

    exit_code = 8


class StoreReadOnly(CacheError):
    """The store may not be written to by this user."""

    exit_code = 9


class NoSpaceError(CacheError):
    """The disk is full; what was being written is not visible to anybody."""

    exit_code = 10


FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""The `errno` of a full disk, and of a quota that is used up."""


class StoreUnavailable(CacheError):
    """A store or the hub cannot be reached, or refuses: network, credentials, timeout."""

    exit_code = 11


class DeviceError(TtbertError):
    """The device asked for is not there or cannot be used."""

    exit_code = 12


class AccuracyError(TtbertError):
    """A score, or the agreement with the reference, is below its bound."""

    exit_code = 13


class ClusterError(TtbertError):
    """The cluster cannot be reached, has no worker for the run, or has lost all of them."""

    exit_code = 14


class Stop(KeyboardInterrupt):
    """A signal asks the process to end: raised in its main thread, and handled, as Ctrl-C is."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def signal_of(stop: BaseException | None) -> int:
    """The signal by which something was stopped: that of Ctrl-C unless it is known to be another one."""
    return stop.number if isinstance(stop, Stop) else signal.SIGINT


class Interrupted(TtbertError):
    """The command was stopped, by Ctrl-C or another signal: that of `stop`. The exit code is the one of shells for it."""

    exit_code = 130

    def __init__(self, stop: BaseException | None, what: str, hint: str = "") -> None:
        number = signal_of(stop)
        by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        super().__init__(f"interrupted{by}; {what}", hint)
        self.exit_code = 128 + number


def or_panic(*kinds: type[Exception]) -> tuple[type[BaseException], ...]:
    """These errors, and what libraries in Rust raise for a mistake of their own: `except or_panic(ValueError)`.

    That is a BaseException. Each library has a class of its own for it, which nobody can import, and which is there once it
    was raised.
    """
    return (*kinds, *(each for each in BaseException.__subclasses__() if each.__name__ == "PanicException"))


class ReportedError(TtbertError):
    """The error, of any kind, with which a process that ttbert started failed; `told` if that has told the user of it."""

    def __init__(self, kind: str, message: str, hint: str, exit_code: int, told: bool) -> None:
        super().__init__(message, hint)
        self._kind = kind
        self.exit_code = exit_code
        self.told = told

    @property
    def kind(self) -> str:
        return self._kind

    def as_its_kind(self) -> TtbertError:
        """The same as an error of the class of its kind, which a program can catch by that and hand on to another process.

        A TtbertError where the class is made of something else than a message and a hint.
        """
        found = globals().get(self._kind)
        is_known = isinstance(found, type) and issubclass(found, TtbertError) and "__init__" not in vars(found)
        kind: type[TtbertError] = found if is_known else TtbertError  # type: ignore[assignment]
        error = kind(self.message, self.hint)
        error.exit_code = self.exit_code
        return error

    @classmethod
    def parse(cls, said: bytes | str, told: bool = True) -> ReportedError:
        """The error in what the process printed with --json; ValueError if there is none, as of one that was killed."""
        try:
            error = json.loads(said)["error"]
            return cls(str(error["kind"]), str(error["message"]), str(error["hint"]), int(error["exit_code"]), told)
        except (LookupError, TypeError) as wrong:
            raise ValueError("no error") from wrong
