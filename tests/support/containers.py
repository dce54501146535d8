"""Builders in other processes, to be killed, and what those leave running."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import anyio.abc

from obuilder_sandbox_runc import RuncSandbox

__all__ = ["child_that_says", "descendants", "processes_in"]

_LIMIT_S = 60.0
_TESTS = Path(__file__).parents[1]


@asynccontextmanager
async def child_that_says(
    until: bytes, program: str, *args: str, containers: Path
) -> AsyncIterator[anyio.abc.Process]:
    """A Python program in a process of its own, for the block, once it has printed something.

    It gets `args` and the directory of these tests. `containers`: the state of its sandbox,
    whose containers are ended after the block.
    """
    child = await anyio.open_process(
        [sys.executable, "-c", program, *args, str(_TESTS)],
        stdin=subprocess.DEVNULL,
        stderr=None,
    )
    try:
        assert child.stdout
        seen = b""
        with anyio.fail_after(_LIMIT_S):
            while until not in seen:
                seen += await child.stdout.receive()
        yield child
    finally:
        with anyio.CancelScope(shield=True):
            if child.returncode is None:
                child.kill()
            await child.wait()
            await child.aclose()
            await _end_containers(containers)


def descendants(pid: int) -> Iterator[int]:
    """A process's children and theirs: runc, the reaper, and what they have started."""
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):  # it has ended
            for child in (task / "children").read_text().split():
                yield int(child)
                yield from descendants(int(child))


def processes_in(directory: Path) -> list[int]:
    """Processes that have a root, or another mount, from below a directory of the host."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(directory) in (entry / "mountinfo").read_text():
                found.append(int(entry.name))
        except OSError:  # it has ended
            continue
    return found


async def _end_containers(state_dir: Path) -> None:
    async with RuncSandbox.open(state_dir, RuncSandbox.Config()) as sandbox:
        for leftover in await sandbox.leftovers():
            await sandbox.discard(leftover)
