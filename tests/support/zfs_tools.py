"""What the tests of the zfs store share: asking zfs, and a process that dies at a chosen point."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from obuilder import process
from obuilder_store_zfs import program

__all__ = ["Killed", "calls_counted", "dies_at_call", "names_below", "zfs"]

_READING = ("list", "get")


class Killed(BaseException):
    """Stands for the end of the process: from here on it can do nothing more."""


async def zfs(*argv: str) -> str:
    return (await process.run(["zfs", *argv])).stdout.decode().strip()


async def names_below(name: str) -> list[str]:
    """Data sets and snapshots below one, relative to it."""
    argv = ("list", "-H", "-o", "name", "-t", "filesystem,snapshot", "-r", name)
    found = (await zfs(*argv)).splitlines()
    return sorted(each.removeprefix(f"{name}/") for each in found if each != name)


@contextmanager
def calls_counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Sequence[str]]]:
    """The programs that the store runs in the block."""
    calls: list[Sequence[str]] = []

    async def counting(argv: Sequence[str], **options: Any) -> process.Completed:
        if argv not in calls[-1:]:  # else one that was busy
            calls.append(argv)
        return await process.run(argv, **options)

    with monkeypatch.context() as patch:
        patch.setattr(program, "run", counting)
        yield calls


@contextmanager
def dies_at_call(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """The block's process dies before its change number `number`; the list tells if it did."""
    died: list[bool] = []
    changes = 0

    async def dying(argv: Sequence[str], **options: Any) -> process.Completed:
        nonlocal changes
        if argv[1] not in _READING:
            changes += 1
        if died or changes > number:
            died.append(True)
            raise Killed
        return await process.run(argv, **options)

    with monkeypatch.context() as patch:
        patch.setattr(program, "run", dying)
        try:
            yield died
        except Killed:
            assert died
