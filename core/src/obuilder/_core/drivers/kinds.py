"""The kinds of backend, their entry point groups, and an installed one known from metadata."""

import importlib.metadata
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from obuilder.interfaces import Fetcher, Sandbox, Store

__all__ = ["FETCHER", "KINDS", "SANDBOX", "STORE", "Backend", "Kind"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Generic[T]):
    """What a plugin can be, and the entry point group for it."""

    name: str
    group: str
    interface: type[T]


# `interface` is asked about subclasses, never called.
STORE: Kind[Store[Any]] = Kind(
    name="store",
    group="obuilder.stores",
    interface=Store,  # type: ignore[type-abstract]  # only asked for its methods
)
SANDBOX: Kind[Sandbox[Any]] = Kind(
    name="sandbox",
    group="obuilder.sandboxes",
    interface=Sandbox,  # type: ignore[type-abstract]  # only asked for its methods
)
FETCHER: Kind[Fetcher[Any]] = Kind(
    name="fetcher",
    group="obuilder.fetchers",
    interface=Fetcher,  # type: ignore[type-abstract]  # only asked for its methods
)
KINDS: tuple[Kind[Any], ...] = (STORE, SANDBOX, FETCHER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """An installed driver, known from metadata alone."""

    kind: Kind[Any]
    name: str
    distribution: str
    version: str
    entry_point: importlib.metadata.EntryPoint
