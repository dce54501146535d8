"""The options that every command takes, before its name and after it; the one after wins."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from obuilder._cli.report import reporting
from obuilder.errors import ConfigError

if TYPE_CHECKING:
    from obuilder._core.config import Settings

__all__ = ["GlobalOptions", "with_global_options"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalOptions:
    """What was given of them."""

    store: Annotated[
        str | None,
        typer.Option("--store", metavar="DRIVER:LOCATION", help="Where results are kept."),
    ] = None
    sandbox: Annotated[
        str | None, typer.Option("--sandbox", metavar="DRIVER", help="What runs commands.")
    ] = None
    fetcher: Annotated[
        str | None, typer.Option("--fetcher", metavar="DRIVER", help="What brings base images.")
    ] = None
    platform: Annotated[
        str | None,
        typer.Option("--platform", metavar="OS/ARCH", help="What images are wanted for."),
    ] = None
    option: Annotated[
        list[str] | None,
        typer.Option(
            "-o",
            "--option",
            metavar="SECTION.OPTION=VALUE",
            help="Set an option of a driver; may be given many times.",
        ),
    ] = None
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="FILE", help="Read this configuration file too."),
    ] = None
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more; show tracebacks.")] = (
        False
    )

    def then(self, later: "GlobalOptions") -> "GlobalOptions":
        """Both together, where `later` wins; -o is added up."""
        return GlobalOptions(
            option=[*(self.option or ()), *(later.option or ())],
            verbose=self.verbose or later.verbose,
            store=later.store if later.store is not None else self.store,
            sandbox=later.sandbox if later.sandbox is not None else self.sandbox,
            fetcher=later.fetcher if later.fetcher is not None else self.fetcher,
            platform=later.platform if later.platform is not None else self.platform,
            config=later.config if later.config is not None else self.config,
        )

    def with_store(self, store: str, *, option: str) -> "Settings":
        """The settings with another store, which `option` names. ConfigError."""
        try:
            settings = replace(self, store=store).settings()
        except ConfigError as error:
            error.where = (error.where or "--store").replace("--store", option)
            raise
        value = replace(settings.choices["store"], source=option)
        return replace(settings, choices={**settings.choices, "store": value})

    def settings(self) -> "Settings":
        """All settings, these on top. ConfigError as `Settings.load`."""
        from obuilder._core.config import Settings  # noqa: PLC0415 - not for --help

        choices = {"store": self.store, "sandbox": self.sandbox}
        choices |= {"fetcher": self.fetcher, "platform": self.platform}
        if self.config == "":
            raise ConfigError("found an empty path", where="--config", code="cli.empty-path")
        return Settings.load(
            config_file=None if self.config is None else Path(self.config),
            choices={key: value for key, value in choices.items() if value is not None},
            options=self.option or (),
        )


def with_global_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the global options; it gets them, merged, as its parameter `options`.

    What it raises is reported and becomes its exit status.
    """
    names = [field.name for field in fields(GlobalOptions)]

    def wrapper(ctx: typer.Context, **values: Any) -> None:
        given = GlobalOptions(**{name: values.pop(name) for name in names})
        before = ctx.obj if isinstance(ctx.obj, GlobalOptions) else GlobalOptions()
        ctx.obj = before.then(given)
        with reporting(verbose=ctx.obj.verbose):
            command(options=ctx.obj, **values)

    own = [
        parameter
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.name != "options"
    ]
    keyword = inspect.Parameter.KEYWORD_ONLY
    hints = get_type_hints(GlobalOptions, include_extras=True)
    added = [
        inspect.Parameter(field.name, keyword, default=field.default, annotation=hints[field.name])
        for field in fields(GlobalOptions)
    ]
    context = inspect.Parameter("ctx", keyword, annotation=typer.Context)
    parameters = [context, *(own_.replace(kind=keyword) for own_ in own), *added]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # inspect reads it
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    wrapper.__name__ = command.__name__
    wrapper.__doc__ = command.__doc__
    return wrapper
