"""What observers may hear: builds and steps, as they start and finish.

A distribution registers a module or object with functions of these names,
marked `@obuilder.hookimpl`, in the entry point group `obuilder.hooks`::

    from obuilder import hookimpl

    @hookimpl
    def step_finished(id, cached, seconds): ...

A function may leave out parameters. Hooks are synchronous and called in the
event loop: they must not block. One that raises is logged, and the build goes on.
"""

import pluggy

from obuilder.types import Id

__all__ = ["PROJECT", "Hooks", "hookimpl"]

PROJECT = "obuilder"

hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function of a plugin as one of these hooks."""

_hookspec = pluggy.HookspecMarker(PROJECT)


class Hooks:
    """The hooks; this class itself hears nothing.

    `kind` is `from`, `run` or `copy`. `seconds` is the wall time since the
    matching start. `error` is what ended the build or step, cancellation too, or None.
    """

    @_hookspec
    def build_started(self) -> None:
        """A build begins."""

    @_hookspec
    def build_finished(self, seconds: float, error: BaseException | None) -> None:
        """A build is over."""

    @_hookspec
    def step_started(self, id: Id, kind: str) -> None:
        """A build comes to the step `id`: it is looked up, waited for, or made."""

    @_hookspec
    def step_finished(  # noqa: PLR0917 - pluggy gives them by name
        self, id: Id, kind: str, cached: bool, seconds: float, error: BaseException | None
    ) -> None:
        """A build has the step's result, or the step's error."""
