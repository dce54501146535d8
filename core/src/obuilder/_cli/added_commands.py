"""Commands that plugins add: looked for when ours are listed, or none of ours has the name."""

import inspect
import logging
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import typer
import typer.core
import typer.main

from obuilder._cli.global_options import GlobalOptions, with_global_options
from obuilder._cli.report import warnings_shown
from obuilder.errors import ConfigError

__all__ = ["CommandGroup"]

_CLAIMED = (
    "%s and %s both add a command %s, and neither is used; "
    "disable one of them with OBUILDER_DISABLE_PLUGINS or plugins.disable"
)
_OURS = "the command %s of %s is not used: obuilder has one of that name"

_log = logging.getLogger(__name__)


class CommandGroup(typer.core.TyperGroup):
    """The commands of `obuilder`; plugins are only imported where it has none of a name."""

    _added = False

    def list_commands(self, ctx: Any) -> list[str]:
        """For `--help`."""
        self._add(ctx)
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """For a command line."""
        if cmd_name not in self.commands:
            self._add(ctx)
        return super().get_command(ctx, cmd_name)

    def _add(self, ctx: Any) -> None:
        if self._added:
            return
        self._added = True
        from obuilder._core.drivers.plugins import Plugins  # noqa: PLC0415 - slow; few need it

        plugins: dict[str, str] = {}
        claimed = set()
        with warnings_shown():
            for distribution, function in Plugins().commands(_disabled(ctx)):
                name = typer.main.get_command_name(function.__name__)
                if name in plugins:
                    claimed.add(name)
                    _log.warning(_CLAIMED, plugins[name], distribution, name)
                elif name in self.commands:
                    _log.warning(_OURS, name, distribution)
                else:
                    plugins[name] = distribution
                    self._add_one(name, function, distribution)
        for name in claimed:
            self.commands.pop(name, None)

    def _add_one(self, name: str, function: Callable[..., Any], distribution: str) -> None:
        app = typer.Typer(add_completion=False)
        app.callback()(lambda: None)  # or one command alone would be no group
        try:
            app.command(name, rich_help_panel=None)(_with_settings(function))
            made = typer.main.get_group(app).commands[name]
        except Exception as error:  # noqa: BLE001 - typer refuses what it cannot make options of
            _log.warning("the command %s of %s is not used: %s", name, distribution, error)
            return
        self.commands[name] = made


def _disabled(ctx: Any) -> tuple[str, ...]:
    given = {field.name: ctx.params.get(field.name) for field in fields(GlobalOptions)}
    given["verbose"] = bool(given["verbose"])
    try:
        return GlobalOptions(**given).settings().plugins.disable
    except ConfigError:
        # A command that needs the settings says what is wrong with them; --help must work.
        return ()


def _with_settings(function: Callable[..., Any]) -> Callable[..., None]:
    """The function with the global options; it gets their settings if it has that parameter."""
    signature = inspect.signature(function, eval_str=True)
    wants_settings = "settings" in signature.parameters

    def command(*, options: GlobalOptions, **values: Any) -> None:
        if wants_settings:
            values["settings"] = options.settings()
        function(**values)

    own = [each for each in signature.parameters.values() if each.name != "settings"]
    keyword = inspect.Parameter.KEYWORD_ONLY
    options = inspect.Parameter("options", keyword, annotation=GlobalOptions)
    parameters = [*(each.replace(kind=keyword) for each in own), options]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # inspect reads it
    command.__name__ = function.__name__
    command.__doc__ = function.__doc__
    return with_global_options(command)
