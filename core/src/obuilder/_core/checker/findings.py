"""What a check of a store finds: each fault with a code that stays the same between releases."""

from dataclasses import dataclass, field
from enum import StrEnum

from obuilder.types import Leftover

__all__ = ["Code", "Finding", "Report"]


class Code(StrEnum):
    """The kinds of faults; docs/fsck.md says what each means and how it is repaired."""

    DATABASE = "fsck.database"
    NO_DATABASE = "fsck.no-database"
    MISSING_RESULT = "fsck.missing-result"
    UNKNOWN_RESULT = "fsck.unknown-result"
    FOREIGN_RESULT = "fsck.foreign-result"
    DAMAGED_RESULT = "fsck.damaged-result"
    DAMAGED_RECORD = "fsck.damaged-record"
    COUNT = "fsck.count"
    MISSING_PARENT = "fsck.missing-parent"
    WRONG_PARENT = "fsck.wrong-parent"
    ORPHAN_RECORD = "fsck.orphan-record"
    LEFTOVER_RESULT = "fsck.leftover-result"
    LEFTOVER_CACHE_COPY = "fsck.leftover-cache-copy"
    LEFTOVER_CONTAINER = "fsck.leftover-container"
    LEFTOVER_MOUNT = "fsck.leftover-mount"
    STALE_LOCK = "fsck.stale-lock"
    SCRATCH = "fsck.scratch"
    CACHE_RECORD = "fsck.cache-record"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault. `key` is the id, the lock, the cache's file or the name it is about.

    `remedy` is what repairing does, or what a person has to do. After a repair
    `repaired` tells whether it is gone, and `why_not` what kept it, if that is known.
    """

    code: Code
    key: str
    what: str
    remedy: str
    repaired: bool = False
    why_not: str | None = None
    leftover: Leftover | None = field(default=None, repr=False)

    @property
    def identity(self) -> tuple[str, str, str]:
        """What tells it from others, and is the same when it is found again."""
        path = self.leftover.path if self.leftover else None
        return self.code, self.key, str(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found, what was repaired, and what could not be looked at.

    `results` counts the results in the store, `rows` those that the database
    knows; None: that cannot be told. `notes` are no faults.
    """

    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    results: int | None = None
    rows: int | None = None

    @property
    def faults(self) -> tuple[Finding, ...]:
        """What is still wrong."""
        return tuple(finding for finding in self.findings if not finding.repaired)
