"""Commands that need an open builder: what each does with it, under supervision."""

import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import typer

from obuilder import BuildContext, Builder, BuildResult, Settings, open_builder
from obuilder._cli.inputs import SpecSource
from obuilder._cli.plain import PlainRenderer
from obuilder._cli.report import FAILED, step_failed
from obuilder._cli.supervise import Stop, supervised
from obuilder.errors import BackendError, BuildError
from obuilder.types import Id

__all__ = ["run_build", "run_healthcheck", "run_removal"]

Removal = Callable[[Builder, Callable[[str], None]], Awaitable[int]]


def run_build(
    settings: Settings, spec: SpecSource, *, source: Path, secrets: Mapping[str, bytes]
) -> Id:
    """Build and print the events; `typer.Exit` with the status of one that failed."""
    results: list[BuildResult] = []

    async def work(stop: Stop) -> int:
        context = BuildContext(
            src_dir=source,
            spec_dir=spec.directory,
            secrets=secrets,
            on_event=PlainRenderer(sys.stdout.buffer, stop=stop),
            platform=settings.platform,
        )
        try:
            async with open_builder(settings) as builder:
                results.append(await builder.build(spec.stage, context))
        except (BuildError, BackendError) as error:
            step_failed(error)
            return FAILED
        return 0

    _exit_unless_ok(supervised(work))
    return results[0].id


def run_healthcheck(settings: Settings) -> None:
    """As `Builder.healthcheck`, with the base and limit of the settings."""

    async def work(_stop: Stop) -> int:
        async with open_builder(settings) as builder:
            health = settings.healthcheck
            await builder.healthcheck(base=health.base, limit_s=health.timeout_s)
        return 0

    _exit_unless_ok(supervised(work))


def run_removal(settings: Settings, remove: Removal) -> None:
    """Remove something, telling what and how many."""

    async def work(_stop: Stop) -> int:
        async with open_builder(settings) as builder:
            count = await remove(builder, lambda item: _line(f"Removing {item}"))
        _line(f"Removed {count} item{'' if count == 1 else 's'}")
        return 0

    _exit_unless_ok(supervised(work))


def _line(text: str) -> None:
    # Names of caches hold any bytes, whatever the locale can print.
    sys.stdout.buffer.write(f"{text}\n".encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()


def _exit_unless_ok(status: int) -> None:
    if status:
        raise typer.Exit(status)
