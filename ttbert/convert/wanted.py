"""What MODEL means on the command line: the bundled model, a folder, or an id on the hub."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from .. import paths
from ..cache.refs import Ref, parse_ref
from ..errors import InputError
from ..frozen import Frozen
from ..recipe.policy import DEFAULT_POLICY, POLICIES
from .hub import no_id, open_hub_source
from .source import FolderSource, Source

BUNDLED = "bundled"
"""The name of the model that comes with the package."""

BUNDLED_FOLDER = Path(__file__).parent.parent / "models" / "bundled"

_UNUSUAL = re.compile(r"[\x00-,/:-@\[-^`{-\x7f]+")
"""What a name in the cache has a `-` for: all of ASCII but letters, digits and . _ -"""

_MODEL = "give a folder, an id such as deepset/bert-base-cased-squad2, or `bundled`"


class Wanted(Frozen):
    """The model that somebody asks for: `bundled`, a folder, or a hub id; its precision, and its name in the cache."""

    model: str
    revision: str | None = None
    policy: str = DEFAULT_POLICY
    offline: bool = False
    name: str | None = None

    @classmethod
    def parse(
        cls, model: str, revision: str | None, policy: str | None, offline: bool = False, default: str = DEFAULT_POLICY
    ) -> Wanted:
        """What is asked for by MODEL, which may be a whole name, as `ttbert cache ls` shows it: NAME@REVISION:POLICY.

        The policy is the `default` where nothing says one. InputError where MODEL is neither a folder nor a name, or says
        something else than the revision or the policy given.
        """
        if is_folder(model):
            return cls(model, revision, policy or default, offline)
        name, named_revision, named_policy = _parse_name(model)
        for option, given, named in (("revision", revision, named_revision), ("policy", policy, named_policy)):
            if None not in (given, named) and given != named:
                raise InputError(f"{model} is not of {option} {given}", f"pass --{option} {named}, or leave it out of the name")
        return cls(name, named_revision or revision, named_policy or policy or default, offline)

    def __str__(self) -> str:
        return f"{self.model} ({self.policy})"

    def options(self) -> list[str]:
        """The options beside MODEL that mean the same to a command which may open a network connection."""
        return [*(["--revision", self.revision] if self.revision else []), "--policy", self.policy]

    @property
    def is_on_the_hub(self) -> bool:
        return self.model != BUNDLED and not is_folder(self.model)

    @property
    def ref(self) -> Ref:
        """Where `convert` files it: under its hub id and revision, or under `local/FOLDER`."""
        if self.name is not None:
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._/-]*", self.name):
                hint = "use letters of ASCII, digits and . _ - /, and begin with a letter, a digit or _"
                raise InputError(f"{self.name!r:.60} cannot be a name", hint)
            return Ref(self.name, None, self.policy)
        if self.is_on_the_hub:
            return Ref(self.model, self.revision or "main", self.policy)
        if self.model == BUNDLED:
            return Ref(BUNDLED, None, self.policy)
        folder = unicodedata.normalize("NFC", Path(self.model).expanduser().resolve().name)
        return Ref(f"local/{_UNUSUAL.sub('-', folder)}", None, self.policy)

    @property
    def refs(self) -> tuple[Ref, ...]:
        """Where it may lie: where `convert` files it; and an id without a revision may be a name of the cache's as well."""
        is_a_name = self.is_on_the_hub and self.name is None and self.revision is None
        return (self.ref, Ref(self.model, None, self.policy)) if is_a_name else (self.ref,)

    def open_source(self) -> Source:
        """Its files. InputError for a revision of what has none, and all that `open_source` raises."""
        if self.model != BUNDLED:
            return open_source(self.model, self.revision, self.offline)
        if self.revision:
            raise InputError("the bundled model has no revisions", "leave out --revision")
        return FolderSource(BUNDLED_FOLDER, BUNDLED)


def _parse_name(model: str) -> tuple[str, str | None, str | None]:
    """What an id or a whole name of the cache's says: name, revision and policy."""
    try:
        name, revision, policy = parse_ref(model)
    except InputError as error:
        raise no_id(model) from error
    if policy not in (None, *POLICIES):
        raise no_id(model)
    return name, revision, policy


def is_folder(model: str) -> bool:
    """Whether `model` means a local folder: something is there, or it looks like a path, so that it cannot be an id."""
    if model in (".", "..") or model.startswith(("./", "../", "/", "~")):
        return True
    return bool(model) and paths.is_there(Path(model))


def open_source(model: str, revision: str | None = None, offline: bool = False) -> Source:
    """Find a checkpoint: `model` is a folder if there is one or if it looks like a path, else a model's id on the hub.

    With `offline`, or with HF_HUB_OFFLINE=1 in the environment, no socket is opened. HF_ENDPOINT, HF_TOKEN and HF_HOME
    mean what they mean to huggingface_hub.
    """
    if is_folder(model):
        try:
            folder = Path(model).expanduser()
        except RuntimeError as error:
            raise InputError(f"there is no folder {model}: {error}", _MODEL) from error
        if not paths.is_folder(folder):
            if paths.is_file(folder):
                raise InputError(f"{model} is a file", "give the folder that it is in")
            raise InputError(f"the folder {model:.200} is not there, or may not be looked into", _MODEL)
        if revision is not None:
            raise InputError(f"{model} is a folder, which has no revisions", "leave out --revision")
        path = str(folder.resolve())
        if not path.isprintable():
            # The path becomes part of what the cache says of the model, which is text for people and terminals.
            raise InputError(f"the folder {path!r} has a name that cannot be printed", "rename it, or copy the model elsewhere")
        return FolderSource(folder)
    return open_hub_source(model, revision, offline)
