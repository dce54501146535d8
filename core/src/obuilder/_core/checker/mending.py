"""Repairs what a survey found: each under the locks of what it is about, looked at once more."""

import shutil
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from obuilder._core.checker.findings import Code, Finding
from obuilder._core.checker.judging import is_id, judge_result
from obuilder._core.checker.survey import locks_of
from obuilder._core.database.db import database_file
from obuilder._core.database.repair import RepairDatabase
from obuilder._core.record import read_side_file
from obuilder._core.recovery import parents_first
from obuilder.errors import BackendError
from obuilder.interfaces import Sandbox, Store
from obuilder.locks import Locks
from obuilder.named_cache import remove_record
from obuilder.types import Id

__all__ = ["Mender"]

_IN_USE = "it is in use"
_REBUILD_FIRST = "the database must be made again first"
_NO_DATABASE = {Code.DATABASE, Code.NO_DATABASE}
_OF_RESULTS = {
    Code.MISSING_RESULT,
    Code.UNKNOWN_RESULT,
    Code.DAMAGED_RESULT,
    Code.DAMAGED_RECORD,
    Code.WRONG_PARENT,
}
_OF_ROWS = {Code.COUNT, Code.MISSING_PARENT, Code.ORPHAN_RECORD}

Reason = str | None
"""What kept a repair from being done."""


class Mender:
    """Repairs one store."""

    def __init__(self, store: Store[Any], sandbox: Sandbox[Any], locks: Locks) -> None:
        self._store = store
        self._sandbox = sandbox
        self._locks = locks

    async def mend(self, findings: Sequence[Finding]) -> Mapping[tuple[str, str, str], str]:
        """Repair what can be; what kept the others, by their identity. BackendError."""
        reasons: dict[tuple[str, str, str], str] = {}

        async def attempt(finding: Finding, work: Awaitable[Reason]) -> None:
            try:
                reason = await work
            except BackendError as error:
                reason = error.what
            if reason:
                reasons[finding.identity] = reason

        for finding in findings:
            if finding.code not in _OF_RESULTS:
                await attempt(finding, self._outside(finding))
        of_database = [each for each in findings if each.code in _OF_RESULTS]
        if any(finding.code in _NO_DATABASE for finding in findings):
            return {**reasons, **{each.identity: _REBUILD_FIRST for each in of_database}}
        if not any(finding.code in _OF_RESULTS | _OF_ROWS for finding in findings):
            return reasons
        async with RepairDatabase.open(database_file(self._store.state_dir)) as database:
            for finding in await self._in_order(of_database):
                await attempt(finding, self._result(finding, database))
            await database.settle()
        return reasons

    async def _outside(self, finding: Finding) -> Reason:
        """What lies beside results and database."""
        if finding.code is Code.CACHE_RECORD:
            state = self._store.state_dir
            done = await anyio.to_thread.run_sync(remove_record, state, finding.key)
            return None if done else _IN_USE
        if finding.leftover is None and finding.code not in {Code.SCRATCH, Code.STALE_LOCK}:
            return None  # left to a person, or to the database's own repair
        # Releasing it removes the lock's file.
        with self._locks.try_hold(finding.key) as free:
            if not free:
                return _IN_USE
            if finding.code is Code.LEFTOVER_CONTAINER and finding.leftover:
                await self._sandbox.discard(finding.leftover)
            elif finding.leftover:
                await self._store.discard(finding.leftover)
            elif finding.code is Code.SCRATCH:
                scratch = self._store.state_dir / "scratch" / finding.key
                await anyio.to_thread.run_sync(lambda: shutil.rmtree(scratch, ignore_errors=True))
        return None

    async def _in_order(self, findings: Sequence[Finding]) -> Sequence[Finding]:
        """What is made known comes after what it was built on."""
        parents = {}
        for finding in findings:
            id = Id(finding.key)
            if finding.code is Code.UNKNOWN_RESULT and (path := await self._store.result(id)):
                own = await anyio.to_thread.run_sync(read_side_file, path, id)
                parents[id] = own[0] if own else None
        place = {id: number for number, id in enumerate(parents_first(parents))}
        return sorted(findings, key=lambda finding: place.get(Id(finding.key), -1))

    async def _result(self, finding: Finding, database: RepairDatabase) -> Reason:
        id = Id(finding.key)
        with ExitStack() as held:
            free = [held.enter_context(self._locks.try_hold(name)) for name in locks_of(id)]
            if not all(free):
                return _IN_USE
            if finding.code is Code.MISSING_RESULT:
                if await self._is_missing(id):
                    await database.drop(id)
                return None
            path = await self._store.result(id)
            if path is None:
                return None  # somebody has deleted it meanwhile
            if finding.code in {Code.DAMAGED_RESULT, Code.DAMAGED_RECORD}:
                return await self._remove(id, path, database)
            own = await anyio.to_thread.run_sync(read_side_file, path, id)
            parent, record = own or (None, None)
            if finding.code is Code.WRONG_PARENT:
                await database.set_parent(id, parent)
            elif not await database.is_known(id):
                await database.adopt(id, parent=parent, record=record)
            return None

    async def _is_missing(self, id: Id) -> bool:
        return not is_id(id) or await self._store.result(id) is None

    async def _remove(self, id: Id, path: Path, database: RepairDatabase) -> Reason:
        if await anyio.to_thread.run_sync(judge_result, id, path, None) is None:
            return None
        if children := await database.children(id):
            count = len(children)
            return f"{count} results were built on it; with them it is removed by `delete {id}`"
        with anyio.CancelScope(shield=True):
            await self._store.delete(id)
            await database.remove(id)
        return None
