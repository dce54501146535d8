"""Backends and hooks by entry point: found without importing, loaded one by one, checked."""

import importlib.metadata
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from obuilder._core.checks import check_class
from obuilder._core.observe import Observer
from obuilder.errors import PluginError
from obuilder.interfaces import Fetcher, Sandbox, Store
from obuilder.spec.suggest import nearest

__all__ = ["FETCHER", "KINDS", "SANDBOX", "STORE", "Backend", "Kind", "Plugins"]

T = TypeVar("T")

_log = logging.getLogger(__name__)
_PACKAGE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


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
_HOOKS = Kind(name="hooks", group="obuilder.hooks", interface=object)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """An installed driver, known from metadata alone."""

    kind: Kind[Any]
    name: str
    distribution: str
    version: str
    entry_point: importlib.metadata.EntryPoint


class Plugins:
    """What is installed, as of the first question; nothing is imported before it is asked for."""

    def __init__(self) -> None:
        self._found: tuple[Backend, ...] | None = None

    def backends(self) -> tuple[Backend, ...]:
        """All drivers by kind and name, also those that two distributions claim."""
        return tuple(
            backend
            for kind in KINDS
            for backend in sorted(
                self._of(kind), key=lambda backend: (backend.name, backend.distribution)
            )
        )

    def names(self, kind: Kind[Any]) -> tuple[str, ...]:
        """The installed drivers of one kind."""
        return tuple(sorted({backend.name for backend in self._of(kind)}))

    def load(self, kind: Kind[T], name: str, *, where: str | None = None) -> type[T]:
        """Import a driver and check its class; `where` is what asked for it.

        PluginError: `plugin.not-installed`, `plugin.conflict`, `plugin.import`, and
        those of `check_class`.
        """
        claims = [backend for backend in self._of(kind) if backend.name == name]
        if not claims:
            raise self._not_installed(kind, name, where)
        if len(claims) > 1:
            raise _conflict(kind, name, claims)
        backend = claims[0]
        loaded = _load(backend)
        check_class(loaded, kind.interface, distribution=backend.distribution)
        scheme = getattr(loaded, "scheme", None)
        if scheme not in (None, name):
            raise PluginError(
                f"{backend.distribution}: the scheme of fetcher {name!r} is {scheme!r}; "
                "it must be the driver's own name",
                hint=f"report it to the author of {backend.distribution}",
                code="plugin.scheme",
            )
        return cast(type[T], loaded)  # check_class has seen to it

    def hooks(self, disabled: Collection[str] = ()) -> Observer | None:
        """The installed observers, or None; one that cannot be loaded is logged and left out.

        `disabled` names entry points or distributions that are not even imported.
        """
        off = {_normal(name) for name in disabled}
        found = [
            backend
            for backend in self._of(_HOOKS)
            if not {_normal(backend.name), _normal(backend.distribution)} & off
        ]
        if not found:
            return None
        from obuilder._core.observers import Observers  # noqa: PLC0415 - few have hooks

        return Observers(_hook_plugins(found))

    def _of(self, kind: Kind[Any]) -> list[Backend]:
        if self._found is None:
            self._found = tuple(_scan())
        return [backend for backend in self._found if backend.kind is kind]

    def _not_installed(self, kind: Kind[Any], name: str, where: str | None) -> PluginError:
        names = self.names(kind)
        meant = nearest(name, names)
        hints = [f"did you mean {meant!r}?"] if meant else []
        hints.append(
            f"installed: {', '.join(names)}." if names else f"no {kind.name} is installed."
        )
        if _PACKAGE_NAME.fullmatch(name):
            hints.append(f"To install it: pip install obuilder-{kind.name}-{name}")
        return PluginError(
            f"{kind.name} {name!r} is not installed",
            where=where,
            hint=" ".join(hints),
            code="plugin.not-installed",
        )


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _scan() -> Iterator[Backend]:
    kinds = {kind.group: kind for kind in (*KINDS, _HOOKS)}
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        try:
            points = [point for point in distribution.entry_points if point.group in kinds]
        except (ValueError, TypeError, OSError) as error:  # damaged metadata of anything installed
            _log.debug("entry points that cannot be read: %s", error)
            continue
        if not points:
            continue
        metadata = distribution.metadata
        name = metadata["Name"] or "a distribution without a name"
        # One that is found twice on the path is what Python imports first.
        key = _normal(name)
        if key in seen:
            continue
        seen.add(key)
        for point in points:
            yield Backend(
                kind=kinds[point.group],
                name=point.name,
                distribution=name,
                version=metadata["Version"] or "unknown",
                entry_point=point,
            )


def _load(backend: Backend) -> object:
    # 40 ms, which --help and --version do not pay.
    from stevedore.extension import error_on_conflict  # noqa: PLC0415 - slow
    from stevedore.named import NamedExtensionManager  # noqa: PLC0415 - slow

    class Manager(NamedExtensionManager[object]):
        def list_entry_points(self) -> list[importlib.metadata.EntryPoint]:
            # stevedore's own list comes from a file in ~/.cache whose key holds times to
            # 128 s (float32), so that a plugin upgraded a minute ago is the old one.
            return [backend.entry_point]

    failures: list[BaseException] = []
    try:
        manager = Manager(
            backend.kind.group,
            [backend.name],
            on_load_failure_callback=lambda _manager, _point, error: failures.append(error),
            on_missing_entrypoints_callback=None,
            conflict_resolver=error_on_conflict,
        )
    except (AssertionError, SystemExit) as error:  # raised by the plugin; stevedore lets them pass
        failures.append(error)
    if failures:
        raise _import_failure(backend, failures[0]) from failures[0]
    return manager[backend.name].plugin


def _hook_plugins(found: Iterable[Backend]) -> Iterator[tuple[str, object]]:
    for backend in found:
        try:
            yield backend.distribution, _load(backend)
        except PluginError as error:  # an observer that is broken stops no build
            _log.warning("%s", error)


def _import_failure(backend: Backend, error: BaseException) -> PluginError:
    name = backend.distribution
    hint = f"pip install --force-reinstall {name}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        what = f"it needs the module {error.name!r}, which is not installed"
    elif isinstance(error, AttributeError) and error.obj is not None:
        what = f"its entry point {backend.entry_point.value!r} names nothing that is there"
    else:
        what = f"{type(error).__name__}: {error}"
        hint = f"report it to the author of {name}, or remove it: pip uninstall {name}"
    return PluginError(
        f"{name}: {backend.kind.name} {backend.name!r} cannot be imported: {what}",
        hint=hint,
        code="plugin.import",
    )


def _conflict(kind: Kind[Any], name: str, claims: Sequence[Backend]) -> PluginError:
    names = sorted(claim.distribution for claim in claims)
    return PluginError(
        f"{kind.name} {name!r} is claimed by {' and by '.join(names)}",
        hint=f"keep one of them: pip uninstall {names[-1]}",
        code="plugin.conflict",
    )
