"""Looks at a whole store and finds what does not fit together; changes nothing.

Whatever a live process uses is locked. So a suspicion is told only if nobody
holds the locks of what it is about, and if it is there still when it is looked
at again under them.
"""

import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from obuilder._core.checker.findings import Code, Finding, Report
from obuilder._core.checker.judging import foreign, is_id, judge_database, judge_result
from obuilder._core.database.db import database_file
from obuilder._core.database.reader import Known, read_known
from obuilder.errors import DatabaseError, StoreError
from obuilder.interfaces import Sandbox, Store
from obuilder.locks import Locks, Trace, use_lock
from obuilder.named_cache import damaged_records
from obuilder.types import Id, Leftover, LeftoverKind

__all__ = ["Survey", "can_list", "locks_of"]

T = TypeVar("T")

_TOGETHER = 200
"""So many locks are held at once: each takes one or two descriptors."""

_TAKING_S = 1.0
"""Longer than anybody is between making a lock's file and holding the lock."""

_CODES = {
    LeftoverKind.RESULT: Code.LEFTOVER_RESULT,
    LeftoverKind.CACHE: Code.LEFTOVER_CACHE_COPY,
    LeftoverKind.CONTAINER: Code.LEFTOVER_CONTAINER,
    LeftoverKind.MOUNT: Code.LEFTOVER_MOUNT,
}
_REBUILD = "make it again: obuilder fsck --rebuild-db"


def can_list(store: Store[Any]) -> bool:
    """Whether a store tells its results; the default of `Store.results` says none."""
    return type(store).results is not Store.results


def locks_of(id: Id) -> tuple[str, ...]:
    """What whoever uses a result, makes or deletes it holds one of."""
    # What is no id nobody makes, and it may be no name of a file.
    return (use_lock(id), id) if is_id(id) else ()


