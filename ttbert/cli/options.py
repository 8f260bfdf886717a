"""Options that several commands share, and where the cache is by default."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import click

from ..boards import AUTO, BOARDS, CPU
from ..console import set_progress
from ..errors import InputError, TtbertError
from ..recipe.policy import DEFAULT_POLICY, FLOAT32, POLICIES, PRECISIONS
from ..settings import KINDS, chosen, default_cache, setting, settings_path, variable

F = TypeVar("F", bound=Callable[..., object])


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")

_COMMAND = re.compile(r"`ttbert ([^`]+)`")


def _setting_option(
    name: str, *names: str, otherwise: Callable[[], str | None] = lambda: None, **attributes: Any
) -> Callable[[F], F]:
    """The option of a setting: where it is not given, its variable counts, then the user's settings, then `otherwise`."""
    is_flag = KINDS[name] is bool

    def default() -> Any:
        found = setting(name)
        return found if found is not None else False if is_flag else otherwise()

    option = f"--{name.replace('_', '-')}"
    return click.option(option, *names, is_flag=is_flag, envvar=variable(name), default=default, **attributes)


_cache_option = _setting_option(
    "cache",
    "cache_url",
    otherwise=default_cache,
    metavar="URL",
    help="The cache: a folder, s3://BUCKET/PREFIX (gs://, az://), or an fsspec URL. Also TTBERT_CACHE.  "
    "[default: ~/.cache/ttbert]",
)

progress_option = click.option(
    "--progress",
    type=click.Choice(("bar", "lines", "json")),
    envvar="TTBERT_PROGRESS",
    expose_value=False,
    callback=lambda context, parameter, value: set_progress(value),
    help="How progress is shown on stderr.  [default: a bar on a terminal, else lines]",
)

space_option = _setting_option(
    "no_space_check",
    help="Write even where the disk says that it has too little space: some mounts say so wrongly.",
)
_TIER_OPTIONS = (
    _cache_option,
    _setting_option(
        "local",
        "local_url",
        metavar="FOLDER",
        help="Keep copies in this folder of what is read from the cache. Also TTBERT_LOCAL.  "
        "[default: ~/.cache/ttbert where the cache is reached over a network]",
    ),
    click.option("--no-local", is_flag=True, help="Keep no copies here: read the cache itself, every time. As --local none."),
    _setting_option(
        "read_only",
        help="Publish nothing, and change nothing in the cache.",
    ),
    _setting_option(
        "shared_group",
        metavar="GROUP",
        help="Share the folder of a new cache with this group.",
    ),
    _setting_option(
        "accept_weak_store",
        help="Publish also where two writers can overwrite each other's names.",
    ),
    space_option,
)


def places_option(command: F) -> F:
    """--cache, and all that says how it is reached; the command gets them as one `places`."""

    @functools.wraps(command)
    def collected(
        cache_url: str,
        local_url: str | None,
        no_local: bool,
        read_only: bool,
        shared_group: str | None,
        accept_weak_store: bool,
        no_space_check: bool,
        **others: Any,
    ) -> object:
        from ..cache.places import NO_LOCAL, Places, local_tier

        source = click.get_current_context().get_parameter_source("local_url")
        if no_local and source is click.core.ParameterSource.COMMANDLINE and local_url != NO_LOCAL:
            raise InputError("--local names a folder, and --no-local wants none", "leave out one of the two")
        local = local_tier(cache_url, NO_LOCAL if no_local else local_url)
        places = Places(cache_url, local, read_only, accept_weak_store, shared_group, not no_space_check)
        with _completing_hints():
            return command(places=places, **others)

    for option in reversed(_TIER_OPTIONS):
        collected = option(collected)
    return cast(F, collected)


def cache_option(command: F) -> F:
    """--cache alone, for what looks at or changes the cache itself; the command gets it as `places`, too."""

    @functools.wraps(command)
    def collected(cache_url: str, **others: Any) -> object:
        from ..cache.places import Places

        with _completing_hints():
            return command(places=Places(cache_url, read_only=bool(chosen("read_only"))), **others)

    return cast(F, _cache_option(collected))


