"""`ttbert cache doctor`: what works in a cache and what does not."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ..console import say, show, styled
from .options import json_option, places_option

if TYPE_CHECKING:
    from ..cache.doctor import Check
    from ..cache.places import Places

_COLORS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "cyan"}


@click.command("doctor")
@click.argument("url", required=False)
@click.option("--no-write", is_flag=True, help="Write nothing; try only what a reader needs. As --read-only.")
@places_option
@json_option
def doctor_command(url: str | None, no_write: bool, places: Places, as_json: bool) -> None:
    """Try a cache out, and its local tier, step by step: find, reach, list, create, read, delete; clocks, rights and space.

    Of what fails, the cause and the remedy are told. Leaves with 0 unless something failed. What it writes are a few small
    objects below `probes`, which it removes.

    \b
    ttbert cache doctor
    ttbert cache doctor s3://lab/ttbert
    """
    from ..cache.doctor import examine_url, exit_code

    urls = {"cache": url or places.cache} | ({"local tier": places.local} if places.local and not url else {})
    checks: dict[str, list[Check]] = {}
    for tier, where in urls.items():
        checks[tier] = []
        # A machine that only reads the shared store keeps copies here all the same.
        for check in examine_url(where, write=not no_write and not (places.read_only and tier == "cache")):
            if not as_json and not checks[tier]:
                say(f"{tier}  {where}")
            checks[tier].append(check)
            if not as_json:
                _print(check)
    code = next(filter(None, map(exit_code, checks.values())), 0)
    if as_json:
        rows = [{"tier": tier, **asdict(check)} for tier, found in checks.items() for check in found]
        show({**{tier.replace(" ", "_"): where for tier, where in urls.items()}, "exit_code": code, "checks": rows})
    click.get_current_context().exit(code)


def _print(check: Check) -> None:
    say(f"  {styled(f'{check.state:<8}', _COLORS[check.state])} {check.name:<13} {check.what}")
    if check.fix:
        say(f"{'':<25}{styled('fix:', 'cyan')} {check.fix}")