class Survey:
    """One look at a store."""

    def __init__(self, store: Store[Any], sandbox: Sandbox[Any], locks: Locks) -> None:
        self._store = store
        self._sandbox = sandbox
        self._locks = locks
        self._database = database_file(store.state_dir)
        self._traces: Mapping[str, Trace] = {}

    async def report(self) -> Report:
        """All that is wrong now. Raises BackendError if the store cannot be looked at."""
        self._traces = await _in_thread(self._locks.abandoned)
        notes: list[str] = []
        # Listed first: whoever saves a result has made the database before.
        listed = await self._store.results() if can_list(self._store) else None
        known, findings = await self._known()
        if listed is None:
            notes.append(
                "this store cannot list its results: what the database does not know is not seen"
            )
        if known is None and not findings and listed:
            what = f"there is none, and the store has {len(listed)} results"
            findings.append(
                Finding(code=Code.NO_DATABASE, key="db.sqlite", what=what, remedy=_REBUILD)
            )
        findings += await self._results({*(listed or ()), *(known.rows if known else ())}, known)
        findings += await self._leftovers()
        findings += await self._scratch()
        findings += await self._cache_records()
        findings += await self._stale_locks()
        return Report(
            findings=tuple(findings),
            notes=tuple(notes),
            results=None if listed is None else len(listed),
            rows=None if known is None else len(known.rows),
        )

    async def _known(self) -> tuple[Known | None, list[Finding]]:
        """What the database knows, and what is wrong with that alone."""
        try:
            known = await _in_thread(lambda: read_known(self._database, thorough=True))
        except DatabaseError as error:
            if error.code not in {"database.damaged", "database.failed"}:
                raise
            what = error.what
            finding = Finding(code=Code.DATABASE, key="db.sqlite", what=what, remedy=_REBUILD)
            return None, [finding]
        return known, [] if known is None else list(judge_database(known))

    async def _results(self, ids: Iterable[Id], known: Known | None) -> Sequence[Finding]:
        suspects = [id for id in sorted(ids) if await self._judge(id, known)]
        found = []
        for some in _chunks(suspects):
            async with self._unused((id, locks_of(id)) for id in some) as free:
                # Whoever had them has told the database by now.
                fresh = await _in_thread(lambda: read_known(self._database)) if known else None
                found += [finding for id in free if (finding := await self._judge(id, fresh))]
        return found

    async def _judge(self, id: Id, known: Known | None) -> Finding | None:
        try:
            # What is no id is never asked for: it might be any path.
            path = await self._store.result(id) if is_id(id) else None
        except StoreError as error:
            # It may be the store that is not well, so that nothing is removed for it.
            return Finding(
                code=Code.DAMAGED_RESULT,
                key=id,
                what=f"the store cannot show it: {error.what}",
                remedy=error.hint or f"if nothing else helps: obuilder delete {id}",
            )
        if not is_id(id) and (known is None or id not in known.rows):
            return foreign(id)
        return await _in_thread(lambda: judge_result(id, path, known))

    async def _leftovers(self) -> Sequence[Finding]:
        found = []
        # Listed anew under the locks: whoever was using them may have ended meanwhile.
        for some in _chunks(sorted({each.key for each in await self._list_leftovers()})):
            async with self._unused((key, (key,)) for key in some) as free:
                for leftover in await self._list_leftovers():
                    if leftover.key in set(free):
                        found.append(_left(leftover))  # noqa: PERF401 - the condition awaits
        return found

    async def _list_leftovers(self) -> Sequence[Leftover]:
        # Containers first: repaired in this order, none can write into what is removed.
        return [*await self._sandbox.leftovers(), *await self._store.leftovers()]

    async def _scratch(self) -> Sequence[Finding]:
        directory = self._store.state_dir / "scratch"
        found = []
        for some in _chunks(sorted(os.listdir(directory)) if directory.is_dir() else ()):
            async with self._unused((name, (name,)) for name in some) as free:
                found += [
                    Finding(
                        code=Code.SCRATCH,
                        key=name,
                        what="temporary files of an import that died",
                        remedy="they are removed",
                    )
                    for name in free
                    if (directory / name).exists()
                ]
        return found

    async def _cache_records(self) -> Sequence[Finding]:
        damaged = await _in_thread(lambda: damaged_records(self._store.state_dir, self._traces))
        remedy = "it is removed; the cache stays, and counts its versions anew"
        return [
            Finding(code=Code.CACHE_RECORD, key=name, what=what, remedy=remedy)
            for name, what in damaged.items()
        ]

    async def _stale_locks(self) -> Sequence[Finding]:
        traces = await self._still(self._traces)
        if traces:
            # A process that the scheduler stops while it takes one has made the file already.
            youngest_s = time.time() - max(made_ns for _, _, made_ns in traces.values()) / 1e9
            await anyio.sleep(min(max(_TAKING_S - youngest_s, 0.0), _TAKING_S))
            traces = await self._still(traces)
        return [_stale(name) for name in traces]

    async def _still(self, traces: Mapping[str, Trace]) -> Mapping[str, Trace]:
        now = await _in_thread(self._locks.abandoned)
        return {name: trace for name, trace in traces.items() if now.get(name) == trace}

    @asynccontextmanager
    async def _unused(self, keys: Iterable[tuple[T, Iterable[str]]]) -> AsyncIterator[list[T]]:
        """Hold the locks of as many keys as are free, and leave them as they were found."""
        with ExitStack() as held:
            free = []
            for key, names in keys:
                taken = [
                    held.enter_context(self._locks.try_hold(name, trace=self._traces.get(name)))
                    for name in names
                ]
                if all(taken):
                    free.append(key)
            yield free


def _left(leftover: Leftover) -> Finding:
    return Finding(
        code=_CODES[leftover.kind],
        key=leftover.key,
        what=f"a {leftover.kind} that a dead builder left",
        remedy="it is removed",
        leftover=leftover,
    )


def _stale(name: str) -> Finding:
    return Finding(
        code=Code.STALE_LOCK,
        key=name,
        what="a process died while it held this lock",
        remedy="it is removed",
    )


def _chunks(items: Iterable[T]) -> Iterator[list[T]]:
    every = list(items)
    for start in range(0, len(every), _TOGETHER):
        yield every[start : start + _TOGETHER]


async def _in_thread(work: Callable[[], T]) -> T:
    return await anyio.to_thread.run_sync(work)
