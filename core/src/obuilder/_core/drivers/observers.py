"""Hook plugins: loaded one by one, told one by one, so that none can harm a build or another."""

import inspect
import logging
from collections.abc import Callable, Iterable, Sequence

import pluggy

from obuilder.hookspecs import PROJECT, CommandHooks, Hooks
from obuilder.types import Id

__all__ = ["Observers", "commands_of"]

_log = logging.getLogger(__name__)


class Observers:
    """All hook plugins as one; what they raise is logged as a warning."""

    def __init__(self, plugins: Iterable[tuple[str, object]]) -> None:
        """`plugins` are pairs of a distribution's name and its plugin."""
        # A manager each: pluggy stops at the first one that raises.
        self._managers: list[tuple[str, pluggy.PluginManager]] = []
        for distribution, plugin in plugins:
            manager = _manager(distribution, plugin, Hooks)
            if manager is not None:
                self._managers.append((distribution, manager))

    def build_started(self) -> None:
        """A build begins."""
        self._tell("build_started")

    def build_finished(self, *, seconds: float, error: BaseException | None) -> None:
        """The block of a build has been left."""
        self._tell("build_finished", seconds=seconds, error=error)

    def step_started(self, *, id: Id, kind: str) -> None:
        """A build comes to a step."""
        self._tell("step_started", id=id, kind=kind)

    def step_finished(
        self,
        *,
        id: Id,
        kind: str,
        cached: bool,
        seconds: float,
        error: BaseException | None,
    ) -> None:
        """A build has left a step."""
        self._tell("step_finished", id=id, kind=kind, cached=cached, seconds=seconds, error=error)

    def _tell(self, hook: str, **values: object) -> None:
        for distribution, manager in self._managers:
            try:
                getattr(manager.hook, hook)(**values)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - foreign code; an observer fails no build
                _log.warning(
                    "the hook %s of %s failed: %s: %s",
                    hook,
                    distribution,
                    type(error).__name__,
                    error,
                    exc_info=_log.isEnabledFor(logging.DEBUG),
                )


def commands_of(distribution: str, plugin: object) -> Sequence[Callable[..., object]]:
    """The commands that one plugin adds; none, with a warning, if it cannot say them."""
    manager = _manager(distribution, plugin, CommandHooks)
    if manager is None:
        return ()
    try:
        return [command for said in manager.hook.commands() for command in _functions(said)]
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - foreign code; it stops no other command
        _log.warning(
            "the commands of %s are not there: %s: %s",
            distribution,
            type(error).__name__,
            error,
            exc_info=_log.isEnabledFor(logging.DEBUG),
        )
        return ()


def _functions(said: object) -> Iterable[Callable[..., object]]:
    if isinstance(said, Iterable):
        found = list(said)
        if all(inspect.isfunction(command) for command in found):
            return found
    raise TypeError(f"commands() must return functions, it returned {said!r}")


def _manager(
    distribution: str, plugin: object, specifications: type
) -> pluggy.PluginManager | None:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(specifications)
    try:
        manager.register(plugin, distribution)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        _log.warning("the hooks of %s are not used: %s", distribution, error)
        return None
    for caller in manager.get_hookcallers(plugin) or ():
        for implementation in caller.get_hookimpls():
            if inspect.iscoroutinefunction(implementation.function):
                _log.warning(
                    "the hooks of %s are not used: %s is an async def, and hooks are not awaited",
                    distribution,
                    caller.name,
                )
                return None
    return manager
