"""What hook plugins may do: hear of builds and steps, and add commands.

A distribution registers a module or object with functions of the names of
`Hooks`, marked `@obuilder.hookimpl`, in the entry point group `obuilder.hooks`::

    from obuilder import hookimpl

    @hookimpl
    def step_finished(id, cached, seconds): ...

A function may leave out parameters. Hooks are synchronous and called in the
event loop: they must not block. One that raises is logged, and the build goes on.

What adds commands to `obuilder` is registered in the group `obuilder.commands`,
and implements `CommandHooks`. It is only imported for `--help` and when a command is
asked for that `obuilder` itself does not have.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pluggy

from obuilder.types import Id

__all__ = ["PROJECT", "CommandHooks", "Hooks", "hookimpl"]

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


class CommandHooks:
    """The hook of those that add commands."""

    @_hookspec
    def commands(self) -> Sequence[Callable[..., Any]]:
        """The functions that are commands: of the function's name, `_` written `-`.

        Each is what `typer.Typer.command` takes: parameters with annotations are
        arguments and options, the docstring is the help. It gets `obuilder`'s own options too
        (`--store`, `-o`, …): a parameter `settings` is the `obuilder.Settings` that they
        make with the configuration. What it raises of `obuilder.errors` is printed, and
        is its exit status, as for any other command.
        """
        return ()
