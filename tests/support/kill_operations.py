"""The operations that are killed at each durable step, and what they work on.

Each is run on a copy of one small store: a base, a step, a step with a cache, and what it needs
besides. It returns what a user is told, which must be the same whatever was killed before it.
"""

import errno
import os
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
from support.images import busybox_tarball
from support.kill_places import Place, checking, opened
from support.kill_points import DurableSteps, in_process
from support.obuilder_store import DemoStore

from obuilder import BuildContext, Builder, parse
from obuilder.errors import CommandFailed, StoreError
from obuilder.events import Event, Output
from obuilder.types import Id

__all__ = ["OPERATIONS", "SECRET", "Operation", "make_source", "run_operation"]

SECRET = b"a-secret-of-the-kill-points"
STREAM = "stream"
TEMPORARY = {"zfs": "result"}
"""Where results are built, if not in `result-tmp`."""
_FIRST = '(run (shell "echo first > /first; echo first"))'
_SECOND = (
    '(run (cache (c (target /c))) (shell "echo x >> /c/log; echo second > /second; echo 2nd"))'
)
_MADE = f"((from archive:busybox.tar) (shell /bin/sh -c) {_FIRST} {_SECOND}"
_RUN = (
    "(run (cache (c (target /c)) (d (target /d))) (secrets (s (target /s)))"
    ' (shell "test -s /s; echo x >> /c/log; echo x >> /d/log; echo third > /third; echo third"))'
)
# It goes on when somebody puts a file into its root.
_WAITS = (
    "(run (cache (c (target /c))) (secrets (s (target /s)))"
    ' (shell "echo begun; echo x >> /c/log; until test -e /go; do usleep 9000; done; echo ended"))'
)
_COPY = "(copy (src tree) (dst /copied/))"
_FAILS = '(run (cache (c (target /c))) (shell "echo x >> /c/log; echo about to fail; exit 3"))'


async def _build(
    place: Place, builder: Builder, text: str, on_output: Callable[[bytes], None] | None = None
) -> tuple[str, bytes]:
    """What a user sees of a build: the result's id and the output, or the error."""
    output = bytearray()

    def tell(event: Event) -> None:
        if isinstance(event, Output):
            output.extend(event.data)
            if on_output:
                on_output(bytes(output))

    context = BuildContext(
        src_dir=place.source, spec_dir=place.source, secrets={"s": SECRET}, on_event=tell
    )
    try:
        built = await builder.build(parse(text.encode()), context)
    except CommandFailed as error:
        return str(error), bytes(output)
    return built.id, bytes(output)


Work = Callable[[DurableSteps, Place], Awaitable[Any]]


def building(text: str) -> Work:
    """An operation that builds."""

    async def work(steps: DurableSteps, place: Place) -> Any:
        async with opened(place) as builder:
            steps.begin()
            return await _build(place, builder, text)

    return work


async def opening(steps: DurableSteps, place: Place) -> Any:
    steps.begin()
    async with opened(place):
        return None


async def taking_over(steps: DurableSteps, place: Place) -> Any:
    """Make a step whose maker, in another process, dies while this one is open."""
    async with opened(place) as builder:
        if not (place.directory / "died").exists():
            await anyio.to_thread.run_sync(_die_in_a_step, place)
            (place.directory / "died").touch()
        steps.begin()
        return await _build(place, builder, f"{_MADE} {_WAITS})", let_go(place))


def let_go(place: Place) -> Callable[[bytes], None]:
    """Let the step that waits go on."""

    def on_output(output: bytes) -> None:
        if output.endswith(b"begun\n"):
            for each in (place.root / TEMPORARY.get(place.driver, "result-tmp")).iterdir():
                _touch(each / "rootfs" / "go")

    return on_output


def _touch(path: Path) -> None:
    try:
        path.touch()
    except OSError as error:  # a result that is saved, where they are with those to be
        if error.errno != errno.EROFS:
            raise


def _die_in_a_step(place: Place) -> None:
    """Leave what a builder leaves that dies while a step of its runs."""
    ended = in_process(_dying, place, last=1, watched=[place.root])
    assert ended.killed_at, ended


