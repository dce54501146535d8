"""Commands that need an open builder: what each does with it, under supervision."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import typer

from obuilder import BuildContext, Builder, BuildResult, Settings, open_builder
from obuilder._cli.inputs import SpecSource
from obuilder._cli.output import Output
from obuilder._cli.plain import PlainRenderer
from obuilder._cli.report import TERMINATED, status_of, step_failed
from obuilder._cli.supervise import supervised
from obuilder.errors import BackendError, BuildError, FetchError, PluginError, StagesFailed
from obuilder.types import Id

__all__ = ["run_build", "run_healthcheck", "run_removal"]

_HEALTHCHECK_HINT = (
    "the health check runs in the base {base};"
    " name one that can be had here: -o healthcheck.base=BASE"
)

Removal = Callable[[Builder, Callable[[str], None]], Awaitable[int]]


def run_build(
    settings: Settings,
    spec: SpecSource,
    *,
    source: Path,
    secrets: Mapping[str, bytes],
    drains: bool = False,
) -> Id:
    """Build and print the events; `typer.Exit` with the status of one that failed.

    `drains`: the first SIGTERM lets what runs end.
    """
    results: list[BuildResult] = []
    draining = _Draining()

    async def work(output: Output) -> int:
        renderer = PlainRenderer(output, keep_going=settings.build.keep_going)
        context = BuildContext(
            src_dir=source,
            spec_dir=spec.directory,
            secrets=secrets,
            on_event=renderer,
            platform=settings.platform,
            keep_going=settings.build.keep_going,
        )
        try:
            async with open_builder(settings) as builder:
                draining.opened(builder)
                results.append(await builder.build(spec.stage, context))
        except (BuildError, BackendError) as error:
            rest = renderer.finish()
            if rest is not None:
                await rest
            await output.drained()  # the step's heading stands just before
            for each in error.errors if isinstance(error, StagesFailed) else (error,):
                step_failed(each)
            return TERMINATED if error.code == "build.drained" else status_of(error)
        finally:
            renderer.close()
        return 0

    _exit_unless_ok(supervised(work, drain=draining.begin if drains else None))
    return results[0].id


class _Draining:
    """Drains the builder, also if it is not open yet."""

    def __init__(self) -> None:
        self._builder: Builder | None = None
        self._has_begun = False

    def opened(self, builder: Builder) -> None:
        self._builder = builder
        if self._has_begun:
            builder.drain()

    def begin(self) -> None:
        self._has_begun = True
        if self._builder is not None:
            self._builder.drain()


def run_healthcheck(settings: Settings) -> None:
    """As `Builder.healthcheck`, with the base and limit of the settings."""

    async def work(output: Output) -> int:
        async with open_builder(settings) as builder:
            health = settings.healthcheck
            try:
                await builder.healthcheck(base=health.base, limit_s=health.timeout_s)
            except (FetchError, PluginError) as error:
                error.hint = _HEALTHCHECK_HINT.format(base=health.base)
                raise
        output.write(b"Healthcheck passed\n")
        return 0

    _exit_unless_ok(supervised(work))


def run_removal(settings: Settings, remove: Removal) -> None:
    """Remove something, telling what and how many."""

    async def work(output: Output) -> int:
        def line(text: str) -> None:
            # Names of caches hold any bytes, whatever the locale can print.
            output.write(f"{text}\n".encode("utf-8", "surrogateescape"))

        async with open_builder(settings) as builder:
            count = await remove(builder, lambda item: line(f"Removing {item}"))
        line(f"Removed {count} item{'' if count == 1 else 's'}")
        return 0

    _exit_unless_ok(supervised(work))


def _exit_unless_ok(status: int) -> None:
    if status:
        raise typer.Exit(status)
