"""Embeds a builder in a program: once from a coroutine, once from a thread.

    python examples/embed.py STORE_DIRECTORY SPEC SOURCE_DIRECTORY

The first build runs the steps; the second, in a thread with a plain call, finds
them in the store.
"""

import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from obuilder import (
    BuildContext,
    BuildResult,
    ObuilderError,
    Settings,
    build_sync,
    open_builder,
    parse,
)
from obuilder.events import BaseStarted, Event, OpStarted, Output, StepFinished


@dataclass(slots=True, kw_only=True)
class Report:
    """Counts steps and keeps their output; its method is called for each event of a build."""

    built: int = 0
    cached: int = 0
    output: bytearray = field(default_factory=bytearray)

    def on_event(self, event: Event) -> None:
        """Take one event. It runs in the event loop, so it must not block."""
        match event:
            case BaseStarted(base=base):
                sys.stdout.write(f"  from {base}\n")
            case OpStarted(op=op):
                sys.stdout.write(f"  {type(op).__name__.lower()}\n")
            case Output(data=data):
                self.output += data
            case StepFinished(cached=True):
                self.cached += 1
            case StepFinished():
                self.built += 1


def context(spec: Path, source: Path, report: Report) -> BuildContext:
    """What the build needs besides its spec; secrets would go here too."""
    return BuildContext(
        src_dir=source.resolve(), spec_dir=spec.resolve().parent, on_event=report.on_event
    )


async def build(settings: Settings, spec: Path, source: Path) -> tuple[BuildResult, Report]:
    """Build in the event loop of the caller, asyncio's or trio's."""
    report = Report()
    stage = parse(spec.read_bytes(), file=str(spec))
    async with open_builder(settings) as builder:
        result = await builder.build(stage, context(spec, source, report))
    return result, report


def build_in_thread(settings: Settings, spec: Path, source: Path) -> tuple[BuildResult, Report]:
    """Build from a thread that has no event loop; signals stay with the program."""
    report = Report()
    results: list[BuildResult] = []

    def work() -> None:
        stage = parse(spec.read_bytes(), file=str(spec))
        results.append(build_sync(settings, stage, context(spec, source, report)))

    thread = threading.Thread(target=work, name="build")
    thread.start()
    thread.join()
    return results[0], report


def main(store: str, spec: str, source: str) -> int:
    """Build twice and say what was found."""
    settings = Settings.from_dict({"store": f"rsync:{store}"})
    try:
        first, ran = anyio.run(build, settings, Path(spec), Path(source))
    except (ObuilderError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    second, found = build_in_thread(settings, Path(spec), Path(source))
    sys.stdout.write(ran.output.decode("utf-8", "backslashreplace"))
    sys.stdout.write(f"{ran.built} steps built, then {found.cached} from the cache\n")
    sys.stdout.write(f"result {first.id} in {first.path}\n")
    return 0 if first.id == second.id else 1


if __name__ == "__main__":
    if len(sys.argv) != 4:  # noqa: PLR2004 - the program's name and three arguments
        sys.exit("usage: embed.py STORE_DIRECTORY SPEC SOURCE_DIRECTORY")
    sys.exit(main(*sys.argv[1:]))
