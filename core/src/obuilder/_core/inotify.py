"""Changes of files as events: inotify(7), which Python's standard library lacks."""

import ctypes
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio

__all__ = ["Polling", "Watch"]

# linux/inotify.h
_IN_MODIFY = 0x2
_IN_ATTRIB = 0x4
_EVENT = struct.Struct("iIII")
_BUFFER_BYTES = 4096
_POLL_S = 1.0


class Watch:
    """Wakes up when one of the watched files is written, removed, or changes its mode."""

    def __init__(self) -> None:
        """Raise OSError when the user has too many of them; /proc/sys/fs/inotify."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = _checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def add(self, path: Path) -> int:
        """Watch a file, under the number that is returned. OSError if it is not there."""
        name = os.fsencode(path)
        return _checked(
            self._libc.inotify_add_watch(self._descriptor, name, _IN_MODIFY | _IN_ATTRIB), path
        )

    async def changed(self) -> set[int]:
        """Wait for a change; the numbers of the files that have."""
        await anyio.wait_readable(self._descriptor)
        data = os.read(self._descriptor, _BUFFER_BYTES)
        found, place = set(), 0
        while place < len(data):
            number, _, _, name_bytes = _EVENT.unpack_from(data, place)
            found.add(number)
            place += _EVENT.size + name_bytes
        return found


class Polling:
    """A `Watch` where the user may have no more of them: all may have changed, each second."""

    def __init__(self) -> None:
        self._added = 0

    def add(self, path: Path) -> int:
        """As `Watch.add`."""
        path.stat()
        self._added += 1
        return self._added

    async def changed(self) -> set[int]:
        """As `Watch.changed`."""
        await anyio.sleep(_POLL_S)
        return set(range(1, self._added + 1))


def _checked(result: int, path: Path | None = None) -> int:
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), None if path is None else str(path))
    return result
