"""Frozen dataclasses that take no time to define."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**options: Any) -> Any:
        return lambda cls: cls


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Frozen:
    """A subclass is what `dataclass(frozen=True)` would make of it, to `dataclasses.replace` and the like as well.

    That compiles six functions anew for each class, which takes a millisecond, and a command has forty of them. Here all share
    the same.
    """

    __names: ClassVar[tuple[str, ...]]
    __all: ClassVar[frozenset[str]]
    __defaults: ClassVar[dict[str, Any]]
    __factories: ClassVar[dict[str, Callable[[], Any]]]
    __compared: ClassVar[tuple[str, ...]]
    __hashed: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        found = fields(dataclass(init=False, repr=False, eq=False)(cls))  # type: ignore[arg-type]
        cls.__names = tuple(each.name for each in found)
        cls.__all = frozenset(cls.__names)
        cls.__defaults = {each.name: each.default for each in found if each.default is not MISSING}
        cls.__factories = {each.name: each.default_factory for each in found if each.default_factory is not MISSING}
        cls.__compared = tuple(each.name for each in found if each.compare)
        cls.__hashed = tuple(each.name for each in found if (each.compare if each.hash is None else each.hash))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = dict(zip(self.__names, args), **kwargs)  # noqa: B905 - those that are too many are seen below
        own = self.__dict__
        if len(given) < len(self.__names):
            own.update(self.__defaults)
            for name in self.__factories.keys() - given.keys():
                own[name] = self.__factories[name]()
        own.update(given)
        if len(given) != len(args) + len(kwargs) or own.keys() != self.__all:
            raise TypeError(f"{type(self).__name__} takes {', '.join(self.__names)}; given are {args} and {kwargs}")

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        own, others = self.__dict__, other.__dict__
        return all(own[name] is others[name] or own[name] == others[name] for name in self.__compared)

    def __hash__(self) -> int:
        return hash(tuple(map(self.__dict__.__getitem__, self.__hashed)))

    def __repr__(self) -> str:
        shown = (f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr)  # type: ignore[arg-type]
        return f"{type(self).__qualname__}({', '.join(shown)})"