@contextmanager
def _completing_hints() -> Iterator[None]:
    try:
        yield
    except TtbertError as error:
        error.hint = complete_commands(error.hint)
        raise


def complete_commands(text: str) -> str:
    """A text whose commands, in backticks, get the --cache and --local of this one, and so mean the same cache."""
    context = click.get_current_context()
    given = {
        f"{name}_url": ["--" + name, context.params[f"{name}_url"]]
        for name in ("cache", "local")
        if context.get_parameter_source(f"{name}_url") is click.core.ParameterSource.COMMANDLINE
    }

    def completed(match: re.Match[str]) -> str:
        command, words = context.find_root().command, match[1].split()
        while isinstance(command, click.Group) and words and (inner := command.get_command(context, words[0])):
            command, words = inner, words[1:]
        taken = [each.name for each in command.params if f" {each.opts[0]}" not in match[0]]
        options = [word for name, words in given.items() if name in taken for word in words]
        return f"{match[0][:-1]} {shlex.join(options)}`" if options else match[0]

    return _COMMAND.sub(completed, text)


def chosen_by(context: click.Context, name: str) -> str:
    """What decided where the `cache` or the `local` tier is."""
    if name == "local" and context.params["no_local"]:
        return "--no-local"
    source = context.get_parameter_source(f"{name}_url")
    if source is click.core.ParameterSource.COMMANDLINE:
        return f"--{name}"
    if source is click.core.ParameterSource.ENVIRONMENT:
        return variable(name)
    return str(settings_path()) if setting(name) is not None else "default"


offline_option = click.option("--offline", is_flag=True, help="Open no network connection; use only what is on this machine.")

sign_option = click.option(
    "--sign-with",
    envvar="TTBERT_SIGN_WITH",
    metavar="KEY",
    help="Sign with this key of yours. Also TTBERT_SIGN_WITH.  [default: the key `default`, if there is one]",
)

_policy_option = click.option(
    "--policy",
    type=click.Choice(tuple(POLICIES)),
    help="Precision. "
    + "; ".join(f"{each.name}: {each.help}" for each in POLICIES.values())
    + f".  [default: {DEFAULT_POLICY}, or what MODEL says]",
)

_revision_option = click.option(
    "--revision", metavar="REV", help="Branch, tag or commit of a model on the hub.  [default: main]"
)


def wanted_option(command: F) -> F:
    """--revision and --policy, beside MODEL and --offline; the command gets all four as one `wanted`."""

    @functools.wraps(command)
    def collected(model: str, revision: str | None, policy: str | None, offline: bool, **others: Any) -> object:
        from ..convert.wanted import Wanted

        return command(wanted=Wanted.parse(model, revision, policy, offline), **others)

    return cast(F, _revision_option(_policy_option(collected)))


board_option = click.option(
    "--board",
    envvar="TTBERT_BOARD",
    type=click.Choice((AUTO, CPU, *BOARDS)),
    default=AUTO,
    show_default=True,
    help="What to run on; auto is the device that is here, else cpu. Also TTBERT_BOARD.",
)

precision_option = click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default=FLOAT32,
    show_default=True,
    help="Of what goes into matmuls on `cpu`: float32 is the reference, bfloat16 faster on processors that multiply it.",
)

batch_option = click.option(
    "--batch", type=click.IntRange(1, 512), default=8, show_default=True, help="Inputs that run at once, on each chip."
)

trace_option = click.option(
    "--trace/--no-trace",
    default=None,
    help="On a device, record the ops once and replay them with one command a batch.  [default: where TT-NN can]",
)

DEFAULT_MODEL = "phiyodr/bert-large-finetuned-squad2"

model_option = click.option(
    "--model", default=DEFAULT_MODEL, show_default=True, help="An id on the hub, a folder, or `bundled`."
)
