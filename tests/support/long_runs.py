"""Rounds of builds of every kind in one process, and what that process holds after each."""

import gc
import itertools
import json
import os
import sys
import threading
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.lowlevel
from support.builds import Events, Parts, descriptors, stage
from support.runc_builds import SHELL

from obuilder._core.inotify import Watch
from obuilder.errors import ObuilderError

__all__ = ["BUILDS_OF_A_ROUND", "Held", "always_grew", "held", "make_round"]

CACHE = "(cache (shared (target /c)))"
SECRET = "(secrets (token (target /token)))"
OLD = f'{SHELL} (run (shell "echo old")))'
BUILDS_OF_A_ROUND = 12
_LIMIT_S = 60


class _Round:
    """The builds of one round; a number makes their steps new ones."""

    def __init__(self, parts: Parts, number: int, *, source: Path) -> None:
        self._parts = parts
        self._number = number
        self._source = source

    async def build(self, text: str, events: Events | None = None) -> None:
        events = events or Events()
        spec = stage(text.replace("@", str(self._number)))
        await self._parts.builder.build(spec, events.context(src=self._source, token=b"hush"))

    async def cached(self) -> None:
        await self.build(OLD)

    async def made(self) -> None:
        await self.build(f'{SHELL} (run (shell "echo new @ > /new")))')

    async def with_secret_and_cache(self) -> None:
        run = f'(run {CACHE} {SECRET} (shell "sha256sum /token >> /c/log; echo @"))'
        await self.build(f"{SHELL} {run})")

    async def copied(self) -> None:
        (self._source / "file").write_text(f"{self._number}\n")
        await self.build(f"{SHELL} (copy (src file) (dst /copied/)))")

    async def in_stages(self) -> None:
        nested = [
            f'(build {each} {SHELL} (run (shell "echo {each} @ > /out"))))' for each in ("a", "b")
        ]
        copies = [f"(copy (from (build {each})) (src /out) (dst /{each}))" for each in ("a", "b")]
        await self.build(f"({' '.join(nested)} {SHELL[1:]} {' '.join(copies)})")

    async def failed(self) -> None:
        await self._refused('(run (shell "echo no @; exit 3"))')

    async def failed_while_set_up(self) -> None:
        await self._refused('(workdir /bin/sh) (run (shell "echo @"))')

    async def failed_before(self) -> None:
        await self._refused("(copy (src missing) (dst /x))")

    async def _refused(self, ops: str) -> None:
        try:
            await self.build(f"{SHELL} {ops})")
        except ObuilderError:
            return
        raise AssertionError(ops)

    async def cancelled(self) -> None:
        seen = Events()
        async with anyio.create_task_group() as tasks:
            spec = f'{SHELL} (run {CACHE} {SECRET} (shell "echo begun; sleep 1000; echo @")))'
            tasks.start_soon(self.build, spec, seen)
            await seen.wait_for(b"begun")
            tasks.cancel_scope.cancel()

    async def shared(self) -> None:
        """Two at once, of one step; a third leaves them."""
        wait = "touch /waits; echo begun; until test -e /go; do usleep 9000; done"
        text = f'{SHELL} (run (shell "{wait}; echo @")))'
        seen = [Events() for _ in range(3)]
        async with anyio.create_task_group() as staying, anyio.create_task_group() as leaving:
            for events, tasks in zip(seen, (staying, staying, leaving), strict=True):
                tasks.start_soon(self.build, text, events)
            for events in seen:
                await events.wait_for(b"begun")
            leaving.cancel_scope.cancel()
            (waits,) = (self._parts.store.root / "result-tmp").glob("*/rootfs/waits")
            waits.with_name("go").touch()


async def make_round(parts: Parts, number: int, *, source: Path) -> None:
    """Make the builds of a round, one after another but for those that share."""
    each = _Round(parts, number, source=source)
    kinds: Sequence[Callable[[], Awaitable[None]]] = (
        each.cached,
        each.made,
        each.with_secret_and_cache,
        each.copied,
        each.in_stages,
        each.failed,
        each.failed_while_set_up,
        each.failed_before,
        each.cancelled,
        each.shared,
    )
    for kind in kinds:
        await kind()


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a process holds when no build runs; how many objects of which type: in a file."""

    descriptors: int
    threads: int
    tasks: int
    children: int
    mounts: int
    tables: str
    objects: str
    traced_bytes: int
    resident_bytes: int

    def rest(self) -> tuple[object, ...]:
        """What must be the same whenever no build runs."""
        return (self.descriptors, self.threads, self.tasks, self.children, self.mounts, self.tables)


async def held(parts: Parts) -> Held:
    """What this process holds, when all that builds had begun has ended."""
    keeper = parts.builder._keeper  # its tables have no public name
    running = keeper._inflight._running
    with anyio.fail_after(_LIMIT_S):
        while running:  # a step that was cancelled may still be ending
            await anyio.lowlevel.checkpoint()
    await anyio.wait_all_tasks_blocked()
    # CPython's cache of looked up attributes keeps up to 4,096 names, whoever asked for them.
    sys._clear_type_cache()
    for _ in range(3):  # what the first pass frees may have held more by finalizers
        gc.collect()
    traced_bytes = tracemalloc.get_traced_memory()[0]
    objects = gc.get_objects()
    tables = {
        "steps": len(running),
        "jobs": keeper._jobs.borrowed_tokens,
        "locks": len(os.listdir(parts.store.state_dir / "locks")),
        "temporary": parts.temporary(),
        "watches": sum(isinstance(each, Watch) for each in objects),
    }
    children = (path.read_text() for path in Path("/proc/self/task").glob("*/children"))
    return Held(
        descriptors=len(descriptors()),
        threads=sum(not _is_idle_worker(each) for each in threading.enumerate()),
        tasks=len(anyio.get_running_tasks()),
        children=sum(len(each.split()) for each in children),
        mounts=Path("/proc/self/mounts").read_text().count(str(parts.store.root)),
        tables=json.dumps(tables),
        objects=_written(
            Counter(type(each).__qualname__ for each in objects if not _is_dead(each)), parts
        ),
        traced_bytes=traced_bytes,
        resident_bytes=_resident_bytes(),
    )


def _written(counts: Counter[str], parts: Parts) -> str:
    # What is looked at must not grow by being looked at.
    number = len(list(parts.store.root.glob("objects-*")))
    path = Path(parts.store.root, f"objects-{number}")
    path.write_text(json.dumps(counts))
    return str(path)


def always_grew(seen: Sequence[Held]) -> dict[str, list[int]]:
    """The types of which there were more objects each time, and how many.

    One that grew now and then is noise: a worker thread that was started, a table that was
    made larger. What builds leave grows between any two times.
    """
    counts = [json.loads(Path(each.objects).read_text()) for each in seen]
    found = {}
    for name in counts[-1]:
        numbers = [each.get(name, 0) for each in counts]
        if name != Held.__name__ and all(
            one < next_one for one, next_one in itertools.pairwise(numbers)
        ):
            found[name] = numbers
    return found


def _is_dead(each: object) -> bool:
    # A connection of sqlite3 drops those of its cursors after each 200.
    return isinstance(each, weakref.ref) and each() is None


def _is_idle_worker(thread: threading.Thread) -> bool:
    # Of anyio's and trio's pools, which have a limit and end their threads after 10 s.
    return thread.name.startswith(("AnyIO worker thread", "Trio thread"))


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
