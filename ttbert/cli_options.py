"""Options that several commands share, and where the cache is by default."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click
import platformdirs

from .boards import AUTO, BOARDS, CPU
from .recipe.policy import POLICIES

F = TypeVar("F", bound=Callable[..., object])


def default_cache() -> str:
    """The user's cache folder, as the platform has it: ~/.cache/ttbert on Linux, or below $XDG_CACHE_HOME."""
    return platformdirs.user_cache_dir("ttbert")


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")

cache_option = click.option(
    "--cache",
    "cache_url",
    envvar="TTBERT_CACHE",
    default=default_cache,
    metavar="URL",
    show_default="~/.cache/ttbert",
    help="The cache: a folder or an fsspec URL. Also TTBERT_CACHE.",
)

offline_option = click.option("--offline", is_flag=True, help="Open no network connection; use only what is on this machine.")

sign_option = click.option(
    "--sign-with",
    envvar="TTBERT_SIGN_WITH",
    metavar="KEY",
    help="Sign with this key of yours. Also TTBERT_SIGN_WITH.  [default: the key `default`, if there is one]",
)

policy_option = click.option(
    "--policy",
    type=click.Choice(tuple(POLICIES)),
    default="bfp8",
    show_default=True,
    help="Precision. " + "; ".join(f"{each.name}: {each.help}" for each in POLICIES.values()) + ".",
)

revision_option = click.option(
    "--revision", metavar="REV", help="Branch, tag or commit of a model on the hub.  [default: main]"
)

board_option = click.option(
    "--board",
    type=click.Choice((AUTO, CPU, *BOARDS)),
    default=AUTO,
    show_default=True,
    help="What to run on; auto is the device that is here, else cpu.",
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
