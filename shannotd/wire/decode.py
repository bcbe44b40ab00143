"""From untrusted decoded MessagePack or JSON to frozen dataclasses: the one place that validates.

`decode(Model, value)` checks every field's type (int, str, bytes, bool, finite float, None,
unions of them, tuples, string-keyed maps, nested dataclasses, string enums) and raises
ValueError with the field's path. Unknown keys are ignored, so that a newer peer can
add fields; missing keys need a default.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import types
import typing
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Model = TypeVar("Model")
_Check = Callable[[object], object]
_PLAIN = frozenset({int, str, bytes, bool, type(None)})
_AS_THEY_ARE = _PLAIN | {float}


class _Mismatch(Exception):
    """A value of another type; `path` grows on the way out, so that a good value pays nothing."""

    def __init__(self, problem: str, path: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = path


def decode(model: type[Model], value: object, where: str = "") -> Model:
    """`value` (a map) as an instance of the dataclass `model`.

    :raises ValueError: naming the field that is missing or of another type.
    """
    check = _checker(typing.cast(Hashable, model))
    try:
        return typing.cast(Model, check(value))
    except _Mismatch as mismatch:
        raise ValueError(f"{where or model.__name__}{mismatch.path}: {mismatch.problem}") from None


def encode(value: object) -> object:
    """A dataclass instance (or a tuple, map, enum of such) as plain maps and lists."""
    kind = type(value)
    if kind in _AS_THEY_ARE:
        return value
    names = _field_names(typing.cast(Hashable, kind))
    if names is not None:
        return {name: encode(getattr(value, name)) for name in names}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    return value


@functools.cache
def _field_names(kind: object) -> tuple[str, ...] | None:
    """The fields of a dataclass; None for another type."""
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        return None
    return tuple(field.name for field in dataclasses.fields(kind))


@functools.cache
def _checker(kind: object) -> _Check:
    if kind is None:
        kind = type(None)
    if kind in _PLAIN:
        return _plain(frozenset({typing.cast(type, kind)}))
    if kind is float:
        return _float
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _enumeration(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _dataclass(kind)
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return _sequence(_checker(arguments[0]))
    if origin is Mapping or origin is dict:
        return _mapping(_checker(arguments[0]), _checker(arguments[1]))
    raise TypeError(f"decode cannot check {kind!r}")


def _plain(kinds: frozenset[type]) -> _Check:
    """Exactly these types: True is no int."""

    def check(value: object) -> object:
        if type(value) not in kinds:
            raise _Mismatch(f"expected {_names(kinds)}, got {type(value).__name__}")
        return value

    return check


def _names(kinds: frozenset[type]) -> str:
    named = sorted(kind.__name__ for kind in kinds if kind is not type(None))
    return " or ".join(named) or "nothing"


def _float(value: object) -> object:
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise _Mismatch("a number too large") from None
    if type(value) is not float:
        raise _Mismatch(f"expected float, got {type(value).__name__}")
    if not math.isfinite(value):
        raise _Mismatch("expected a finite number")
    return value


def _enumeration(kind: type[enum.Enum]) -> _Check:
    known = {member.value: member for member in kind}

    def check(value: object) -> object:
        if isinstance(value, kind):
            return value
        if not isinstance(value, str) or value not in known:
            raise _Mismatch(f"expected one of {', '.join(str(name) for name in known)}")
        return known[value]

    return check


def _union(members: tuple[object, ...]) -> _Check:
    plain = frozenset(typing.cast(type, member) for member in members if member in _PLAIN)
    others = [_checker(member) for member in members if member not in _PLAIN]
    if not others:
        return _plain(plain)

    def check(value: object) -> object:
        if type(value) in plain:
            return value
        for other in others[:-1]:
            try:
                return other(value)
            except _Mismatch:
                continue
        try:
            return others[-1](value)
        except _Mismatch as mismatch:
            names = _names(plain)
            # What lies deeper is the helpful complaint.
            if mismatch.path or names == "nothing":
                raise
            raise _Mismatch(f"{mismatch.problem} (or {names})") from None

    return check


def _sequence(item: _Check) -> _Check:
    def check(value: object) -> object:
        if not isinstance(value, list | tuple):
            raise _Mismatch(f"expected a list, got {type(value).__name__}")
        checked: list[object] = []
        try:
            for entry in value:
                checked.append(item(entry))
        except _Mismatch as mismatch:
            mismatch.path = f"[{len(checked)}]{mismatch.path}"
            raise
        return tuple(checked)

    return check


def _mapping(key: _Check, item: _Check) -> _Check:
    def check(value: object) -> object:
        if not isinstance(value, Mapping):
            raise _Mismatch(f"expected a map, got {type(value).__name__}")
        checked: dict[object, object] = {}
        for name, entry in value.items():
            try:
                checked[key(name)] = item(entry)
            except _Mismatch as mismatch:
                mismatch.path = f".{name}{mismatch.path}"
                raise
        return checked

    return check


def _dataclass(kind: type) -> _Check:
    hints = typing.get_type_hints(kind)
    fields = [(field.name, _checker(hints[field.name])) for field in dataclasses.fields(kind)]
    required = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]

    def check(value: object) -> object:
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            raise _Mismatch(f"expected a map, got {type(value).__name__}")
        arguments: dict[str, object] = {}
        name = ""
        try:
            for name, field_check in fields:
                if name in value:
                    arguments[name] = field_check(value[name])
        except _Mismatch as mismatch:
            mismatch.path = f".{name}{mismatch.path}"
            raise
        for name in required:
            if name not in arguments:
                raise _Mismatch("missing", f".{name}")
        return kind(**arguments)

    return check
