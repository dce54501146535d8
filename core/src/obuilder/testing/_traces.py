"""What a backend may leave on this machine: processes, mounts, children, descriptors."""

import os
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

from obuilder._mounts import unmount_below

__all__ = ["KeepsMounts", "Mark", "children", "interfaces", "mounts", "named", "processes_with"]

# Where programs keep what is theirs, and the kernel what it knows of them.
_PLACES = ("/dev/shm", "/run", "/sys/fs/cgroup", "/tmp", "/var/lib", "/var/tmp")  # noqa: S108 - looked at only
_DEPTH = 2


class Mark:
    """A word that no other process has among its arguments."""

    def __init__(self) -> None:
        self.word = f"obuilder-mark-{secrets.token_hex(8)}"

    def living(self) -> list[int]:
        """The processes of this machine that have it, but those that are dead already."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                dead = b") Z " in (entry / "stat").read_bytes()
            except OSError:  # it has ended meanwhile
                continue
            if self.word.encode() in words and not dead:
                found.append(int(entry.name))
        return found

    def kill(self) -> None:
        """Kill (-9) those that are there: what a fault has left must not outlive the test."""
        for pid in self.living():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @asynccontextmanager
    async def killed_after(self, limit_s: float) -> AsyncIterator[None]:
        """Kill them if the block takes longer, which then fails, and at its end in any case.

        A log waits for the last one that may write to it: no cancel would end that.
        """
        late = False
        failure: Exception | None = None

        async def watch() -> None:
            nonlocal late
            await anyio.sleep(limit_s)
            late = True
            self.kill()

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch)
                try:
                    yield
                except Exception as error:  # noqa: BLE001 - raised again outside the task group
                    failure = error
                tasks.cancel_scope.cancel()
        finally:
            self.kill()
        if failure is not None:
            raise failure
        assert not late, f"it had not ended after {limit_s:g} s"


def mounts(directory: Path) -> set[str]:
    """What is mounted at or below a directory, as this process sees it."""
    table = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    # As proc(5) escapes them.
    place = str(directory).replace("\\", "\\134").replace(" ", "\\040")
    return {line for line in table.splitlines() if f"{line.split()[4]}/".startswith(f"{place}/")}


def children() -> set[str]:
    """The processes that this one has started and that are there."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update((task / "children").read_text().split())
        except OSError:  # the thread has ended
            continue
    return found


def interfaces(proc_net_dev: bytes) -> set[str]:
    """The network interfaces that a text of /proc/net/dev lists; proc(5)."""
    return {line.partition(":")[0].strip() for line in proc_net_dev.decode().splitlines()[2:]}


def named(word: str) -> list[Path]:
    """What has `word` in its name, in the upper parts of where programs leave something."""
    found = []
    for place in _PLACES:
        for directory, directories, files in os.walk(place):
            here = Path(directory)
            found += [here / name for name in (*directories, *files) if word in name]
            if len(here.relative_to(place).parts) + 1 >= _DEPTH:
                directories.clear()
    return found


def processes_with(text: bytes) -> list[str]:
    """The processes of this machine that have `text` among their arguments or environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                data = (entry / name).read_bytes()
            except OSError:  # it has ended meanwhile
                continue
            if text in data:
                found.append(f"{entry.name} {name}")
    return found


class KeepsMounts:
    """For the contracts: what a fault leaves mounted does not go with the test's directory."""

    @pytest.fixture(autouse=True)
    def nothing_mounted_is_removed(self, tmp_path: Path) -> Iterator[None]:
        """Pytest removes `tmp_path` with all that is shown in it, of this machine's for one."""
        yield
        anyio.run(unmount_below, tmp_path)
