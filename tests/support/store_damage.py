"""Stores that are damaged as kills, power cuts, people and OBuilder damage them."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from support.obuilder_store import subvolume

from obuilder.locks import use_lock
from obuilder.types import Id

__all__ = ["DAMAGES", "STRANGE", "Faults", "directory", "remove", "sql", "tree"]

STRANGE = Id("5" * 64)
Faults = set[tuple[str, str]]
"""Codes and keys."""


def sql(root: Path, *statements: str, foreign_keys: bool = False) -> list[tuple[Any, ...]]:
    """Do something to the database as OBuilder would: it has foreign keys off."""
    path = root / "state/db/db.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA foreign_keys = {foreign_keys}")
        return [row for each in statements for row in database.execute(each).fetchall()]


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a directory but the times of directories."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        is_file = path.is_file() and not path.is_symlink()
        contents = path.read_bytes() if is_file else b""
        times = status.st_mtime_ns if is_file else 0
        name = str(path.relative_to(root))
        found[name] = (status.st_mode, status.st_ino, status.st_uid, times, contents)
    return found


def remove(root: Path, *which: Id) -> None:
    """Remove results; `root` is named after its store's driver."""
    for result in (root / "result" / id for id in which):
        if root.name == "btrfs":
            subvolume("subvolume", "delete", str(result))
        else:
            shutil.rmtree(result)


def unrecorded(root: Path, id: Id, record: bytes | None) -> None:
    """A result that the database does not know, with this side file."""
    forget(root, id)
    path = root / "result" / id / "obuilder.json"
    path.unlink()
    if record is not None:
        path.write_bytes(record)


def without_logs(root: Path, *which: Id) -> None:
    for id in which:
        (root / "result" / id / "log").unlink()


def forget(root: Path, *which: Id) -> None:
    for id in which:
        sql(
            root,
            f"UPDATE builds SET rc = rc - 1 WHERE id = (SELECT parent FROM builds WHERE id='{id}')",
            f"DELETE FROM obuilder_steps WHERE id = '{id}'",
            f"DELETE FROM builds WHERE id = '{id}'",
        )


def died_holding(root: Path, *names: str) -> None:
    for name in names:
        os.mkfifo(root / "state" / "locks" / name)


def orphan(root: Path, ids: list[Id]) -> None:
    columns = "op, context, preimage, duration_s, size_bytes, digest, platform"
    sql(root, f"INSERT INTO obuilder_steps SELECT '{STRANGE}', {columns} FROM obuilder_steps"
        f" WHERE id = '{ids[0]}'")  # fmt: skip


def hole(root: Path, ids: list[Id]) -> None:
    """As OBuilder deletes a row: the child is not asked."""
    remove(root, ids[1])
    sql(root, f"DELETE FROM builds WHERE id = '{ids[1]}'")


def unknown_parent(root: Path, ids: list[Id]) -> None:
    sql(
        root,
        f"DELETE FROM obuilder_steps WHERE id = '{ids[1]}'",
        f"DELETE FROM builds WHERE id = '{ids[1]}'",
    )


def directory(root: Path, place: str) -> None:
    """Leave a directory with something in it."""
    (root / place / "rootfs").mkdir(parents=True)
    (root / place / "rootfs" / "stale").touch()


