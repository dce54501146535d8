"""What is wrong with one result, and with the rows of the database among themselves."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from obuilder._core.checker.findings import Code, Finding
from obuilder._core.database.reader import Known, Row
from obuilder._core.record import StepRecord, read_side_file
from obuilder._core.saved_env import read_env
from obuilder.errors import StoreError
from obuilder.types import Id

__all__ = ["foreign", "is_id", "judge_database", "judge_result"]

_ID = re.compile(r"[0-9a-f]{64}")
_PARTS = ("rootfs", "log", "env")  # of every result: clones inherit the last
_REMOVE = "is removed, if nothing was built on it, and made again by the build that wants it"


def is_id(text: str) -> bool:
    """Whether a text can be the name of a result."""
    return _ID.fullmatch(text) is not None


def judge_result(id: Id, path: Path | None, known: Known | None) -> Finding | None:
    """What is wrong with a result of the store, or a row, or the two together. Blocking.

    `path` is None if the store has no such result, `known` if there is no database to compare.
    """
    row = known.rows.get(id) if known else None
    if path is None:
        return _missing(id, known) if known and row else None
    # A root file system need be no directory: some stores have images.
    missing = [name for name in _PARTS if not os.path.lexists(path / name)]
    if missing:
        what = f"it has no {' and no '.join(missing)}"
        return Finding(code=Code.DAMAGED_RESULT, key=id, what=what, remedy=_REMOVE)
    code = Code.DAMAGED_RESULT
    try:
        read_env(path / "env")
        code = Code.DAMAGED_RECORD
        own = read_side_file(path, id)
    except StoreError as error:
        return Finding(code=code, key=id, what=error.what, remedy=_REMOVE)
    if known is None:
        return None
    return _parentage(id, row, own) if row else _unknown(id, own)


def foreign(name: str) -> Finding:
    """What the store has listed among its results, and is none."""
    return Finding(
        code=Code.FOREIGN_RESULT,
        key=name,
        what="it lies among the results, and its name is no id",
        remedy="look at it, and move it away",
    )


def _missing(id: Id, known: Known) -> Finding:
    left = "; what was built on it stays, with no parent" if id in known.parents else ""
    return Finding(
        code=Code.MISSING_RESULT,
        key=id,
        what="the database knows it, the store does not have it",
        remedy=f"its row is removed{left}",
    )


def _unknown(id: Id, own: tuple[Id | None, StepRecord] | None) -> Finding:
    built = "what its record says" if own else "nobody knows what: it has no record"
    return Finding(
        code=Code.UNKNOWN_RESULT,
        key=id,
        what="the store has it, the database does not know it",
        remedy=f"is made known, built on {built}",
    )


def _parentage(id: Id, row: Row, own: tuple[Id | None, StepRecord] | None) -> Finding | None:
    # None in the database is no fault: it came from another store, without its base.
    if own is None or row.parent is None or own[0] == row.parent:
        return None
    return Finding(
        code=Code.WRONG_PARENT,
        key=id,
        what=f"the database says that it was built on {row.parent}, its record on {own[0]}",
        remedy="the database is told what the record says",
    )


def judge_database(known: Known) -> Iterator[Finding]:
    """What is wrong with the database alone, all of which it knew at one moment."""
    for trouble in known.troubles:
        yield Finding(
            code=Code.DATABASE,
            key="db.sqlite",
            what=trouble,
            remedy="make it again: obuilder fsck --rebuild-db",
        )
    children = Counter(row.parent for row in known.rows.values())
    for id, row in known.rows.items():
        if row.rc != children[id]:
            yield Finding(
                code=Code.COUNT,
                key=id,
                what=f"rc is {row.rc!r:.80}, and {children[id]} results were built on it",
                remedy="they are counted",
            )
        if row.parent is not None and row.parent not in known.rows:
            yield Finding(
                code=Code.MISSING_PARENT,
                key=id,
                what=f"it was built on {row.parent}, which the database does not know",
                remedy="that is made known if the store has it, else this has no parent",
            )
    for id in sorted(known.records - known.rows.keys()):
        yield Finding(
            code=Code.ORPHAN_RECORD,
            key=id,
            what="the database has a record of it, and no row",
            remedy="the record is removed",
        )
