"""The database's schema: a migration for each version, applied in order, each whole or not at all.

OBuilder leaves `user_version` at 0 and never looks at it; we keep our schema's there.
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from obuilder.errors import DatabaseError

__all__ = ["MIGRATIONS", "SCHEMA_VERSION", "Migration", "migrate", "refuse_newer"]

Migration = tuple[str, ...]
"""The statements that lead to a version from the one before."""

# The text is OBuilder 0.7's to the blank, so that `.schema` shows no difference.
_BUILDS = """CREATE TABLE IF NOT EXISTS builds (
                       id       TEXT PRIMARY KEY,
                       created  DATETIME NOT NULL,
                       used     DATETIME NOT NULL,
                       rc       INTEGER NOT NULL,
                       parent   TEXT,
                       FOREIGN KEY (parent) REFERENCES builds (id) ON DELETE RESTRICT
                     )"""
_LRU = """CREATE INDEX IF NOT EXISTS lru
                     ON builds (rc, used) """
_STEPS = """CREATE TABLE IF NOT EXISTS obuilder_steps (
  id TEXT PRIMARY KEY REFERENCES builds (id) ON DELETE CASCADE,
  op TEXT NOT NULL,
  context TEXT NOT NULL,
  preimage TEXT NOT NULL,
  duration_s REAL NOT NULL,
  size_bytes INTEGER,
  digest TEXT,
  platform TEXT
)"""

MIGRATIONS: tuple[Migration, ...] = ((_BUILDS, _LRU, _STEPS),)
"""From an empty database, or OBuilder's, to version 1. The next is added at the end."""

SCHEMA_VERSION = len(MIGRATIONS)


def refuse_newer(connection: sqlite3.Connection, path: Path, *, known: int = SCHEMA_VERSION) -> int:
    """The schema's version. DatabaseError if it is newer than `known`."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > known:
        raise DatabaseError(
            f"database {path} has schema {version}, this obuilder knows {known}",
            code="database.newer",
            hint="upgrade obuilder: a newer one has used this store",
        )
    return version


def migrate(
    connection: sqlite3.Connection, path: Path, *, migrations: Sequence[Migration] = MIGRATIONS
) -> None:
    """Bring the schema up to date. Raises sqlite3.Error; then the last whole version remains."""
    known = len(migrations)
    while refuse_newer(connection, path, known=known) < known:
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Read again: another process may have done it while this one waited.
            version = refuse_newer(connection, path, known=known)
            if version < known:
                for statement in migrations[version]:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version + 1}")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
