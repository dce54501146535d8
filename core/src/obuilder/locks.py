"""Kernel locks by name, for us and for backends: released by death, waited for without a thread.

A lock is a FIFO that its holder has open for writing and holds by flock(2). A
waiter opens it for reading and sleeps until the last writer has closed it: the
kernel wakes it on release and on death alike. One descriptor carries both the
lock and the writing end, and the kernel drops the lock first (`__fput` calls
`locks_remove_file` before the FIFO's own release), so a woken waiter finds the
lock free.

Helpers that `process.run` starts while a lock is held have the descriptor too: the
lock of a builder that was killed is free once they are dead.

The file is removed on release. One that is found unheld belonged to a process
that died in the middle of what it did: the list of these is the crash journal.
"""

import errno
import fcntl
import os
import secrets
import select
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path

import anyio

from obuilder._inherited import inherited
from obuilder.errors import StoreError
from obuilder.types import Holder, Id

__all__ = ["Locks", "OnWait", "Tenure", "Trace", "use_lock", "waits_told"]

TELL_AFTER_S = 1.0
"""How long a wait for a lock may take before it is told."""

_UNMARKED, _MARKED = 0o600, 0o640
_TURN_BITS = 31
"""Of the time of last access, which no reader of a FIFO changes as long as nobody writes: as many
seconds as an ext4 with small inodes keeps."""

Trace = tuple[int, int, int]
"""What tells the file of an abandoned lock from any other."""

Tenure = tuple[int, int]
"""What tells one who holds a lock alone from those before and after."""


def use_lock(id: Id) -> str:
    """The lock of whoever uses a result, shared, or deletes it, alone.

    That of making or deleting it is the id itself.
    """
    return f"use-{id}"


OnWait = Callable[[Holder], Awaitable[None]]
"""Told of a wait that takes longer than `TELL_AFTER_S`, once."""


_told: ContextVar[OnWait | None] = ContextVar("_told", default=None)


@contextmanager
def waits_told(on_wait: OnWait) -> Iterator[None]:
    """Have waits in the block told whose `hold` names nobody: those of a store, for one."""
    token = _told.set(on_wait)
    try:
        yield
    finally:
        _told.reset(token)


