"""What people and programs see: results on stdout, everything else on stderr.

With --json, stdout is one JSON document and nothing more. Progress is a bar on a terminal and a line now and then
elsewhere.
"""

from __future__ import annotations

import codecs
import io
import json
import logging
import os
import re
import shutil
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TextIO

import click

from .errors import FULL, InputError, NoSpaceError, TtbertError
from .text import size_text

if TYPE_CHECKING:
    from tqdm import tqdm

_LINE_SECONDS = 5.0
_STALLED = 20.0
_MOST_SHOWN = 4000
"""Characters of a passage, some fifty lines of a terminal."""
_OPEN, _CLOSE = "\ue000", "\ue001"
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ue000\ue001]")
"""Control characters other than tab and newline, marks that turn the direction of writing, halves of characters."""


def open_streams() -> None:
    """Make sure that stdin, stdout and stderr are there, and that stdout takes any text.

    Where the shell left one out, as with `2>&-`, the next file to be opened would get its number, and all that libraries
    print there. What the encoding of stdout does not have, such as a model's Cyrillic name in Latin-1, becomes an escape, as
    on stderr.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def show(document: object) -> None:
    """A result as JSON, on stdout; all in ASCII unless that is UTF-8, as whoever reads it may take it to be."""
    is_unicode = codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"
    say(json.dumps(document, indent=2, ensure_ascii=not is_unicode))


def show_result(document: dict[str, Any], failure: TtbertError | None) -> None:
    """The result of a command as JSON; if that is a failure, with the error in it, and the command leaves as of the error."""
    if failure is None:
        show(document)
        return
    tell_error(failure)
    show({**document, "error": failure.document()})
    click.get_current_context().exit(failure.exit_code)


def say(text: str = "") -> None:
    """A result for people, on stdout. NoSpaceError where that is a file on a disk that is full.

    Where its reader is gone, as `head` is soon, the process ends as the signal for that would end it, and tells nobody.
    """
    try:
        click.echo(text)
    except BrokenPipeError:
        _give_up(sys.stdout)
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        _give_up(sys.stdout)
        if error.errno not in FULL:
            raise
        raise NoSpaceError(
            f"the output could not be written whole: {(error.strerror or '').lower()}", "free some, or send it elsewhere"
        ) from error


def tell(text: str) -> None:
    """A remark on what is going on, on stderr."""
    _remark(plain(text))


def _remark(text: str) -> None:
    try:
        click.echo(text, err=True)
    except OSError:  # nothing is done less well because nobody could be told
        _give_up(sys.stderr)


def _give_up(stream: TextIO) -> None:
    """Have nobody get what is left in a stream, and what follows."""
    nobody = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nobody, stream.fileno())
    os.close(nobody)


class Remarks(logging.Handler):
    """Warnings of the library, told as they come."""

    def emit(self, record: logging.LogRecord) -> None:
        _remark(f"{styled('warning:', 'yellow', bold=True)} {plain(record.getMessage())}")


def tell_error(error: TtbertError) -> None:
    """What happened, and what to do about it: two lines on stderr."""
    _remark(f"{styled('error:', 'red', bold=True)} {plain(error.message)}")
    if error.hint:
        _remark(f"{styled('hint:', 'cyan')} {plain(error.hint)}")


def plain(text: str) -> str:
    """Somebody else's text as it can be printed, of the same length: what would steer the terminal becomes U+FFFD."""
    return _STEERING.sub("\ufffd", text)


def styled(text: str, color: str | None = None, bold: bool = False) -> str:
    """Text in colour, unless NO_COLOR is set or the terminal has none. What is not a terminal gets plain text anyway."""
    return click.style(text, fg=color, bold=bold) if _has_colors() else text


