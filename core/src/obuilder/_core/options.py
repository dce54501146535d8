"""One section of the settings, checked and turned into its frozen Config dataclass."""

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from obuilder.errors import ConfigError
from obuilder.spec.suggest import nearest

__all__ = [
    "Value",
    "canonical",
    "describe",
    "fill",
    "option_names",
    "unknown_key",
    "unsupported_option",
]

T = TypeVar("T")

_SHOWN_CHARS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A setting as it was read, and where from.

    `base` is what a relative path is relative to. `text` is how it was written
    on a command line, where text needs no quotes. `packaged`: a default of ours.
    """

    value: object
    source: str
    packaged: bool = False
    base: Path = Path()
    text: str | None = None


class _WrongTypeError(Exception):
    def __init__(self, found: object, at: str = "") -> None:
        super().__init__(at)
        self.found = found
        self.at = at


class _ZeroByteError(Exception):
    """A text that no file, program or address can have."""


def canonical(key: str) -> str:
    """The one spelling of a key: `fast_sync` and `fast-sync` are the same."""
    return key.replace("_", "-")


def option_names(config: type) -> frozenset[str]:
    """The keys that fill `config`, in their canonical spelling."""
    return frozenset(canonical(field.name) for field in _fields(config))


def unsupported_option(config: type) -> str | None:
    """What keeps `config` from being filled: a type that TOML cannot give, a missing default.

    Raises NameError or TypeError for annotations that cannot be evaluated.
    """
    hints = typing.get_type_hints(config)
    missing = dataclasses.MISSING
    for field in _fields(config):
        if field.default is missing and field.default_factory is missing:
            return f"{field.name} has no default"
        if not _supported(hints[field.name]):
            return f"{field.name} has a type that settings cannot give: {field.type}"
    return None


def fill(config: type[T], section: str, values: Mapping[str, Value]) -> T:
    """An instance of `config` from those of `values` (by canonical key) that it knows.

    ConfigError: `config.type` for a value of a wrong type, `config.value` for one
    that the class itself refuses by ValueError.
    """
    hints = typing.get_type_hints(config)
    given: dict[str, object] = {}
    for field in _fields(config):
        value = values.get(canonical(field.name))
        if value is not None:
            given[field.name] = _checked(hints[field.name], value, section=section, name=field.name)
    try:
        return config(**given)
    except ValueError as error:  # the dataclass's own __post_init__
        found = [values[canonical(name)] for name in given]
        # The packaged defaults are right; they count if nobody else said anything.
        sources = sorted({value.source for value in found if not value.packaged})
        places = [", ".join(sources), section] if sources else [section]
        raise ConfigError(str(error), where=": ".join(places), code="config.value") from error


def unknown_key(section: str, key: str, value: Value, *, known: Iterable[str]) -> ConfigError:
    """The error for a key that nobody knows; it says which ones there are."""
    choices = sorted(known)
    meant = nearest(key, choices)
    has = f"[{section}] has: {', '.join(choices)}" if choices else f"[{section}] has no options"
    return ConfigError(
        f"unknown option {key!r}",
        where=f"{value.source}: {section}.{key}",
        hint=f"did you mean {meant!r}? {has}" if meant else has,
        code="config.unknown-key",
    )


def _fields(config: type) -> tuple[dataclasses.Field[Any], ...]:
    return tuple(field for field in dataclasses.fields(config) if field.init)


def _checked(hint: object, value: Value, *, section: str, name: str) -> object:
    try:
        return _convert(hint, value.value, value)
    except _ZeroByteError:
        raise ConfigError(
            "found a zero byte, which no path or name can hold",
            where=f"{value.source}: {section}.{canonical(name)}",
            code="config.value",
        ) from None
    except _WrongTypeError as wrong:
        key = f"{section}.{canonical(name)}{wrong.at}"
        raise ConfigError(
            f"expected {_expected(hint)}, found {describe(wrong.found)}",
            where=f"{value.source}: {key}",
            hint=_example(hint, f"{section}.{canonical(name)}", value),
            code="config.type",
        ) from None


def _convert(hint: Any, found: object, value: Value) -> object:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(hint, found, value)
    if origin is Literal:
        return _convert_literal(hint, found, value)
    if origin is tuple:
        if not isinstance(found, list):
            raise _WrongTypeError(found)
        return tuple(
            _convert_item(hint, item, value, index=index) for index, item in enumerate(found)
        )
    if hint in (str, Path):
        text = found if isinstance(found, str) else value.text
        if text is None:
            raise _WrongTypeError(found)
        if "\0" in text:
            raise _ZeroByteError
        return text if hint is str else _path(text, value)
    if hint is float and type(found) is int:
        return float(found)
    if type(found) is not hint:  # exactly: a bool is no int
        raise _WrongTypeError(found)
    return found


def _convert_union(hint: object, found: object, value: Value) -> object:
    choices = [choice for choice in typing.get_args(hint) if choice is not types.NoneType]
    # A command line's text that reads as a number is one, if a number will do.
    for text in (None, value.text):
        for choice in choices:
            try:
                return _convert(choice, found, dataclasses.replace(value, text=text))
            except _WrongTypeError:
                continue  # another member may take it
    raise _WrongTypeError(found)


def _convert_literal(hint: object, found: object, value: Value) -> object:
    for choice in typing.get_args(hint):
        if found == choice and type(found) is type(choice):
            return choice
        if value.text is not None and value.text == choice:
            return choice
    raise _WrongTypeError(found)


def _convert_item(hint: object, item: object, value: Value, *, index: int) -> object:
    # The text of a command line is that of the whole list.
    alone = dataclasses.replace(value, text=None)
    try:
        return _convert(typing.get_args(hint)[0], item, alone)
    except _WrongTypeError as wrong:
        raise _WrongTypeError(wrong.found, f"[{index}]{wrong.at}") from None


def _path(text: str, value: Value) -> Path:
    try:
        return value.base / Path(text).expanduser()
    except RuntimeError:  # no such user, or no home: then the text is the name
        return value.base / text


_NAMES: dict[object, str] = {
    str: "text",
    Path: "a path",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def _supported(hint: object) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return all(choice is types.NoneType or _supported(choice) for choice in args)
    if origin is Literal:
        return all(isinstance(choice, str | int | bool) for choice in args)
    if origin is tuple:
        return len(args) == 2 and args[1] is ... and _supported(args[0])  # noqa: PLR2004 - (X, ...)
    return hint in _NAMES


def _expected(hint: object) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(arg) for arg in args if arg is not types.NoneType)
    if origin is Literal:
        return "one of " + ", ".join(_toml(choice) for choice in args)
    if origin is tuple:
        return f"a list, each item {_expected(args[0])}"
    return _NAMES[hint]


def _example(hint: object, key: str, value: Value) -> str | None:
    if typing.get_origin(hint) is Literal:
        meant = nearest(str(value.value), map(str, typing.get_args(hint)))
        return f"did you mean {meant!r}?" if meant else None
    if typing.get_origin(hint) is tuple and value.text is not None:
        return f'write -o \'{key}=["…", "…"]\''
    return None


def describe(value: object) -> str:
    """What a TOML value is, for people: `the number 3`."""
    match value:
        case dict():
            return "a table"
        case list():
            return "a list"
        case str():
            kind = "the text"
        case bool():
            kind = ""
        case int() | float():
            kind = "the number"
        case _:
            kind = "the date or time"
    shown = _toml(value)
    shown = shown if len(shown) <= _SHOWN_CHARS else f"{shown[:_SHOWN_CHARS]}…"
    return f"{kind} {shown}".strip()


def _toml(found: object) -> str:
    match found:
        case bool():
            return str(found).lower()
        case str():
            return f'"{found}"'
    return str(found)
