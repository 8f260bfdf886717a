"""Documents in the store: JSON written in one canonical form, read without trust.

Whatever is read may be damaged or hostile, so every field is taken by name and type, and all that is wrong ends in one
IntegrityError that says where.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import orjson

from ..errors import IncompatibleError, IntegrityError
from .digest import Digest

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

LARGEST = 64 << 20
"""Bytes that a document may have: a 1,000-layer model needs 5 MB."""

_T = TypeVar("_T")


def canonical(document: object) -> bytes:
    """The one way to write a document: sorted keys, no white space, ASCII; so equal documents have equal digests."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def _read(content: bytes) -> Any:
    """What a canonical document holds. ValueError for anything else, RecursionError where it is too deep.

    orjson takes a third of the time, and writes nearly every document as `canonical` does; what it writes otherwise, such
    as a text that is not ASCII, or not at all, such as what is deeper than it goes, is read the long way. Fractions in its
    spelling come through, too: no field takes one.
    """
    with contextlib.suppress(orjson.JSONDecodeError, orjson.JSONEncodeError):
        document = orjson.loads(content)
        if orjson.dumps(document, option=orjson.OPT_SORT_KEYS) == content and content.isascii():
            return document
    document = json.loads(content)
    if canonical(document) != content:
        raise ValueError("not in canonical form")
    return document


class Fields:
    """A JSON object whose fields are taken one by one; what is missing, left over or of a wrong type is refused."""

    def __init__(self, document: object, where: str) -> None:
        if not isinstance(document, dict):
            raise IntegrityError(f"{where}: an object was expected", "run `ttbert cache verify --repair`")
        self.left: dict[str, Any] = dict(document)
        self.where = where

    @classmethod
    def parse(cls, content: bytes, where: str) -> Fields:
        """The object in `content`, which must be the canonical form of itself."""
        if len(content) > LARGEST:
            raise IntegrityError(
                f"{where}: {len(content):,} bytes are too many for a document", "run `ttbert cache verify --repair`"
            )
        try:
            document = _read(content)
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"{where}: not a document of ttbert: {error}", "run `ttbert cache verify --repair`") from error
        return cls(document, where)

    def take(self, name: str, kind: type[_T]) -> _T:
        """The field `name`, which must be exactly of type `kind`."""
        if name not in self.left:
            raise self.wrong(f"no {name!r}")
        value = self.left.pop(name)
        if type(value) is not kind:
            raise self.wrong(f"{name!r} is {type(value).__name__}, not {kind.__name__}")
        if isinstance(value, str):
            self._check_text(name, value)
        return value

    def take_null(self, name: str) -> bool:
        """Take the field `name` if it is null; whether it was."""
        if name in self.left and self.left[name] is None:
            del self.left[name]
            return True
        return False

    def maybe(self, name: str, kind: type[_T]) -> _T | None:
        """The field `name`, which may also be null."""
        return None if self.take_null(name) else self.take(name, kind)

    def size(self, name: str) -> int:
        """A number of bytes or of elements."""
        value = self.take(name, int)
        if not 0 <= value < 1 << 50:
            raise self.wrong(f"{name!r} is {value}")
        return value

    def digest(self, name: str) -> Digest:
        """A digest of either kind, as of a checkpoint's file."""
        try:
            return Digest.parse(self.take(name, str))
        except ValueError as error:
            raise self.wrong(str(error)) from error

    def blake3(self, name: str) -> Digest:
        """A digest of something that ttbert wrote."""
        digest = self.digest(name)
        if digest.algorithm != "blake3":
            raise self.wrong(f"{name!r} is no BLAKE3 digest")
        return digest

    def objects(self, name: str) -> list[Fields]:
        """A list of objects."""
        return [Fields(each, f"{self.where}: {name}[{i}]") for i, each in enumerate(self.take(name, list))]

    def object(self, name: str) -> Fields:
        """The fields of an object in this one, to be taken and `done` with in turn."""
        return Fields(self.take(name, dict), f"{self.where}: {name}")

    def strings(self, name: str) -> Mapping[str, str]:
        """An object whose values are all strings."""
        value = self.take(name, dict)
        if not all(isinstance(each, str) for each in value.values()):
            raise self.wrong(f"{name!r} holds something else than strings")
        for text in (*value, *value.values()):
            self._check_text(name, text)
        return value

    def schema(self, expected: str) -> None:
        """The field `schema`, which says what kind of document this is; IncompatibleError for one of another version."""
        found = self.take("schema", str)
        if found == expected:
            return
        kind, _, version = found.partition("/")
        if kind == expected.partition("/")[0] and version.isdecimal():
            raise IncompatibleError(
                f"{self.where}: written by another version of ttbert: it is {found:.60}, and this one reads {expected}",
                "convert the model again; both results can stay in the cache",
            )
        raise self.wrong(f"schema {found!r:.60}; this version of ttbert reads {expected!r}")

    def done(self) -> None:
        """Refuse fields that nobody took."""
        if self.left:
            raise self.wrong(f"unknown field {min(self.left)!r:.60}")

    def _check_text(self, name: str, text: str) -> None:
        """Refuse what could not be printed, or would steer the terminal it is printed on."""
        if _CONTROL.search(text):
            raise self.wrong(f"{name!r} holds control characters: {text!r:.60}")

    def wrong(self, what: str) -> IntegrityError:
        """The error for what is wrong with this object, to be raised."""
        return IntegrityError(f"{self.where}: {what}", "run `ttbert cache verify --repair`, or use a newer ttbert")
