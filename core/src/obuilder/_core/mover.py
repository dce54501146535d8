"""Moving results between stores: under the locks of both, and known to the database at once."""

import anyio
import anyio.to_thread

from obuilder._core import plain_stream
from obuilder._core.db import Database
from obuilder._core.record import read_side_file
from obuilder._core.steps import Backends
from obuilder.errors import StoreError
from obuilder.locks import Locks, use_lock
from obuilder.types import Id

__all__ = ["Mover"]


class Mover:
    """Sends and receives results of one store."""

    def __init__(self, backends: Backends, database: Database, locks: Locks) -> None:
        self._store = backends.store
        self._database = database
        self._locks = locks

    async def export(self, id: Id, sink: int) -> None:
        """Write a result to a descriptor. StoreError if there is none, or it cannot be sent."""
        async with self._locks.hold(use_lock(id), shared=True):
            path = await self._store.result(id)
            if path is None:
                raise StoreError(f"there is no result {id}", code="store.unknown-id")
            parent = await self._database.parent(id)
            await plain_stream.send(path, sink, id=id, parent=parent)

    async def import_(self, id: Id, source: int) -> bool:
        """Make result `id` from a descriptor; False if it is there already.

        StoreError if the stream is damaged, cut off, or another result's: then
        nothing has changed.
        """
        named, parent = await plain_stream.receive_header(source)
        if named != id:
            raise StoreError(
                f"the stream holds result {named}, wanted is {id}", code="store.stream"
            )
        async with self._locks.hold(use_lock(id), shared=True), self._locks.hold(id):
            if await self._store.result(id) is not None:
                return False
            async with self._store.build(id) as directory:
                await plain_stream.receive(source, directory)
                known = await anyio.to_thread.run_sync(read_side_file, directory, id)
            with anyio.CancelScope(shield=True):
                record = known[1] if known else None
                await self._database.adopt(id, parent=parent, record=record)
            return True
