"""The user's own defaults: variables of the environment, and ~/.config/ttbert/config.toml, or below $XDG_CONFIG_HOME.

An option beats its variable, which beats this file, which beats the default.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import click
import platformdirs

from .errors import InputError

KINDS: dict[str, type] = {
    "cache": str,
    "local": str,
    "read_only": bool,
    "shared_group": str,
    "accept_weak_store": bool,
    "no_space_check": bool,
}
"""What may stand in the file. Each is an option of the same name, with hyphens."""


def default_cache() -> str:
    """The user's cache folder, as the platform has it: ~/.cache/ttbert on Linux, or below $XDG_CACHE_HOME."""
    return platformdirs.user_cache_dir("ttbert")


def settings_path() -> Path:
    return platformdirs.user_config_path("ttbert") / "config.toml"


def variable(name: str) -> str:
    """The variable of the environment that a setting has."""
    return f"TTBERT_{name.upper()}"


def setting(name: str) -> Any:
    """The value in the file, or None; InputError for a file that cannot be read as settings."""
    return _read(settings_path()).get(name)


def chosen(name: str) -> Any:
    """The value of the variable TTBERT_NAME, or else the one in the file, or None.

    InputError for a variable that is neither true nor false where it has to be, and errors as of `setting`.
    """
    found = os.environ.get(variable(name))
    if not found:
        return setting(name)
    if KINDS[name] is str:
        return found
    try:
        return click.BOOL.convert(found, None, None)
    except click.BadParameter as error:
        raise InputError(f"{variable(name)} is {found!r:.60}, which is neither true nor false", "set it to 1 or 0") from error


@cache
def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):  # as where HOME is /dev/null, which services have
        return {}
    except (OSError, ValueError) as error:
        hint = "it is a TOML file with defaults of ttbert's options, below XDG_CONFIG_HOME if that is set"
        raise InputError(f"{path} cannot be read: {error}", hint) from error
    return parse_settings(text, path)


def parse_settings(text: str, path: Path) -> dict[str, Any]:
    """The settings in the text of the file; InputError where they are not as they should be."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        found: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not TOML: {error}", 'write lines such as cache = "s3://bucket/ttbert"') from error
    for name, value in found.items():
        if name not in KINDS:
            raise InputError(f"{path}: {name!r:.60} is no setting", f"there are {', '.join(KINDS)}")
        if type(value) is not KINDS[name]:
            kind = "text in quotes" if KINDS[name] is str else "true or false"
            raise InputError(f"{path}: {name} is {value!r:.60}, not {kind}", "correct the file")
    return found
