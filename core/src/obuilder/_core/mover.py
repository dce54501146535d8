"""Moving results between stores: under the locks of both, and known to the database at once."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import anyio.lowlevel
import anyio.to_thread

from obuilder._core.database.db import Database
from obuilder._core.pieces import warning
from obuilder._core.record import read_side_file
from obuilder._core.steps import Backends
from obuilder.errors import StoreError
from obuilder.locks import Locks, use_lock
from obuilder.result_stream import PLAIN, Header, receive, receive_header, send
from obuilder.types import Id

__all__ = ["Mover"]

_NO_SUCH_BASE = "store.stream-base"


class Mover:
    """Sends and receives results of one store."""

    def __init__(self, backends: Backends, database: Database, locks: Locks) -> None:
        self._store = backends.store
        self._database = database
        self._locks = locks

    async def push(self, id: Id, receiver: "Mover") -> bool:
        """Copy a result to another store by the best stream that both speak; False: it has it.

        If the other has the parent too, as this store sent it, what differs is sent.
        """
        shared = [name for name in self._store.stream_formats if name in receiver.formats]
        format = shared[0] if shared else PLAIN
        parent = await self._database.parent(id)
        if format != PLAIN and parent is not None and await receiver.has(parent):
            try:
                return await self._push(id, receiver, format=format, base=parent)
            except StoreError as error:
                if error.code != _NO_SUCH_BASE:
                    raise
        return await self._push(id, receiver, format=format, base=None)

    async def _push(self, id: Id, receiver: "Mover", *, format: str, base: Id | None) -> bool:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        failures: list[Exception] = []
        copied = False

        async def export() -> None:
            try:
                await self.export(id, writer, format=format, base=base)
            except Exception as error:  # noqa: BLE001 - raised again outside the task group
                failures.append(error)
            finally:
                os.close(writer)

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(export)
                try:
                    copied = await receiver.import_(id, reader)
                except Exception as error:  # noqa: BLE001 - raised again outside the task group
                    failures.append(error)
                tasks.cancel_scope.cancel()
        finally:
            os.close(reader)
        if failures:
            # Who was cancelled had the stream end early: that is no failure.
            await anyio.lowlevel.checkpoint_if_cancelled()
            # One side sees the other's end as a failure of its own.
            raise next((each for each in failures if _says_no_base(each)), failures[0])
        return copied

    @property
    def formats(self) -> tuple[str, ...]:
        """What the store speaks besides the plain stream."""
        return self._store.stream_formats

    async def has(self, id: Id) -> bool:
        """Whether the store has a result."""
        return await self._store.result(id) is not None

    async def export(
        self, id: Id, sink: int, *, format: str = PLAIN, base: Id | None = None
    ) -> None:
        """Write a result to a descriptor. StoreError if there is none, or it cannot be sent."""
        async with self._used(id, base):
            parent = await self._database.parent(id)
            header = Header(id=id, parent=parent, format=format, base=base)
            await send(self._store, header, sink)

    @asynccontextmanager
    async def _used(self, *ids: Id | None) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for id in ids:
                if id is not None:
                    on_wait = warning(f"the deletion of {id}")
                    using = self._locks.hold(use_lock(id), shared=True, on_wait=on_wait)
                    await stack.enter_async_context(using)
            yield

    async def import_(self, id: Id, source: int) -> bool:
        """Make result `id` from a descriptor; False if it is there already.

        StoreError if the stream is damaged, cut off, or another result's: then
        nothing has changed.
        """
        header = await receive_header(source)
        if header.id != id:
            raise StoreError(
                f"the stream holds result {header.id}, wanted is {id}", code="store.stream"
            )
        made = self._locks.hold(id, on_wait=warning(f"result {id}"))
        async with self._used(header.base, id), made:
            if await self._store.result(id) is not None:
                return False
            async with receive(self._store, header, source) as directory:
                known = await anyio.to_thread.run_sync(read_side_file, directory, id)
                # The sender's database may have known less than the result does.
                parent, record = known or (header.parent, None)
                if header.parent not in {None, parent}:
                    raise StoreError(
                        f"the stream says that {id} was built on {header.parent}, "
                        f"and the result in it says {parent}",
                        code="store.stream",
                    )
            with anyio.CancelScope(shield=True):
                try:
                    await self._database.adopt(id, parent=parent, record=record)
                except BaseException:
                    await self._store.delete(id)
                    raise
            return True


def _says_no_base(error: Exception) -> bool:
    return isinstance(error, StoreError) and error.code == _NO_SUCH_BASE