class Locks:
    """The locks of one store; `directory` is created if missing.

    A name must be a file name. Locks also exclude each other within a process.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._left: set[str] = set()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    @asynccontextmanager
    async def hold(
        self,
        name: str,
        *,
        shared: bool = False,
        inherit: bool = True,
        on_wait: OnWait | None = None,
        on_next: Callable[[], None] | None = None,
    ) -> AsyncIterator[None]:
        """Hold a lock for the block, waiting for it as long as it takes.

        `shared`: with others who hold it shared. `inherit`: helpers that are started
        in the block have it too; not for a block that another task may end. `on_wait` is
        told if it takes long, `on_next` when the one who had it has released it and another
        has it. Raises StoreError if the file system refuses. Cancelling stops the wait at once.
        """
        descriptor = self._try(name, shared=shared)
        on_wait = on_wait or _told.get()
        if descriptor is None and on_wait is not None:
            # No await lies between getting the lock and the end of this block: none is lost.
            with anyio.move_on_after(TELL_AFTER_S):
                while descriptor is None:
                    descriptor = await self._wait(name, shared=shared)
                    if descriptor is None and on_next is not None:
                        on_next()
            holder = self.holder(name) if descriptor is None else None
            if holder is not None:
                await on_wait(holder)
        while descriptor is None:
            descriptor = await self._wait(name, shared=shared)
            if descriptor is None and on_next is not None:
                on_next()
        if not shared:
            _take_over(descriptor)
        try:
            with inherited(descriptor) if inherit else nullcontext():
                yield
        finally:
            self._release(name, descriptor)

    @asynccontextmanager
    async def hold_any(self, names: Sequence[str]) -> AsyncIterator[str]:
        """Hold alone, for the block, the first of several locks that is free; yields its name.

        Waits as long as it takes, with a descriptor for each. Otherwise as `hold`.
        """
        taken: tuple[str, int] | None = None
        while taken is None:
            taken = await self._wait_any(names)
        name, descriptor = taken
        _take_over(descriptor)
        try:
            with inherited(descriptor):
                yield name
        finally:
            self._release(name, descriptor)

    @contextmanager
    def try_hold(
        self, name: str, *, shared: bool = False, trace: Trace | None = None
    ) -> Iterator[bool]:
        """Hold a lock for the block if it is free now; yields whether it was.

        `trace`: what `abandoned` said of it; that file is left, for who only looks.
        """
        descriptor = self._try(name, shared=shared)
        if descriptor is None:
            yield False
            return
        only_looks = trace is not None and trace == _identity(os.fstat(descriptor))
        if not shared and not only_looks:
            _take_over(descriptor)
        try:
            with inherited(descriptor):
                yield True
        finally:
            if only_looks:
                os.close(descriptor)  # who has come to wait meanwhile is woken by this too
            else:
                self._release(name, descriptor)

    def abandoned(self) -> dict[str, Trace]:
        """The locks of processes that died.

        One that is just being taken may be among them: not twice with the same trace.
        Takes no lock, so that nobody finds one held who tries.
        """
        found = {}
        for name in self.names():
            path = self._directory / name
            try:
                # A holder has it open for reading too; a waiter does not see writers come and go.
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            except OSError as error:
                if error.errno == errno.ENXIO:  # a FIFO that nobody has open
                    with suppress(FileNotFoundError):  # another process has just removed it
                        found[name] = _identity(path.lstat())
                elif error.errno != errno.ENOENT:
                    raise StoreError(f"cannot examine lock {path}: {error.strerror}") from error
        return found

    def holder(self, name: str) -> Holder | None:
        """Who holds a lock, or one of those who hold it shared; None: nobody, as far as is seen."""
        return self.holder_of_all([name])

    def holder_of_all(self, names: Sequence[str]) -> Holder | None:
        """Those who hold locks that are all taken, and since when they are; None: one is free."""
        times = [self.since(name) for name in names]
        since = [time for time in times if time is not None]
        if len(since) < len(times):
            return None
        lockers = _lockers([self.path(name) for name in names])
        pids = sorted(lockers)
        return Holder(pid=pids[0] if pids else None, since=max(since), others=tuple(pids[1:]))

    def since(self, name: str) -> datetime | None:
        """When a lock was taken alone, or by the first who share it; None: nobody has it."""
        try:
            # Each holder makes the file anew, as the last one had removed it.
            return datetime.fromtimestamp(self.path(name).stat().st_mtime, UTC)
        except OSError:  # it has been released
            return None

    def tenure(self, name: str) -> Tenure | None:
        """Whose turn with a lock it is, another for each who takes it alone; None: nobody's."""
        try:
            status = self.path(name).stat()
        except OSError:  # it has been released
            return None
        return status.st_ino, status.st_atime_ns

    def path(self, name: str) -> Path:
        """Where the file of a lock lies, while it is held."""
        return self._directory / name

    def mark(self, name: str) -> None:
        """Show those who wait for a lock that is held alone that its holder has got somewhere."""
        with suppress(OSError):  # the store has vanished: who holds the lock finds out
            self.path(name).chmod(_MARKED)

    def is_marked(self, name: str) -> bool:
        """Whether the holder of a lock has marked it."""
        try:
            return stat.S_IMODE(self.path(name).stat().st_mode) == _MARKED
        except OSError:  # it has been released
            return False

    def was_left(self, name: str) -> bool:
        """Whether a lock that is held here alone was held by a process that died before."""
        return name in self._left

    def names(self) -> list[str]:
        """The locks that are held, or were by a process that died."""
        try:
            return sorted(entry.name for entry in os.scandir(self._directory))
        except OSError as error:
            what = f"cannot read the lock directory {self._directory}: {error.strerror}"
            if self._directory.is_dir():
                raise StoreError(what) from error
            hint = "is the store still mounted?"
            raise StoreError(what, code="store.vanished", hint=hint) from error

    def _try(self, name: str, *, shared: bool) -> int | None:
        path = self._directory / name
        if path.parent != self._directory:
            raise StoreError(f"cannot create lock {path}: {name!r} is not a file name")
        while True:
            opened = self._open(path)
            if opened is None:
                continue
            descriptor, was_there = opened
            try:
                fcntl.flock(descriptor, _kind(shared=shared) | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if error.errno == errno.EWOULDBLOCK:
                    return None
                raise StoreError(f"cannot lock {path}: {error.strerror}") from error
            if _is_same(descriptor, path):
                if was_there and not shared:
                    self._left.add(name)
                return descriptor
            os.close(descriptor)

    def _open(self, path: Path) -> tuple[int, bool] | None:
        """A lock's file, and whether it was there; None: its holder removed it meanwhile."""
        was_there = False
        try:
            try:
                os.mkfifo(path, _UNMARKED)
            except FileExistsError:  # the usual case while others wait
                was_there = True
            return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC), was_there
        except FileNotFoundError:
            if self._directory.is_dir():
                return None
            raise StoreError(
                f"the lock directory {self._directory} is gone",
                code="store.vanished",
                hint="is the store still mounted?",
            ) from None
        except OSError as error:
            raise StoreError(f"cannot create lock {path}: {error.strerror}") from error

    async def _wait(self, name: str, *, shared: bool) -> int | None:
        with ExitStack() as opened:
            reader, descriptor = self._watch(name, opened, shared=shared)
            if reader is not None:
                await anyio.wait_readable(reader)
            return descriptor

    async def _wait_any(self, names: Sequence[str]) -> tuple[str, int] | None:
        with ExitStack() as opened:
            either = select.epoll()
            opened.callback(either.close)
            for name in names:
                reader, descriptor = self._watch(name, opened, shared=False)
                if descriptor is not None:
                    return name, descriptor
                if reader is None:
                    return None
                either.register(reader, select.EPOLLIN)
            # Itself readable once one of those that it watches is.
            await anyio.wait_readable(either.fileno())
            return None

    def _watch(
        self, name: str, opened: ExitStack, *, shared: bool
    ) -> tuple[int | None, int | None]:
        """Try to lock; the descriptor that becomes readable on release, or the lock, or neither."""
        try:
            reader = os.open(self._directory / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None, self._try(name, shared=shared)
        opened.callback(os.close, reader)
        # Opened first: a release after this attempt is seen by the reader.
        descriptor = self._try(name, shared=shared)
        # Of a file that was removed meanwhile the last writer may have gone before
        # the reader came: nothing would ever wake it.
        if descriptor is None and _is_same(reader, self._directory / name):
            return reader, None
        return None, descriptor

    def _release(self, name: str, descriptor: int) -> None:
        path = self._directory / name
        self._left.discard(name)
        try:
            # Only the last of several shared holders gets this, and may remove the file.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(descriptor, path):
                path.unlink()
        except OSError:
            # Another holds it shared, or the directory is gone; closing releases all the same.
            pass
        finally:
            os.close(descriptor)


def _identity(status: os.stat_result) -> Trace:
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _kind(*, shared: bool) -> int:
    return fcntl.LOCK_SH if shared else fcntl.LOCK_EX


def _take_over(descriptor: int) -> None:
    # Its own time may be that of the one before, to the second, and so may its number.
    turn_ns = secrets.randbits(_TURN_BITS) * 10**9 + secrets.randbelow(10**9)
    try:
        # A dead holder leaves its file, with its time and its mark.
        if stat.S_IMODE(os.fstat(descriptor).st_mode) == _MARKED:
            os.fchmod(descriptor, _UNMARKED)
        os.utime(descriptor, ns=(turn_ns, time.time_ns()))
    except OSError as error:
        os.close(descriptor)
        raise StoreError(f"cannot take over a lock that was left: {error.strerror}") from error


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        named = path.stat()
        opened = os.fstat(descriptor)  # zfs-fuse forgets an open file with its last name
    except FileNotFoundError:
        return False
    return (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino)


def _lockers(paths: Iterable[Path]) -> set[int]:
    """The processes that made locks, by proc_locks(5), whose devices are not stat(2)'s on btrfs."""
    locked: dict[str, Path] = {}
    for path in paths:
        with suppress(OSError):  # it has been released
            locked[str(path.stat().st_ino)] = path
    found = set()
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        # "1: FLOCK ADVISORY WRITE 708 00:13:16 0 EOF"; one who waits has an arrow before FLOCK.
        if words[1] != "FLOCK":
            continue
        held = locked.get(words[5].rpartition(":")[2])
        if held is not None and int(words[4]) not in found and _has_open(words[4], held):
            found.add(int(words[4]))
    return found


def _has_open(pid: str, path: Path) -> bool:
    with suppress(OSError):  # one has ended, or is another user's
        return any(entry.samefile(path) for entry in Path(f"/proc/{pid}/fd").iterdir())
    return False