def _dying(steps: DurableSteps, place: Place) -> None:
    def die(output: bytes) -> None:
        if output.endswith(b"begun\n"):
            steps.begin()
            steps.step("the step runs")

    async def main() -> None:
        async with opened(place) as builder:
            await _build(place, builder, f"{_MADE} {_WAITS})", die)

    anyio.run(main, backend=place.backend)


async def deleting(steps: DurableSteps, place: Place) -> Any:
    base = _rows(place, "SELECT id FROM builds WHERE parent IS NULL")
    async with opened(place) as builder:
        steps.begin()
        for (id,) in base:
            with suppress(StoreError):
                await builder.delete(Id(id))


async def pruning(steps: DurableSteps, place: Place) -> Any:
    async with opened(place) as builder:
        steps.begin()
        await builder.prune(before=datetime.now(UTC) + timedelta(days=1), limit=100)


async def cleaning(steps: DurableSteps, place: Place) -> Any:
    async with opened(place) as builder:
        steps.begin()
        await builder.clean()


async def pushing(steps: DurableSteps, place: Place) -> Any:
    """All results to another store, parents first."""
    async with opened(place) as builder, opened(place, place.other) as other:
        steps.begin()
        for (id,) in _rows(place, "SELECT id FROM builds ORDER BY rowid"):
            await builder.push(Id(id), other)


async def exporting(steps: DurableSteps, place: Place) -> Any:
    async with opened(place) as builder:
        steps.begin()
        ((id,),) = _rows(place, "SELECT id FROM builds WHERE rc = 0")
        with (place.directory / STREAM).open("wb") as sink:
            await builder.export(Id(id), sink.fileno())


async def importing(steps: DurableSteps, place: Place) -> Any:
    """From the stream of another store's last result."""
    id = (place.directory / "id").read_text()
    async with opened(place) as builder:
        steps.begin()
        with (place.directory / STREAM).open("rb") as source:
            await builder.import_(Id(id), source.fileno())


async def repairing(steps: DurableSteps, place: Place) -> Any:
    async with checking(place) as checker:
        steps.begin()
        report = await checker.check(repair=True)
        return [str(finding) for finding in report.faults]


async def rebuilding(steps: DurableSteps, place: Place) -> Any:
    async with checking(place) as checker:
        steps.begin()
        await checker.rebuild_database()


def _rows(place: Place, query: str) -> list[tuple[str, ...]]:
    database = place.root / "state/db/db.sqlite"
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def _change(place: Place, *statements: str) -> None:
    with closing(sqlite3.connect(place.root / "state/db/db.sqlite")) as connection:
        for each in statements:
            connection.execute(each)
        connection.commit()


def make_source(place: Place) -> None:
    """What builds read."""
    (place.source / "tree" / "sub").mkdir(parents=True)
    (place.source / "tree" / "file").write_text("copied")
    (place.source / "tree" / "sub" / "link").symlink_to("../file")
    shutil.copy(busybox_tarball(), place.source / "busybox.tar")


def nothing(place: Place) -> None:
    """A store that is not there yet."""
    make_source(place)


def empty(place: Place) -> None:
    """A store without results."""
    make_source(place)
    _do(opening, place)


def made(place: Place) -> None:
    """A store with a chain of three results and a cache."""
    make_source(place)
    _do(building(f"{_MADE})"), place)


def two_stores(place: Place) -> None:
    """A store with results, and one without."""
    made(place)
    _do(_open_other, place)


async def _open_other(steps: DurableSteps, place: Place) -> None:
    async with opened(place, place.other):
        pass


def stream(place: Place) -> None:
    """A store without results, and the stream of one."""
    made(place)
    _do(exporting, place)
    ((id,),) = _rows(place, "SELECT id FROM builds WHERE rc = 0")
    (place.directory / "id").write_text(id)
    _do(cleaning, place)


def unknown(place: Place) -> None:
    """A store whose database does not know the last result."""
    made(place)
    ((id, parent),) = _rows(place, "SELECT id, parent FROM builds WHERE rc = 0")
    _change(
        place,
        f"DELETE FROM obuilder_steps WHERE id = '{id}'",
        f"DELETE FROM builds WHERE id = '{id}'",
        f"UPDATE builds SET rc = 0 WHERE id = '{parent}'",
    )


