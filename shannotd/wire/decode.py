"""From untrusted decoded MessagePack or JSON to frozen dataclasses: the one place that validates.

`decode(Model, value)` checks every field's type (int, str, bytes, bool, float, None,
unions of them, tuples, string-keyed maps, nested dataclasses, string enums) and raises
ValueError with the field's path. Unknown keys are ignored, so that a newer peer can
add fields; missing keys need a default.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Model = TypeVar("Model")
_Check = Callable[[object, str], object]


def decode(model: type[Model], value: object, where: str = "") -> Model:
    """`value` (a map) as an instance of the dataclass `model`.

    :raises ValueError: naming the field that is missing or of another type.
    """
    check = _checker(typing.cast(Hashable, model))
    return typing.cast(Model, check(value, where or model.__name__))


def encode(value: object) -> object:
    """A dataclass instance (or a tuple, map, enum of such) as plain maps and lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    return value


@functools.cache
def _checker(kind: object) -> _Check:
    if kind in (int, str, bytes, bool, float):
        return _scalar(typing.cast(type, kind))
    if kind is type(None):
        return _none
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _enumeration(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _dataclass(kind)
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _union(tuple(_checker(argument) for argument in arguments))
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return _sequence(_checker(arguments[0]))
    if origin is Mapping or origin is dict:
        return _mapping(_checker(arguments[0]), _checker(arguments[1]))
    raise TypeError(f"decode cannot check {kind!r}")


def _scalar(kind: type) -> _Check:
    def check(value: object, where: str) -> object:
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is not kind:
            raise ValueError(f"{where}: expected {kind.__name__}, got {type(value).__name__}")
        return value

    return check


def _none(value: object, where: str) -> object:
    if value is not None:
        raise ValueError(f"{where}: expected nothing, got {type(value).__name__}")
    return None


def _enumeration(kind: type[enum.Enum]) -> _Check:
    def check(value: object, where: str) -> object:
        try:
            return kind(value)
        except ValueError:
            known = ", ".join(str(member.value) for member in kind)
            raise ValueError(f"{where}: expected one of {known}") from None

    return check


def _union(checks: tuple[_Check, ...]) -> _Check:
    def check(value: object, where: str) -> object:
        problem: ValueError | None = None
        for candidate in checks:
            try:
                return candidate(value, where)
            except ValueError as error:
                # The deepest complaint is the helpful one: "expected nothing" never is.
                if problem is None or len(str(error)) > len(str(problem)):
                    problem = error
        raise problem or ValueError(where)

    return check


def _sequence(item: _Check) -> _Check:
    def check(value: object, where: str) -> object:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where}: expected a list, got {type(value).__name__}")
        return tuple(item(entry, f"{where}[{index}]") for index, entry in enumerate(value))

    return check


def _mapping(key: _Check, item: _Check) -> _Check:
    def check(value: object, where: str) -> object:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: expected a map, got {type(value).__name__}")
        return {key(name, where): item(entry, f"{where}.{name}") for name, entry in value.items()}

    return check


def _dataclass(kind: type) -> _Check:
    hints = typing.get_type_hints(kind)
    fields = [
        (
            field.name,
            _checker(hints[field.name]),
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(kind)
    ]

    def check(value: object, where: str) -> object:
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: expected a map, got {type(value).__name__}")
        arguments: dict[str, object] = {}
        for name, field_check, required in fields:
            if name in value:
                arguments[name] = field_check(value[name], f"{where}.{name}")
            elif required:
                raise ValueError(f"{where}.{name}: missing")
        return kind(**arguments)

    return check
