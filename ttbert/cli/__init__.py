"""The command line: parse, call, report, leave with an exit code. What it reports is worked out elsewhere."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import sys
import threading
import traceback
from types import FrameType

import click

from .. import __version__
from ..console import Remarks, open_streams, show, tell, tell_error
from ..errors import InputError, Interrupted, NoSpaceError, ReportedError, Stop, TtbertError, or_panic
from .lazy import LazyGroup

_MODULES = {
    "bench": ".bench",
    "cache": ".cache",
    "check": ".plan",
    "convert": ".convert",
    "demo": ".demo",
    "plan": ".plan",
    "squad": ".squad",
}

_HELP: type[Exception] | tuple[()] = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""What newer versions of click raise for a group without a command."""

_NEW_OBJECTS = 50_000
"""After so many Python looks for cycles among its objects, by default after 700. Thousands of manifests are read without making
one, and that took a sixth of the time of `cache ls`.
"""

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks a process to end: Ctrl-C, a scheduler or a service manager, a terminal that is gone."""


@click.group(
    cls=LazyGroup, modules=_MODULES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="ttbert")
def cli() -> None:
    """Convert BERT checkpoints for Tenstorrent cards, share them in a cache, and run them.

    \b
    ttbert convert phiyodr/bert-large-finetuned-squad2
    ttbert demo --model bundled --batch 8
    ttbert squad --model bundled --data dev-v2.0.json
    ttbert cache ls
    """


def main() -> None:
    """The entry point: every error ends here, as two lines and an exit code."""
    gc.set_threshold(_NEW_OBJECTS)
    try:
        open_streams()
        logging.getLogger("ttbert").addHandler(Remarks())
        _take_signals()
        left_with = cli.main(prog_name="ttbert", standalone_mode=False)  # None after all went well
        sys.exit(left_with)
    except click.ClickException as error:
        if isinstance(error, _HELP):
            tell(error.format_message())
            sys.exit(error.exit_code)
        _leave(_mistake(error))
    except (click.Abort, KeyboardInterrupt) as stop:
        interrupted = Interrupted(stop.__cause__ or stop, "nothing incomplete was published")
        tell(interrupted.message)
        _show_error(interrupted)
        sys.exit(interrupted.exit_code)
    except TtbertError as error:
        _leave(error)
    except or_panic(Exception) as error:
        from ..tt import first_line

        traced = "" if _debugging() else "run it again with TTBERT_DEBUG=1 for the traceback, and "
        unknown = TtbertError(
            f"ttbert failed in a way it should not: {type(error).__name__}: {first_line(error)}", f"{traced}please report it"
        )
        unknown.__cause__ = error
        _leave(unknown)


def _take_signals() -> None:
    """Have all that is under way end in good order at the first signal that asks for the end, which a dead network may delay;
    a second one ends the process at once. That leaves nothing incomplete either.
    """
    heard, hears = os.pipe()
    os.set_blocking(hears, False)
    signal.set_wakeup_fd(hears, warn_on_full_buffer=False)
    for number in _ENDING:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # not in the background, nor by nohup
            signal.signal(number, _stop)
    threading.Thread(target=_answer_signals, args=(heard,), daemon=True).start()


def _stop(number: int, frame: FrameType | None) -> None:
    for each in _ENDING:
        if signal.getsignal(each) is _stop:
            signal.signal(each, signal.SIG_DFL)
    raise Stop(number)


def _answer_signals(heard: int) -> None:
    """In a thread, since Python calls a handler only when the main thread is back from whatever it waits for, and for a silent
    server that may be a while."""
    first = os.read(heard, 1)[0]
    if not select.select([heard], [], [], 1.0)[0] and first == signal.SIGINT:
        tell("waiting for what is under way; Ctrl-C once more ends it at once")
    os._exit(128 + os.read(heard, 1)[0])


def _mistake(error: click.ClickException) -> InputError:
    """What is wrong with the words of a command, or with a variable that stands for one of its options."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context and isinstance(error, click.BadParameter) and error.param:
        source = context.get_parameter_source(str(error.param.name))
        if source is click.core.ParameterSource.ENVIRONMENT:
            error.param_hint = error.param.envvar
    what = " ".join(error.format_message().split())
    return InputError(what[:1].lower() + what[1:], f"see `{context.command_path if context else 'ttbert'} --help`")


def _leave(error: TtbertError) -> None:
    if _debugging():
        traceback.print_exception(error)
    if not (isinstance(error, ReportedError) and error.told):
        tell_error(error)
    _show_error(error)
    sys.exit(error.exit_code)


def _show_error(error: TtbertError) -> None:
    if "--json" in sys.argv:
        with contextlib.suppress(OSError, NoSpaceError, SystemExit):  # it has been told on stderr, and is the exit code
            show({"error": error.document()})


def _debugging() -> bool:
    return os.environ.get("TTBERT_DEBUG", "") not in ("", "0")
