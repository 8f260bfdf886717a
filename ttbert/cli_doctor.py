"""`ttbert cache doctor`: what works in a cache and what does not."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .cli_options import cache_option, json_option
from .console import say, show, styled

if TYPE_CHECKING:
    from .cache.doctor import Check

_COLORS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "cyan"}


@click.command("doctor")
@click.argument("url", required=False)
@click.option("--no-write", is_flag=True, help="Write nothing; try only what a reader needs.")
@cache_option
@json_option
def doctor_command(url: str | None, no_write: bool, cache_url: str, as_json: bool) -> None:
    """Try a cache out, step by step: find it, reach it, list, create, read, delete; clocks, rights and space.

    Of what fails, the cause and the remedy are told. Leaves with 0 unless something failed. What it writes are a few small
    objects below `probes`, which it removes.

    \b
    ttbert cache doctor
    ttbert cache doctor s3://lab/ttbert
    """
    from .cache.cache import open_cache
    from .cache.doctor import examine, exit_code

    store = open_cache(url or cache_url).store
    checks = []
    if not as_json:
        say(f"cache  {store.url}")
    for check in examine(store, write=not no_write):
        checks.append(check)
        if not as_json:
            _print(check)
    if as_json:
        show({"cache": store.url, "exit_code": exit_code(checks), "checks": [asdict(check) for check in checks]})
    click.get_current_context().exit(exit_code(checks))


def _print(check: Check) -> None:
    say(f"  {styled(f'{check.state:<8}', _COLORS[check.state])} {check.name:<13} {check.what}")
    if check.fix:
        say(f"{'':<25}{styled('fix:', 'cyan')} {check.fix}")
