"""Processes whose parents have ended: daemons, which nobody's list of children shows any more."""

import ctypes
import os
import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio

from obuilder.testing._traces import children

__all__ = ["living_children", "orphans_adopted", "that_stay"]

GRACE_S = 5.0
"""How long one that was killed may take to be gone; nobody waits for a child's children."""

_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37  # prctl(2)


@contextmanager
def orphans_adopted() -> Iterator[None]:
    """In the block this process gets the children of those that end, instead of init.

    What is there at the block's end and was not at its beginning is killed.
    """
    library = ctypes.CDLL(None, use_errno=True)
    was = ctypes.c_int()
    _prctl(library, _PR_GET_CHILD_SUBREAPER, ctypes.byref(was))
    known = children()
    _prctl(library, _PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        try:
            _end(known)
        finally:
            _prctl(library, _PR_SET_CHILD_SUBREAPER, was.value)


def living_children() -> set[str]:
    """Without the dead, who are nobody's fault here: adopted, with no one to wait for them."""
    return {pid for pid in children() if not _is_dead(pid)}


async def that_stay(known: Collection[str]) -> list[str]:
    """The living children beside those known that do not end by themselves, as their arguments."""
    with anyio.move_on_after(GRACE_S):
        while left := living_children().difference(known):
            for pid in left:
                await _wait_for(pid)
    return [_arguments(pid) for pid in living_children().difference(known)]


def _prctl(library: ctypes.CDLL, option: int, value: object) -> None:
    if library.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _is_dead(pid: str) -> bool:
    try:
        return b") Z " in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:  # and waited for
        return True


def _arguments(pid: str) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended meanwhile
        return f"process {pid}"
    return words.replace(b"\0", b" ").decode("utf-8", "backslashreplace")


async def _wait_for(pid: str) -> None:
    try:
        descriptor = os.pidfd_open(int(pid))
    except ProcessLookupError:
        return
    try:
        await anyio.wait_readable(descriptor)
    finally:
        os.close(descriptor)


def _end(known: Collection[str]) -> None:
    # Again and again: the children of those that are killed come here as well.
    while left := {int(pid) for pid in children().difference(known)}:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in left:
            with suppress(ChildProcessError):  # whoever started it has waited for it
                os.waitpid(pid, 0)
