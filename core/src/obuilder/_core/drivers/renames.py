"""Parameters of the interfaces that changed their name: backends written before go on working."""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["RENAMES", "Rename", "adapted", "used_renames"]

T = TypeVar("T", bound=type)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rename:
    """`method` of `interface` calls its parameter `new` what was `old` before interface `api`.

    The entry comes one release before that interface: until then both names are
    right, and the old one is warned of. A class that was written against an
    older interface may use the old name for ever.
    """

    interface: type
    method: str
    old: str
    new: str
    api: int


RENAMES: tuple[Rename, ...] = ()
"""Entries are added and never removed."""


def used_renames(
    backend: type, interface: type, renames: Sequence[Rename] = RENAMES
) -> Iterator[Rename]:
    """Those whose old name a class uses, and may."""
    api = vars(backend).get("API")
    for rename in renames:
        if rename.interface is not interface or type(api) is not int or api >= rename.api:
            continue
        names = _parameters(inspect.getattr_static(backend, rename.method))
        if rename.old in names and rename.new not in names:
            yield rename


def adapted(backend: T, renames: Sequence[Rename]) -> T:
    """A class whose methods take the new names of `renames`, which `backend` calls by the old."""
    if not renames:
        return backend
    methods: dict[str, Any] = {}
    for rename in renames:
        method = methods.get(rename.method, inspect.getattr_static(backend, rename.method))
        methods[rename.method] = _taking_new_name(method, rename)
    described = {"__module__": backend.__module__, "__doc__": backend.__doc__}
    # A class of its own: the backend's may be used by others.
    return type(backend)(backend.__name__, (backend,), {**described, **methods})


def _parameters(method: object) -> frozenset[str]:
    function = method.__func__ if isinstance(method, classmethod) else method
    return frozenset(inspect.signature(function).parameters) if callable(function) else frozenset()


def _taking_new_name(method: Any, rename: Rename) -> Any:
    if isinstance(method, classmethod):
        return classmethod(_taking_new_name(method.__func__, rename))
    function: Callable[..., Any] = method

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        if rename.new in named:
            named[rename.old] = named.pop(rename.new)
        return function(*args, **named)

    return call
