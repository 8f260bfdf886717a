"""`python -m benchmarks load` runs one benchmark, `python -m benchmarks all` runs every one."""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from pathlib import Path

import click

from ttbert.console import say, tell_error
from ttbert.errors import TtbertError

from .report import Report, machine, machine_text, to_json

BENCHMARKS = {"convert": 5, "load": 7, "s3": 5, "startup": 9, "hash": 5, "infer": 3, "scale": 2}
"""Each is a module of this package with `run(folder, small, rounds) -> Report`, and has so many rounds unless told."""


@click.command()
@click.argument("name", type=click.Choice((*BENCHMARKS, "all")))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw it; of all, FILE gets each one's name.")
@click.option("--small", is_flag=True, help="Small inputs: to see that it works, not how fast.")
@click.option("--rounds", type=click.IntRange(min=1), metavar="N", help="Runs of each case.  [default: 2 to 9, of --small 1]")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where inputs are generated, and kept for the next run.  [default: a temporary folder]",
)
def main(name: str, as_json: bool, plot: Path | None, small: bool, rounds: int | None, folder: Path | None) -> None:
    """Time ttbert and its peers, in turn, on the same bytes."""
    with tempfile.TemporaryDirectory(prefix="ttbert-benchmarks-") as temporary:
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        names = tuple(BENCHMARKS) if name == "all" else (name,)
        try:
            reports = [_run(each, place, small, rounds or (1 if small else BENCHMARKS[each])) for each in names]
        except TtbertError as error:
            tell_error(error)
            sys.exit(error.exit_code)
    if as_json:
        say(to_json(reports))
    else:
        for report in reports:
            say(f"{report.text()}\n")
        say(f"{time.strftime('%Y-%m-%d')}, {machine_text(machine())}")
    if plot:
        for report in reports:
            report.plot(plot if len(reports) == 1 else plot.with_name(f"{plot.stem}-{report.name}{plot.suffix}"))


def _run(name: str, folder: Path, small: bool, rounds: int) -> Report:
    report = importlib.import_module(f"benchmarks.{name}").run(folder, small, rounds)
    assert isinstance(report, Report)
    return report


if __name__ == "__main__":
    main()
