"""From a step to its saved result: locks, store, log and database in the right order."""

import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from obuilder._core.build_log import StepLog, read_chunks
from obuilder._core.database.db import Database
from obuilder._core.disk import disk_errors, full, has_room, is_full
from obuilder._core.elsewhere import hold_followed
from obuilder._core.failed import forget_failure, keep_failure
from obuilder._core.inflight import Followers, Inflight, Outcome
from obuilder._core.limits import Limits
from obuilder._core.orphans import end_orphans, end_those_of_dying
from obuilder._core.pieces import Sink, Wait, telling
from obuilder._core.record import SIDE_FILE, StepRecord, read_side_file, side_file
from obuilder._core.reserve import Reserve
from obuilder._core.slots import Slots
from obuilder._core.step_caches import locked_caches
from obuilder._core.steps import Backends, Step
from obuilder.errors import BackendError, BuildError, CommandFailed, ObuilderError, StoreError
from obuilder.locks import Locks, use_lock
from obuilder.types import Holder, Id

__all__ = ["Keeper"]

_logger = logging.getLogger(__name__)


class Keeper:
    """Gives a step's result: the saved one, or one made by whoever comes first.

    An id has two locks. Its own is held alone by whoever makes or deletes the
    result. The one of its use is held shared by whoever wants or builds on it,
    from before it looks for the result until it is done with it, and alone by
    who deletes: so a maker waits for another maker only, and never for users,
    whose next step may take hours.
    """

    def __init__(
        self,
        backends: Backends,
        database: Database,
        *,
        locks: Locks,
        inflight: Inflight,
        reserve: Reserve,
        limits: Limits,
    ) -> None:
        self._jobs = anyio.CapacityLimiter(math.inf if limits.jobs is None else limits.jobs)
        self._slots = Slots(locks, limits.max_steps)
        self._backends = backends
        self._store = backends.store
        self._database = database
        self._locks = locks
        self._inflight = inflight
        self._failed = backends.store.state_dir / "failed"
        self._reserve = reserve
        self._drains = False
        self._waits: set[anyio.CancelScope] = set()
        self.hits = 0
        self.misses = 0

    @asynccontextmanager
    async def result(self, step: Step, sink: Sink) -> AsyncIterator[Outcome]:
        """The step's result, which nobody can delete inside the block."""

        async def told(holder: Holder) -> None:
            await sink(Wait(what=f"the deletion of {step.id}", holder=holder))

        async def saving(holder: Holder) -> None:
            await sink(Wait(what=f"the saving of {step.id}", holder=holder))

        async with AsyncExitStack() as held:
            with disk_errors(self._store.state_dir):
                using = self._locks.hold(use_lock(step.id), shared=True, on_wait=told)
                await held.enter_async_context(using)
                outcome: Outcome | None = None
                if not self._inflight.is_running(step.id) and await self._store.result(step.id):
                    # A maker elsewhere that is about to save it is waited for.
                    async with self._locks.hold(step.id, shared=True, on_wait=saving):
                        outcome = await self._load(step.id, step.base)
            if outcome is None:
                outcome = await self._inflight.share(
                    step.id, lambda followers: self._make(step, followers), sink
                )
            if outcome.cached:
                if not outcome.told:
                    await self._replay(step.id, sink)
                self.hits += 1
            yield outcome

    async def record(self, id: Id, path: Path) -> StepRecord | None:
        """What is known of a saved result; None for one that OBuilder made."""
        record = await self._database.record(id)
        if record is None:
            return None
        try:
            known = await anyio.to_thread.run_sync(read_side_file, path, id)
        except StoreError:  # damaged, but ours: OBuilder writes no such file
            return record
        if known is None:
            # OBuilder has deleted our result, not knowing our table, and made it anew.
            await self._database.forget_record(id)
            return None
        return record

    async def _make(self, step: Step, followers: Followers) -> Outcome:
        with disk_errors(self._store.state_dir):
            return await self._made(step, followers)

    async def _made(self, step: Step, followers: Followers) -> Outcome:
        # Before a wait for another process too: its steps may be many.
        if not await self._store.result(step.id):
            self._check_begin()
        async with AsyncExitStack() as held:
            if step.base is not None:
                # For as long as the step takes, also when its clients have left.
                on_wait = telling(f"the deletion of {step.base}", followers.tell)
                await held.enter_async_context(
                    self._locks.hold(use_lock(step.base), shared=True, on_wait=on_wait)
                )
            elsewhere = await held.enter_async_context(
                hold_followed(self._locks, step.id, store=self._store, followers=followers)
            )
            found = await self._load(step.id, step.base)
            if found is not None:
                return replace(found, told=await elsewhere.saved(found.path))
            await elsewhere.failed()
            self._check_begin()
            await end_orphans(self._backends.sandbox, step.id)
            await self._wait_unless_draining(held, self._turn(step, followers))
            await anyio.to_thread.run_sync(forget_failure, self._failed, step.id)
            await anyio.to_thread.run_sync(self._reserve.keep)
            begun = time.monotonic()
            async with self._store.build(step.id, base=step.base) as directory:
                record = await self._in_directory(step, directory, followers)
                record = replace(record, duration_s=time.monotonic() - begun)
                await self._write_side_file(directory, step, record)
            with anyio.CancelScope(shield=True):
                await self._database.add(step.id, parent=step.base, record=record)
                saved = await self._store.result(step.id)
            if saved is None:
                raise StoreError(f"result {step.id} was saved and is not there")
            self.misses += 1
            return Outcome(path=saved, cached=False)

    @asynccontextmanager
    async def _turn(self, step: Step, followers: Followers) -> AsyncIterator[None]:
        """All that a step waits for before it is made, for the block.

        Every step takes its locks in one order, the id's, those of caches, the job, the slot:
        so no two wait for each other. What many want comes last: who has a slot works, and
        waits for nobody who waits for one.
        """
        async with (
            locked_caches(self._locks, step.caches, tell=followers.tell) as cache_left,
            self._jobs,
            self._slots.hold(on_wait=telling(self._slots.what, followers.tell)) as slot_left,
        ):
            if cache_left or slot_left:
                await end_those_of_dying(self._backends.sandbox, self._locks)
            yield

    def drain(self) -> None:
        """Begin no step any more, and end the waits for a turn."""
        self._drains = True
        for wait in self._waits:
            wait.cancel()

    async def _wait_unless_draining(
        self, held: AsyncExitStack, turn: AbstractAsyncContextManager[None]
    ) -> None:
        with anyio.CancelScope() as wait:
            if self._drains:
                wait.cancel()
            self._waits.add(wait)
            try:
                await held.enter_async_context(turn)
            finally:
                self._waits.discard(wait)
        self._check_begin()

    def _check_begin(self) -> None:
        if self._drains:
            raise BuildError("no new step is begun: the builder drains", code="build.drained")

    async def _in_directory(self, step: Step, directory: Path, followers: Followers) -> StepRecord:
        async with self._log(step.id, followers) as log:
            followers.publish(log)
            try:
                with disk_errors(self._store.state_dir):
                    record = await self._blaming(step, directory, log)
                    size = await self._store.size_added(step.id)
                    return replace(record, size_bytes=size)
            except ObuilderError as error:
                log.close()
                await self._keep_failure(step.id, error)
                raise

    async def _blaming(self, step: Step, directory: Path, log: StepLog) -> StepRecord:
        try:
            return await step.make(self._backends, directory, log)
        except (CommandFailed, BackendError) as error:
            # What it had written is still there: if that took the last room, any command
            # would have failed, whatever it said of that, and this one may succeed elsewhere.
            looked_at = partial(has_room, self._store.state_dir, anybody=True)
            if await anyio.to_thread.run_sync(looked_at):
                raise
            raise full(error.what) from error

    @asynccontextmanager
    async def _log(self, id: Id, followers: Followers) -> AsyncIterator[StepLog]:
        log = StepLog(await self._store.log_file(id))
        self._locks.mark(id)
        try:
            yield log
        except BaseException:
            log.close()
            # The build is going to be discarded, and followers still have the log open.
            if followers.have_left:
                log.dispose()
            with anyio.CancelScope(shield=True):
                await self._detach(log)
            raise
        finally:
            log.close()

    async def _detach(self, log: StepLog) -> None:
        try:
            await anyio.to_thread.run_sync(log.detach, self._store.state_dir)
        except OSError as failure:
            # Most stores can remove it all the same; the others leave it for the next opening.
            _logger.warning("the log of a failed step stays open: %s", failure)

    async def _write_side_file(self, directory: Path, step: Step, record: StepRecord) -> None:
        path = directory / SIDE_FILE
        data = side_file(step.id, step.base, record, tenure=self._locks.tenure(step.id))
        try:
            await anyio.to_thread.run_sync(path.write_bytes, data)
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}") from error
        if await anyio.to_thread.run_sync(is_full, self._store.state_dir):
            # The database could not take it: a saved result that `prune` does not know of.
            raise full(f"result {step.id} cannot be saved")

    async def _keep_failure(self, id: Id, error: ObuilderError) -> None:
        log = await self._store.log_file(id)
        kept, tenure = self._failed, self._locks.tenure(id)
        try:
            await anyio.to_thread.run_sync(
                lambda: keep_failure(kept, id, log, error=error, tenure=tenure)
            )
            _logger.info("the log of the failed step is kept in %s", kept / id)
        except OSError as failure:
            # The step's own error matters more than our copy of its log.
            _logger.warning("the log of failed step %s could not be kept: %s", id, failure)

    async def _load(self, id: Id, parent: Id | None) -> Outcome | None:
        path = await self._store.result(id)
        if path is None:
            return None
        if not await self._database.touch(id, parent=parent):
            # Saved by a process that died before it told the database.
            known = await anyio.to_thread.run_sync(read_side_file, path, id)
            record = known[1] if known else None
            await self._database.adopt(id, parent=parent, record=record)
        return Outcome(path=path, cached=True, told=False)

    async def _replay(self, id: Id, sink: Sink) -> None:
        async with aclosing(read_chunks(await self._store.log_file(id))) as chunks:
            async for data in chunks:
                await sink(data)
