"""What only a repair does to the database: rows of results that are gone, and what does not add up.

Each in one transaction, so that a builder beside it sees counts that are right.
"""

from collections import Counter

from obuilder._core.database.db import Database
from obuilder.types import Id

__all__ = ["RepairDatabase"]


class RepairDatabase(Database):
    """The store's database, with what a repair needs besides."""

    async def is_known(self, id: Id) -> bool:
        """Whether there is a row; unlike `touch`, it does not count as a use."""
        return bool(await self._ids("SELECT id FROM builds WHERE id = ?", (id,)))

    async def drop(self, id: Id) -> None:
        """Forget a result that is gone. What was built on it stays, with no parent.

        The schema lets no row go that is a parent, and the rows of those that
        are there must stay.
        """

        def work() -> None:
            with self._transaction() as db:
                db.execute("UPDATE builds SET parent = NULL WHERE parent = ?", (id,))
                db.execute(
                    "UPDATE builds SET rc = rc - 1 WHERE id ="
                    " (SELECT parent FROM builds WHERE id = ?)",
                    (id,),
                )
                db.execute("DELETE FROM obuilder_steps WHERE id = ?", (id,))
                db.execute("DELETE FROM builds WHERE id = ?", (id,))

        await self._run(work)

    async def set_parent(self, id: Id, parent: Id | None) -> None:
        """Say what a result was built on, NULL if that is no row; `settle` counts anew."""

        def work() -> None:
            with self._transaction() as db:
                db.execute(
                    "UPDATE builds SET parent = (SELECT id FROM builds WHERE id = ?) WHERE id = ?",
                    (parent, id),
                )

        await self._run(work)

    async def settle(self) -> None:
        """Make parents that are no rows NULL, count children, drop records without a row."""

        def work() -> None:
            with self._transaction() as db:
                db.execute(
                    "UPDATE builds SET parent = NULL"
                    " WHERE parent NOT NULL AND parent NOT IN (SELECT id FROM builds)"
                )
                rows = db.execute("SELECT id, rc, parent FROM builds").fetchall()
                # Counted here: OBuilder's schema has no index of parents.
                children = Counter(parent for _, _, parent in rows)
                wrong = [(children[id], id) for id, rc, _ in rows if rc != children[id]]
                db.executemany("UPDATE builds SET rc = ? WHERE id = ?", wrong)
                db.execute("DELETE FROM obuilder_steps WHERE id NOT IN (SELECT id FROM builds)")

        await self._run(work)
