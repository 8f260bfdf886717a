"""`ttbert cache gc`: make room, in two phases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from ..console import agree, say, show, tell
from ..errors import IntegrityError, NoSpaceError
from ..text import count_text, size_text
from .cache import note_absence
from .options import cache_option, complete_commands, json_option
from .units import parse_days, parse_hours, parse_size

if TYPE_CHECKING:
    from ..cache.gc import Plan, Waste
    from ..cache.places import Places


@click.command("gc")
@click.argument("refs", nargs=-1, metavar="[REF]...")
@click.option("--max-size", type=parse_size, metavar="SIZE", help="Give up the models used longest ago until the cache fits.")
@click.option("--older-than", type=parse_days, metavar="TIME", help="Give up models that were not used for so long.")
@click.option(
    "--keep-last",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Keep what each name led to before, too: its last N meanings.",
)
@click.option("--quarantined", is_flag=True, help="Delete what is in quarantine, too.")
@click.option(
    "--grace",
    type=parse_hours,
    default="24h",
    show_default=True,
    metavar="TIME",
    help="How long something is condemned before it is deleted. 0 deletes at once: only while nobody converts.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@cache_option
@json_option
def gc_command(
    refs: tuple[str, ...],
    max_size: int | None,
    older_than: float | None,
    keep_last: int,
    quarantined: bool,
    grace: float,
    dry_run: bool,
    yes: bool,
    places: Places,
    as_json: bool,
) -> None:
    """Make room: what no name leads to, and models that the limits give up.

    What is found is condemned now. A later collection, after the grace period, deletes it, unless it is used or named again
    by then; so nothing is deleted under a reader or a writer on any machine. Run it every day, and each run does both.
    With REF, only these models, and what they were before, are looked at.

    \b
    ttbert cache gc --dry-run
    ttbert cache gc --max-size 200GB --older-than 90d --yes
    """
    from ..cache.census import find_model, take_census
    from ..cache.gc import Limits, plan_gc
    from ..cache.sweep import run_gc

    cache = places.open()
    census = take_census(cache)
    note_absence(cache, census)
    only = tuple(find_model(census, ref).ref for ref in refs)
    plan = plan_gc(cache, census, Limits(max_size, older_than, keep_last, only), grace, quarantined)
    if not as_json:
        _print(plan, say)
    elif plan.deletes and not (dry_run or yes):
        _print(plan, tell)
    freed = 0
    if not dry_run and (plan.deletes or plan.condemns):
        if plan.deletes:
            agree(yes, f"Delete it from {cache.store.url}?")
        try:
            freed = run_gc(cache, plan)
        except NoSpaceError as error:
            now = "add --grace 0 while nobody converts, or " if plan.grace and plan.condemns else ""
            way_out = f"{now}free a few kB of that disk in another way, then collect again"
            error.hint = f"what is to be deleted is written down first: {way_out}"
            raise
    if as_json:
        show({"cache": cache.store.url, "dry_run": dry_run, **_document(plan), "freed": freed})
    elif plan.deletes and not dry_run:
        say(f"freed {size_text(freed)}")
    if not dry_run and freed < sum(waste.entry.size for waste in _deleted(plan)):
        tell("note: the rest stays: unless a warning says why, it is newer than its sentence, by the clock, or in use again")
    if plan.broken:
        _explain(plan)
        click.get_current_context().exit(IntegrityError.exit_code)


def _print(plan: Plan, say: Callable[[str], None]) -> None:
    if plan.forgotten:
        say(f"forget now: {', '.join(map(str, plan.forgotten))}")
    _print_part(_deleted(plan), "delete now", say)
    if plan.grace:
        when = datetime.now().astimezone() + timedelta(seconds=plan.grace)
        _print_part(plan.condemn, f"condemn now; a collection after {when:%Y-%m-%d %H:%M} deletes it, unless it is used", say)
        _print_part(plan.waiting, "condemned already, and not yet for long enough", say)
    if plan.young:
        say(f"{count_text(len(plan.young), 'temporary file')} spared: a writer may be at work")
    if plan.over:
        say(f"the cache stays {size_text(plan.over)} above the limit: what is left was used today, or is not to be touched")
        say(f"  {complete_commands('`ttbert cache rm REF`')} forgets a model all the same")
    if not (plan.deletes or plan.condemns):
        say("nothing to delete")


def _deleted(plan: Plan) -> list[Waste]:
    return [*plan.leftovers, *plan.going]


def _print_part(waste: Iterable[Waste], title: str, say: Callable[[str], None]) -> None:
    groups = _groups(waste)
    if not groups:
        return
    objects, size = (sum(each[i] for each in groups.values()) for i in (0, 1))
    say(f"{title}: {count_text(objects, 'object')}, {size_text(size)}")
    for reason, (count, bytes_) in sorted(groups.items(), key=lambda item: -item[1][1]):
        say(f"  {count:>5}  {size_text(bytes_):>9}  {reason}")


def _groups(waste: Iterable[Waste]) -> dict[str, tuple[int, int]]:
    """For each reason how many objects and bytes."""
    groups: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for each in waste:
        count, size = groups[each.reason]
        groups[each.reason] = count + 1, size + each.entry.size
    return dict(groups)


def _document(plan: Plan) -> dict[str, Any]:
    def rows(waste: Iterable[Waste]) -> list[dict[str, Any]]:
        return [{"key": each.entry.key, "bytes": each.entry.size, "reason": each.reason} for each in waste]

    return {
        "delete": rows(_deleted(plan)),
        "forget": [str(each) for each in plan.forget],
        "condemn": rows(plan.condemn if plan.grace else ()),
        "give_up": [str(each) for each in plan.condemn_refs],
        "waiting": rows(plan.waiting),
        "temporary_files_spared": len(plan.young),
        "grace_seconds": plan.grace,
        "bytes_over_limit": plan.over,
        "unreadable": [{"ref": str(model.ref), "problem": model.problem} for model in plan.broken],
    }


def _explain(plan: Plan) -> None:
    tell("nothing else is deleted, since it is not known what these names lead to:")
    for model in plan.broken:
        tell(f"  {model.ref}: {model.problem}")
        forget = complete_commands(f"`ttbert cache rm {model.ref}`")
        tell(f"  hint: convert it again, or forget it with {forget}; then collect again")