def _has_colors() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows in columns, the first one a heading; columns numbered in `right` are aligned there."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def passage(text: str, start: int, end: int, indent: str) -> str:
    """A text wrapped to the terminal, with `text[start:end]` highlighted, or in [[...]] where there are no colours.

    Of a book it is what is around that, or its beginning.
    """
    text = plain(text)
    first = max(0, min(start - _MOST_SHOWN // 2, len(text) - _MOST_SHOWN))
    last = first + _MOST_SHOWN
    before, after = text[first:start], text[end:last]
    marked = f"{before}{_OPEN}{text[start:end]}{_CLOSE}{after}" if end > start else f"{before}{after}"
    marked = f"{'... ' if first else ''}{marked}{' ...' if last < len(text) else ''}"
    columns = min(shutil.get_terminal_size().columns, 110)
    wrapped = textwrap.fill(marked, columns, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    if sys.stdout.isatty() and _has_colors():
        return wrapped.replace(_OPEN, "\033[1;32m").replace(_CLOSE, "\033[0m")
    return wrapped.replace(_OPEN, "[[").replace(_CLOSE, "]]")


def agree(agreed: bool, question: str) -> None:
    """Ask, unless it was agreed to before; leave the command unless the answer is yes."""
    if agreed:
        return
    try:
        answer = click.confirm(question, err=True)
    except click.Abort as error:
        if not isinstance(error.__context__, EOFError):
            raise
        answer = None
    if answer is None:
        tell("")
        raise InputError("nobody is there to answer, so nothing was changed", "add --yes, or --dry-run to see the plan alone")
    if not answer:
        tell("nothing was changed")
        click.get_current_context().exit(1)


ProgressMode = Literal["bar", "lines", "json"]
_mode: ProgressMode | None = None


def set_progress(mode: ProgressMode | None) -> None:
    """How progress is shown from now on; None for a bar on a terminal and lines elsewhere."""
    global _mode
    _mode = mode


def progress_mode() -> ProgressMode:
    return _mode or ("bar" if sys.stderr.isatty() else "lines")


def progress_options() -> list[str]:
    """The options with which another command shows progress in the way that was chosen here."""
    return ["--progress", _mode] if _mode else []


class Progress:
    """Objects and bytes done, of so many. `advance` may be called from several threads; it ends with the last object.

    As lines or JSON it speaks every few seconds, also when nothing was done in the meantime.
    """

    def __init__(self, what: str, objects: int, size: int) -> None:
        self._what, self._objects, self._size = what, objects, size
        self._bar: tqdm[Any] | None = None
        self._done = self._bytes = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._started = self._advanced = time.monotonic()

    def __enter__(self) -> Progress:
        if progress_mode() == "bar":
            from tqdm import tqdm

            # Of a narrow terminal half is left to the figures, without which it says nothing.
            what = textwrap.shorten(self._what, max(10, shutil.get_terminal_size().columns // 2), placeholder="…")
            self._bar = tqdm(total=self._size, unit="B", unit_scale=True, desc=what, leave=False)
        else:
            self._watch = threading.Thread(target=self._speak, daemon=True, name="progress")
            self._watch.start()
        if progress_mode() == "json":
            self._tell("begin")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._end("failed" if kind else "end")

    def advance(self, size: int) -> None:
        with self._lock:
            self._done += 1
            self._bytes += size
            self._advanced = time.monotonic()
            if self._bar is not None:
                self._bar.set_postfix_str(f"{self._done}/{self._objects}", refresh=False)
                self._bar.update(size)
            if self._done == self._objects:
                self._end("end")

    def _end(self, event: str) -> None:
        if self._ended.is_set():
            return
        if self._bar is not None:
            self._bar.close()
        self._ended.set()
        if progress_mode() == "json" or (progress_mode() == "lines" and event == "end" and self._done):
            self._tell(event)

    def _speak(self) -> None:
        while not self._ended.wait(_LINE_SECONDS):
            self._tell("progress")

    def _tell(self, event: str) -> None:
        now = time.monotonic()
        seconds, still = max(now - self._started, 1e-3), now - self._advanced
        rate = self._bytes / seconds
        if progress_mode() == "json":
            _tell_event(
                event,
                what=self._what,
                objects=self._done,
                objects_of=self._objects,
                bytes=self._bytes,
                bytes_of=self._size,
                seconds=round(seconds, 3),
                seconds_since_last=round(still, 3),
            )
            return
        stalled = f"; nothing for {still:.0f} s" if still >= _STALLED and event == "progress" else ""
        tell(f"{self._what}: {self._done}/{self._objects}, {size_text(self._bytes)}, {size_text(rate)}/s{stalled}")


def _tell_event(event: str, **fields: object) -> None:
    """One JSON object on a line of its own, on stderr."""
    tell(json.dumps({"event": event, **fields}, ensure_ascii=False))


class ScoreProgress:
    """Questions answered, of so many, with their rate, the time that is left and the score so far."""

    def __init__(self, what: str, questions: int) -> None:
        self._what, self._questions = what, questions
        self._done = self._resumed = 0
        self._score: tuple[float, float] | None = None
        self._started = self._told = time.monotonic()

    def __enter__(self) -> ScoreProgress:
        from tqdm import tqdm

        bar = progress_mode() == "bar"
        self._bar = tqdm(total=self._questions, unit="q", desc=self._what, disable=not bar, leave=False, smoothing=0.05)
        if progress_mode() == "json":
            self._tell("begin")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()
        if progress_mode() == "json":
            self._tell("failed" if kind else "end")
        elif progress_mode() == "lines" and self._done:
            self._tell("end")

    def advance(self, score: tuple[float, float] | None, resumed: bool) -> None:
        """One more question, and exact match and F1 over all so far, if there is a score; `resumed` if its answer was there
        before."""
        self._done += 1
        self._resumed += resumed
        self._score = score
        if resumed:
            self._started = time.monotonic()
            self._bar.initial = self._resumed
        self._bar.set_postfix_str(self._score_text, refresh=False)
        self._bar.update()
        if progress_mode() != "bar" and time.monotonic() - self._told >= _LINE_SECONDS:
            self._tell("progress")

    @property
    def _score_text(self) -> str:
        return f"exact {self._score[0]:.2f}, F1 {self._score[1]:.2f} so far" if self._score else ""

    def _tell(self, event: str) -> None:
        self._told = time.monotonic()
        seconds = max(self._told - self._started, 1e-3)
        if progress_mode() == "json":
            exact, f1 = self._score or (None, None)
            _tell_event(
                event,
                what=self._what,
                questions=self._done,
                questions_of=self._questions,
                resumed=self._resumed,
                exact=exact,
                f1=f1,
                seconds=round(seconds, 3),
            )
            return
        rate = (self._done - self._resumed) / seconds
        left = f", {rate:.1f}/s, {(self._questions - self._done) / rate:.0f} s left" if rate else ""
        score = f", {self._score_text}" if self._score else ""
        tell(f"{self._what}: {self._done:,}/{self._questions:,} questions{left}{score}")
