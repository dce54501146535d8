"""The `zfs` program: one place that runs it, retries what is busy, and reports in its own words."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import anyio
import anyio.lowlevel

from obuilder.errors import ProcessError, StoreError
from obuilder.process import run

__all__ = ["SNAPSHOT", "Failure", "is_kernel", "listed", "run_zfs", "runs_zfs"]

SNAPSHOT = "snap"
"""The snapshot that makes a data set a result, and that caches are cloned from; OBuilder's name."""

BUSY_LIMIT_S = 30.0
"""How long a data set that something still holds is tried again."""

_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5

_BUSY = re.compile(rb"\bis busy\b")
_MISSING = re.compile(rb"does not exist|could not find any snapshots")
_EXISTS = re.compile(rb"dataset already exists")
_CLONES = re.compile(rb"dependent clone")
_CHILDREN = re.compile(rb"filesystem has children")
# Said while another process mounts the same; the latter two by zfs-fuse.
_MOUNTING = re.compile(rb"already mounted|Input/output error|failed to create mountpoint")


class Failure(StoreError):
    """What zfs refused, and as far as it matters to us why."""

    def __init__(self, what: str, error: ProcessError, *, hint: str | None = None) -> None:
        said = error.stderr
        self.is_busy = bool(_BUSY.search(said))
        self.is_missing = bool(_MISSING.search(said))
        self.is_existing = bool(_EXISTS.search(said))
        self.is_mounting = bool(_MOUNTING.search(said))
        self.has_clones = bool(_CLONES.search(said))
        self.has_snapshots = bool(_CHILDREN.search(said))
        code = "store.busy" if self.is_busy else None
        super().__init__(what, hint=hint or error.hint, code=code)


def is_kernel() -> bool:
    """Whether ZFS is the kernel's (OpenZFS), and not zfs-fuse with its older commands."""
    return Path("/sys/module/zfs").exists()


async def run_zfs(*argv: str, doing: str) -> str:
    """Run `zfs` and return what it printed; while it says "busy", again, up to a limit.

    A data set can be busy just after use: a container's mount namespace is being
    taken down, or (zfs-fuse) a file is being closed. Failure if it stays so.

    A cancel waits for the end of a command that has begun: zfs-fuse's daemon
    goes on with what a killed `zfs` asked for, after what would clean up.
    """
    return await runs_zfs(("zfs", *argv), doing=doing)


async def runs_zfs(argv: Sequence[str], *, doing: str) -> str:
    """`run_zfs` for any program that does the like: zpool, mount. Failure."""
    pause = _FIRST_PAUSE_S
    end = anyio.current_time() + BUSY_LIMIT_S
    while True:
        try:
            with anyio.CancelScope(shield=True):
                printed = (await run(argv)).stdout
            await anyio.lowlevel.checkpoint_if_cancelled()
            return os.fsdecode(printed)
        except ProcessError as error:
            failure = _failure(argv, error, doing=doing)
            if not failure.is_busy or anyio.current_time() + pause > end:
                raise failure from error
        await anyio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def _failure(argv: Sequence[str], error: ProcessError, *, doing: str) -> Failure:
    # Its words without the page of usage that may follow them.
    said = error.stderr.partition(b"usage:")[0].decode("utf-8", "backslashreplace").strip()
    hint = _holders(argv[-1].partition("@")[0]) if _BUSY.search(error.stderr) else None
    return Failure(f"{doing}: {said or error.what}", error, hint=hint)


def _holders(name: str) -> str:
    """What to look at when a data set stays busy; the processes whose namespaces have it."""
    own = Path("/proc/self/ns/mnt").readlink()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "ns/mnt").readlink() != own and f" {name} " in (
                process / "mountinfo"
            ).read_text(errors="replace"):
                found.append(f"{process.name} ({(process / 'comm').read_text().strip()})")
        except OSError:  # it has ended
            continue
    if found:
        return f"it is mounted in the mount namespaces of processes {', '.join(found[:5])}"
    return (
        "a process has a file or directory of it open: `fuser -vm` with its directory tells which"
    )


async def listed(*names: str, columns: str, depth: int | None = None) -> list[list[str]]:
    """File systems and their snapshots below `names`, in one call: their columns. Failure."""
    how = ("-r",) if depth is None else ("-r", "-d", str(depth))
    argv = ("list", "-H", "-t", "filesystem,snapshot", *how, "-o", columns, *names)
    printed = await run_zfs(*argv, doing=f"cannot list {', '.join(names)}")
    return [line.split("\t") for line in printed.splitlines()]
