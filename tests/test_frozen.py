"""What `dataclass(frozen=True)` makes, made otherwise."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar, get_type_hints

import pytest

from ttbert.frozen import Frozen

T = TypeVar("T")


class Point(Frozen):
    """One."""

    kind: ClassVar[str] = "point"

    x: int
    y: int = 2
    tags: Mapping[str, int] = dataclasses.field(default_factory=dict, hash=False)

    @cached_property
    def sum(self) -> int:
        return self.x + self.y


class Named(Point):
    """One that has more, and compares by less."""

    name: str = ""
    seen: int = dataclasses.field(default=0, compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class PlainPoint:
    """The same of the standard library."""

    x: int
    y: int = 2
    tags: Mapping[str, int] = dataclasses.field(default_factory=dict, hash=False)


@pytest.mark.parametrize(
    ("args", "options"),
    [((1,), {}), ((1, 3), {}), ((1,), {"y": 3}), ((), {"x": 1, "y": 3, "tags": {"a": 1}}), ((1, 3, {"a": 1}), {})],
)
def test_it_is_made_and_shown_as_a_dataclass_is(args: tuple[Any, ...], options: dict[str, Any]) -> None:
    record, plain = Point(*args, **options), PlainPoint(*args, **options)
    assert repr(record) == repr(plain).removeprefix("Plain")
    assert dataclasses.asdict(record) == dataclasses.asdict(plain)
    assert vars(record) == vars(plain) and hash(record) == hash(plain)


@pytest.mark.parametrize(
    ("args", "options"),
    [
        ((), {}),
        ((), {"y": 1}),
        ((1, 2, {}, 4), {}),
        ((1,), {"x": 1}),
        ((1,), {"z": 1}),
        ((), {"y": 1, "z": 1}),
        ((1, 2), {"y": 2}),
    ],
)
def test_what_it_does_not_take_is_an_error_as_of_a_dataclass(args: tuple[Any, ...], options: dict[str, Any]) -> None:
    for kind in (Point, PlainPoint):
        with pytest.raises(TypeError):
            kind(*args, **options)


def test_each_has_a_default_of_its_own() -> None:
    assert Point(1).tags is not Point(1).tags


def test_it_cannot_be_changed() -> None:
    point = Point(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del point.x
    assert point.x == 1 and point.kind == "point"


def test_equal_ones_are_of_one_class_and_have_equal_values() -> None:
    assert Point(1) == Point(1, 2) and hash(Point(1)) == hash(Point(1, tags={"a": 1})) and Point(1) != Point(2)
    assert Point(1) != Named(1) and Point(1) != (1, 2, {}) and len({Point(1), Point(1, 2), Point(3)}) == 2
    assert Named(1, name="a", seen=1) == Named(1, name="a") != Named(1, name="b")


class Nothing(Frozen):
    """One without fields."""


class Pair(Frozen, Generic[T]):
    """One of any type."""

    first: T
    second: T


def test_it_may_be_empty_or_generic() -> None:
    assert Nothing() == Nothing() and hash(Nothing()) == hash(Nothing()) and repr(Nothing()) == "Nothing()"
    assert Pair[int](1, 2) == Pair(1, 2) and get_type_hints(Pair).items() >= {"first": T, "second": T}.items()


def test_it_is_replaced_copied_pickled_and_matched() -> None:
    named = Named(1, name="a", seen=5)
    assert named.sum == 3  # which stays with it, and is no field
    assert dataclasses.replace(named, x=2) == Named(2, name="a") and dataclasses.replace(named, x=2).sum == 4
    for twin in (copy.copy(named), copy.deepcopy(named), pickle.loads(pickle.dumps(named))):
        assert twin == named and twin.seen == 5
    assert repr(named) == "Named(x=1, y=2, tags={}, name='a')"
    match Point(1, 3):
        case Point(x, y):
            assert (x, y) == (1, 3)
