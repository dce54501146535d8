"""Backends and hooks by entry point: found without importing, loaded one by one, checked."""

import importlib.metadata
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

from obuilder._core.drivers.checks import check_class
from obuilder._core.drivers.driver_names import distribution_of, driver_of, normal_name
from obuilder._core.drivers.kinds import FETCHER, KINDS, SANDBOX, STORE, Backend, Kind
from obuilder._core.drivers.plugin_errors import (
    conflict,
    import_failure,
    not_installed,
    not_that_distribution,
)
from obuilder._core.drivers.renames import RENAMES, Rename, adapted, used_renames
from obuilder._core.observe import Observer
from obuilder.errors import PluginError

__all__ = ["FETCHER", "KINDS", "SANDBOX", "STORE", "Backend", "Kind", "Plugins"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


_HOOKS = Kind(name="hooks", group="obuilder.hooks", interface=object)
_COMMANDS = Kind(name="commands", group="obuilder.commands", interface=object)


class Plugins:
    """What is installed, as of the first question; nothing is imported before it is asked for."""

    def __init__(self, *, renames: Sequence[Rename] = RENAMES) -> None:
        self._renames = renames
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

        `name` is the driver's, or `distribution/driver` where several claim that.
        PluginError: `plugin.not-installed`, `plugin.conflict`, `plugin.import`, and
        those of `check_class`.
        """
        driver, distribution = driver_of(name), distribution_of(name)
        claims = [backend for backend in self._of(kind) if backend.name == driver]
        if claims and distribution is not None:
            wanted = [each for each in claims if normal_name(each.distribution) == distribution]
            if not wanted:
                raise not_that_distribution(kind, name, claims, where=where)
            claims = wanted
        if not claims:
            raise not_installed(kind, driver, self.names(kind), where=where)
        if len(claims) > 1:
            raise conflict(kind, driver, claims)
        backend = claims[0]
        loaded = _load(backend)
        check_class(
            loaded, kind.interface, distribution=backend.distribution, renames=self._renames
        )
        scheme = getattr(loaded, "scheme", None)
        if scheme not in (None, driver):
            raise PluginError(
                f"{backend.distribution}: the scheme of fetcher {driver!r} is {scheme!r}; "
                "it must be the driver's own name",
                hint=f"report it to the author of {backend.distribution}",
                code="plugin.scheme",
            )
        found = cast(type[T], loaded)  # check_class has seen to it
        return adapted(found, list(used_renames(found, kind.interface, self._renames)))

    def hooks(self, disabled: Collection[str] = ()) -> Observer | None:
        """The installed observers, or None; one that cannot be loaded is logged and left out.

        `disabled` names entry points or distributions that are not even imported.
        """
        found = self._enabled(_HOOKS, disabled)
        if not found:
            return None
        from obuilder._core.drivers.observers import Observers  # noqa: PLC0415 - few have hooks

        return Observers(_hook_plugins(found))

    def commands(
        self, disabled: Collection[str] = ()
    ) -> Sequence[tuple[str, Callable[..., object]]]:
        """The installed commands and the distribution of each; `disabled` as for `hooks`.

        A plugin that cannot be loaded or does not say its commands is logged and left out.
        """
        found = self._enabled(_COMMANDS, disabled)
        if not found:
            return ()
        from obuilder._core.drivers.observers import commands_of  # noqa: PLC0415 - few have any

        return [
            (distribution, command)
            for distribution, plugin in _hook_plugins(found)
            for command in commands_of(distribution, plugin)
        ]

    def _enabled(self, kind: Kind[Any], disabled: Collection[str]) -> list[Backend]:
        off = {normal_name(name) for name in disabled}
        return [
            backend
            for backend in self._of(kind)
            if not {normal_name(backend.name), normal_name(backend.distribution)} & off
        ]

    def _of(self, kind: Kind[Any]) -> list[Backend]:
        if self._found is None:
            self._found = tuple(_scan())
        return [backend for backend in self._found if backend.kind is kind]


def _scan() -> Iterator[Backend]:
    kinds = {kind.group: kind for kind in (*KINDS, _HOOKS, _COMMANDS)}
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        try:
            points = [point for point in distribution.entry_points if point.group in kinds]
            if not points:
                continue
            metadata = distribution.metadata
            name = metadata["Name"] or "a distribution without a name"
            version = metadata["Version"] or "unknown"
        except (ValueError, TypeError, OSError) as error:  # damaged metadata of anything installed
            _log.debug("the metadata of a distribution cannot be read: %s", error)
            continue
        # One that is found twice on the path is what Python imports first.
        key = normal_name(name)
        if key in seen:
            continue
        seen.add(key)
        for point in points:
            yield Backend(
                kind=kinds[point.group],
                name=point.name,
                distribution=name,
                version=version,
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
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - raised by the plugin; stevedore lets some pass
        failures.append(error)
    if failures:
        raise import_failure(backend, failures[0]) from failures[0]
    return manager[backend.name].plugin


def _hook_plugins(found: Iterable[Backend]) -> Iterator[tuple[str, object]]:
    for backend in found:
        try:
            yield backend.distribution, _load(backend)
        except PluginError as error:  # an observer that is broken stops no build
            _log.warning("%s", error)
