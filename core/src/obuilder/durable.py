"""Writing a file that survives a crash: whole and old, or whole and new."""

import contextlib
import ctypes
import errno
import os
from pathlib import Path

__all__ = ["exchange", "sync_directory", "sync_file_system", "write_file"]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_RENAMEAT2 = {"aarch64": 276, "ppc64le": 357, "riscv64": 276, "s390x": 347, "x86_64": 316}
"""The number of the system call, by asm/unistd.h; of the machines that musl has and we know."""


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step, so that a crash finds one state or the other.

    False: the file system cannot do that. Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    names = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    call = _RENAMEAT2.get(os.uname().machine)
    if hasattr(libc, "renameat2"):
        failed = libc.renameat2(*names, _RENAME_EXCHANGE)
    elif call is not None:  # musl 1.2.3 has no function for it
        failed = libc.syscall(call, *names, _RENAME_EXCHANGE)
    else:
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number), str(other))
    return False


def sync_file_system(path: Path) -> None:
    """Have all that was written to the file system of a directory on its disk. Blocking.

    By syncfs(2): one call, however many files there are, but it waits for what others wrote too.
    Raises OSError, also for what could not be written since the last call.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def write_file(
    path: Path, data: bytes, *, mode: int = 0o644, owner: tuple[int, int] | None = None
) -> None:
    """Replace `path` with `data` at once. Raises OSError; then nothing has changed.

    With `owner` (user and group) also `mode` is exact, whatever the umask.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode
        )
        with os.fdopen(descriptor, "wb") as file:
            if owner is not None:
                os.fchown(descriptor, *owner)
                os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # the first error is the one to report
            temporary.unlink()
        raise
    sync_directory(path.parent)