Damage = Callable[[Path, list[Id]], object]
Expected = Callable[[list[Id]], Faults]
# Of a store with a chain of three results, the last of which has used the cache `c`.
DAMAGES: dict[str, tuple[Damage, Expected]] = {
    "a missing result": (
        lambda root, ids: remove(root, ids[2]),
        lambda ids: {("fsck.missing-result", ids[2])},
    ),
    "a missing result with a child": (
        lambda root, ids: remove(root, ids[1]),
        lambda ids: {("fsck.missing-result", ids[1])},
    ),
    "nothing but the database": (
        lambda root, ids: remove(root, *ids),
        lambda ids: {("fsck.missing-result", id) for id in ids},
    ),
    "an unknown result": (
        lambda root, ids: forget(root, ids[2]),
        lambda ids: {("fsck.unknown-result", ids[2])},
    ),
    "nothing but results": (
        lambda root, ids: forget(root, *reversed(ids)),
        lambda ids: {("fsck.unknown-result", id) for id in ids},
    ),
    "an unknown result of obuilder": (
        lambda root, ids: unrecorded(root, ids[2], None),
        lambda ids: {("fsck.unknown-result", ids[2])},
    ),
    "a wrong count": (
        lambda root, ids: sql(root, f"UPDATE builds SET rc = 5 WHERE id = '{ids[1]}'"),
        lambda ids: {("fsck.count", ids[1])},
    ),
    "a count that is no number": (
        lambda root, ids: sql(root, f"UPDATE builds SET rc = 'x' WHERE id = '{ids[2]}'"),
        lambda ids: {("fsck.count", ids[2])},
    ),
    "a parent that is gone": (
        hole,
        lambda ids: {
            ("fsck.missing-parent", ids[2]),
            ("fsck.count", ids[0]),
            ("fsck.orphan-record", ids[1]),
        },
    ),
    "a parent that only the store has": (
        unknown_parent,
        lambda ids: {
            ("fsck.missing-parent", ids[2]),
            ("fsck.unknown-result", ids[1]),
            ("fsck.count", ids[0]),
        },
    ),
    "a wrong parent": (
        lambda root, ids: sql(root, f"UPDATE builds SET parent = '{ids[0]}' WHERE id = '{ids[2]}'"),
        lambda ids: {
            ("fsck.wrong-parent", ids[2]),
            ("fsck.count", ids[0]),
            ("fsck.count", ids[1]),
        },
    ),
    "a record without a row": (orphan, lambda ids: {("fsck.orphan-record", STRANGE)}),
    "a row with a path for an id": (
        lambda root, ids: sql(
            root, "INSERT INTO builds SELECT '../..', created, used, 0, NULL FROM builds LIMIT 1"
        ),
        lambda ids: {("fsck.missing-result", "../..")},
    ),
    "a damaged record": (
        lambda root, ids: (root / "result" / ids[2] / "obuilder.json").write_bytes(b""),
        lambda ids: {("fsck.damaged-record", ids[2])},
    ),
    "a damaged record that the database does not know": (
        lambda root, ids: unrecorded(root, ids[2], b"[]"),
        lambda ids: {("fsck.damaged-record", ids[2])},
    ),
    "no log": (
        lambda root, ids: without_logs(root, ids[2]),
        lambda ids: {("fsck.damaged-result", ids[2])},
    ),
    "no root file system": (
        lambda root, ids: shutil.rmtree(root / "result" / ids[2] / "rootfs"),
        lambda ids: {("fsck.damaged-result", ids[2])},
    ),
    "no environment": (
        lambda root, ids: (root / "result" / ids[2] / "env").write_text("(("),
        lambda ids: {("fsck.damaged-result", ids[2])},
    ),
    "a chain without logs": (
        lambda root, ids: without_logs(root, *ids),
        lambda ids: {("fsck.damaged-result", id) for id in ids},
    ),
    "a temporary result": (
        lambda root, ids: directory(root, f"result-tmp/{STRANGE}"),
        lambda ids: {("fsck.leftover-result", STRANGE)},
    ),
    "a cache copy": (
        lambda root, ids: directory(root, "cache-tmp/123-c"),
        lambda ids: {("fsck.leftover-cache-copy", "copy-123-c")},
    ),
    "scratch": (
        lambda root, ids: directory(root, f"state/scratch/{STRANGE}"),
        lambda ids: {("fsck.scratch", STRANGE)},
    ),
    "locks": (
        lambda root, ids: died_holding(root, STRANGE, use_lock(ids[0]), "users-c"),
        lambda ids: {("fsck.stale-lock", key) for key in (STRANGE, use_lock(ids[0]), "users-c")},
    ),
    "a cache record": (
        lambda root, ids: (root / "state/caches/c").write_bytes(b'{"name": "c"}'),
        lambda ids: {("fsck.cache-record", "c")},
    ),
    "a cache record that was being written": (
        lambda root, ids: (root / "state/caches/.c.17.tmp").write_bytes(b"{"),
        lambda ids: {("fsck.cache-record", ".c.17.tmp")},
    ),
}