def saved_and_died(place: Place) -> None:
    """The same, with the lock of whoever saved it."""
    ids = _all(place, unknown)
    (known,) = _rows(place, "SELECT group_concat(id) FROM builds")
    for id in ids - set(known[0].split(",")):
        os.mkfifo(place.root / "state/locks" / id)


def _all(place: Place, make: Callable[[Place], None]) -> set[str]:
    make(place)
    return set(os.listdir(place.root / "result"))


def damaged(place: Place) -> None:
    """A store with something of all that a check repairs."""
    saved_and_died(place)
    ((first, _),) = _rows(place, "SELECT id, rc FROM builds WHERE parent IS NULL")
    strange = "5" * 64
    _change(
        place,
        f"UPDATE builds SET rc = 7 WHERE id = '{first}'",
        f"INSERT INTO builds VALUES ('{strange}', '2020-01-01', '2020-01-01', 0, '{first}')",
    )
    temporary = place.root / TEMPORARY.get(place.driver, "result-tmp") / strange
    for path in (temporary, place.root / "cache-tmp/123-c"):
        if place.tree:
            place.tree.create(path)
        else:
            path.mkdir()
    for path in (temporary, place.root / "state/scratch" / strange):
        (path / "rootfs").mkdir(parents=True)
    (place.root / "state/caches/.c.17.tmp").write_bytes(b"{")
    (place.root / "state/caches/e").write_bytes(b'{"name": "e"}')


def damaged_database(place: Place) -> None:
    """A store whose database is damaged."""
    made(place)
    database = place.root / "state/db/db.sqlite"
    data = database.read_bytes()
    database.write_bytes(data[:4096] + b"\1" * (len(data) - 4096))


def of_obuilder(place: Place) -> None:
    """A store that OBuilder 0.7 made."""
    place.root.mkdir()
    DemoStore.make(place.driver, place.root, place.source)
    shutil.copy(busybox_tarball(), place.source / "busybox.tar")


def left_behind(place: Place) -> None:
    """What a builder leaves that dies while a step of its runs."""
    _die_in_a_step(place)


def _do(work: Work, place: Place) -> None:
    async def main() -> None:
        await work(DurableSteps([], last=0, tell=print), place)

    anyio.run(main, backend=place.backend)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What is done, to what store, and what is put into each copy of that first."""

    template: Callable[[Place], None]
    work: Work
    prepare: Callable[[Place], None] | None = None
    mends: bool = False
    """Whether the store needs it: opening alone does not put it in order."""


OPERATIONS: Mapping[str, Operation] = {
    "new-store": Operation(template=nothing, work=opening),
    "open": Operation(template=made, work=opening),
    "fetch": Operation(template=empty, work=building("((from archive:busybox.tar))")),
    "run": Operation(template=made, work=building(f"{_MADE} {_RUN})")),
    "copy": Operation(template=made, work=building(f"{_MADE} {_COPY})")),
    "failing-step": Operation(template=made, work=building(f"{_MADE} {_FAILS})")),
    "from-cache": Operation(template=made, work=building(f"{_MADE})")),
    "take-over": Operation(template=made, work=taking_over),
    "recovery": Operation(template=made, work=opening, prepare=left_behind),
    "adopt-at-open": Operation(template=saved_and_died, work=opening),
    "adopt-in-build": Operation(template=unknown, work=building(f"{_MADE})")),
    "migrate": Operation(template=of_obuilder, work=opening),
    "delete": Operation(template=made, work=deleting),
    "prune": Operation(template=made, work=pruning),
    "clean": Operation(template=made, work=cleaning),
    "push": Operation(template=two_stores, work=pushing),
    "export": Operation(template=made, work=exporting),
    "import": Operation(template=stream, work=importing),
    "repair": Operation(template=damaged, work=repairing, mends=True),
    "rebuild-db": Operation(template=damaged_database, work=rebuilding, mends=True),
}


def run_operation(steps: DurableSteps, name: str, place: Place) -> Any:
    """Do one operation; what a user is told of it."""

    async def main() -> Any:
        return await OPERATIONS[name].work(steps, place)

    return anyio.run(main, backend=place.backend)
