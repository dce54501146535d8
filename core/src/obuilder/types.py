"""The frozen values that the core and its backends pass to each other.

Text from outside (paths inside an image, arguments, environment) is `str`
with surrogateescape, so that any byte survives.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import NewType

__all__ = [
    "ROOT",
    "BaseImage",
    "Env",
    "FetchContext",
    "Holder",
    "Id",
    "Leftover",
    "LeftoverKind",
    "Mount",
    "RunConfig",
    "Secret",
    "User",
]

Id = NewType("Id", str)
"""Lower-case hex SHA-256 that names a step's result."""

Env = tuple[tuple[str, str], ...]
"""Environment as ordered (name, value) pairs; the order is part of a step's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Numeric user and group; what a command runs as and a copied file belongs to."""

    uid: int
    gid: int


ROOT = User(uid=0, gid=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A host directory shown inside the sandbox at `target`."""

    source: Path
    target: str
    readonly: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A file shown read-only inside the sandbox at `target`."""

    target: str
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """What a sandbox needs to run one command.

    `id` is the step's id: a sandbox names its container after it, so that what
    a dead builder left running can be found again. `network` is `("host",)` or
    empty (isolated); a sandbox refuses any other.
    """

    id: Id
    argv: tuple[str, ...]
    cwd: str = "/"
    hostname: str = "builder"
    user: User = ROOT
    env: Env = ()
    mounts: tuple[Mount, ...] = ()
    network: tuple[str, ...] = ()
    secrets: tuple[Secret, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseImage:
    """What a fetcher learned about an image.

    `digest` is `ALGORITHM:HEX` of whatever identifies the bytes fetched;
    `platform` is `OS/ARCH[/VARIANT]` in Go's names (`linux/amd64`). None: not known.
    """

    env: Env = ()
    digest: str | None = None
    platform: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchContext:
    """Where a base's text comes from and what it is wanted for.

    `spec_dir` and `source_dir` are absolute and None where there is none (a
    spec from standard input, an embedded build). `platform` is `OS/ARCH`.
    """

    platform: str
    spec_dir: Path | None = None
    source_dir: Path | None = None


class LeftoverKind(StrEnum):
    """What a dead builder can leave behind."""

    RESULT = "temporary result"
    CACHE = "cache copy"
    CONTAINER = "container"
    MOUNT = "mount"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Something unfinished that a store or sandbox found.

    `key` is what the core locks before it lets the backend discard it: the
    step's id, or for a cache copy the cache's name. `path` tells two leftovers
    of one key apart.
    """

    kind: LeftoverKind
    key: str
    path: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a lock, and since when. `pid` None: it cannot be seen from here.

    `others`: further processes, of several locks that are all waited for.
    """

    pid: int | None
    since: datetime
    others: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Who has had it since when, as a clause: "process 7 has had since 10:11:12 UTC"."""
        if self.others:
            *first, last = (str(pid) for pid in (self.pid, *self.others))
            who = f"processes {', '.join(first)} and {last} have"
        else:
            who = f"process {self.pid} has" if self.pid else "another process has"
        return f"{who} had since {self.since:%H:%M:%S} UTC"
