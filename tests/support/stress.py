"""Random builds that share prefixes and a cache, on a store that others use and prune.

`python -m support.stress KIND SANDBOX STORE SEED BUILDS` makes some and says what went wrong.
"""

import random
import re
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
from support.builds import Events, Parts, ScriptedSandbox, open_parts, stage
from support.runc_builds import SHELL, open_runc
from support.store_kinds import KINDS

from obuilder._core.checker.fsck import Checker
from obuilder.interfaces import BuildLog, Store
from obuilder.types import RunConfig
from obuilder_store_zfs import ZfsStore
from obuilder_store_zfs.program import is_kernel

__all__ = ["AT_ONCE", "SANDBOXES", "builds", "found_wrong", "opened", "pruning"]

STEPS = 5
WORDS = 3
AT_ONCE = 10
SANDBOXES = ("inside", "runc")
"""One that works inside the process, whose steps take no time, and the real one."""


def spec(chance: random.Random) -> list[str]:
    """The commands of a build; few words a step, so that beginnings are shared."""
    return [f"step{number}-{chance.randrange(WORDS)}" for number in range(STEPS)]


def text(commands: Sequence[str], *, sharing: str = "") -> str:
    runs = (
        f"(run (cache (shared (target /c) {sharing}))"
        f' (shell "for n in 0 1 2; do echo {each} $n; done;'
        f' echo {each} > /{each}; echo {each} >> /c/log"))'
        for each in commands
    )
    return f"{SHELL} {' '.join(runs)})"


class StressSandbox(ScriptedSandbox):
    """Does itself what the shell would."""

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        found = re.search(r"echo (\S+)", config.argv[-1])
        assert found
        command = found[1]
        for number in range(3):
            await log.output(f"{command} {number}\n".encode())
            await anyio.lowlevel.checkpoint()
        (rootfs / command).write_text(command)
        with (config.mounts[0].source / "log").open("a") as file:
            file.write(f"{command}\n")


def _keeps_one_copy(store: Store[Any]) -> bool:
    """Whether a cache's release would disturb other copies of it.

    zfs-fuse renames a snapshot by unmounting all its clones and mounting them again; the kernel's
    ZFS does not.
    """
    return isinstance(store, ZfsStore) and not is_kernel()


async def build(parts: Parts, commands: Sequence[str]) -> str | None:
    """What went wrong with one build."""
    seen = Events()
    sharing = "(buildkit_options ((sharing locked)))" if _keeps_one_copy(parts.store) else ""
    result = await parts.builder.build(stage(text(commands, sharing=sharing)), seen.context())
    expected = "".join(f"{each} {number}\n" for each in commands for number in range(3))
    if seen.output.decode() != expected:
        return f"{commands} printed {seen.output!r}"
    last = "".join(f"{commands[-1]} {number}\n" for number in range(3))
    try:
        kept = (result.path / "log").read_text()
    except FileNotFoundError:  # another has pruned it since
        return None
    if kept != last:
        return f"{commands} kept {kept!r}"
    return None


async def builds(parts: Parts, *, seed: int, count: int) -> list[str]:
    """Make random builds, ten at a time; what went wrong."""
    chance = random.Random(seed)
    waiting = [spec(chance) for _ in range(count)]
    wrong: list[str] = []

    async def work() -> None:
        while waiting:
            found = await build(parts, waiting.pop())
            if found is not None:
                wrong.append(found)

    async with anyio.create_task_group() as tasks:
        for _ in range(AT_ONCE):
            tasks.start_soon(work)
    return wrong


async def pruning(parts: Parts) -> None:
    """Prune, until cancelled, what was not used in this very second."""
    while True:
        await parts.builder.prune(before=datetime.now(UTC) + timedelta(seconds=1), limit=2)
        await anyio.lowlevel.checkpoint()


def opened(kind: str, sandbox: str, root: Path) -> AbstractAsyncContextManager[Parts]:
    """A builder on the store of a kind at `root`, with one of the `SANDBOXES`."""
    if sandbox == "runc":
        return open_runc(root, kind=KINDS[kind])
    return open_parts(root, sandbox=StressSandbox(), kind=KINDS[kind])


async def found_wrong(parts: Parts) -> list[str]:
    """What fsck finds when all is quiet."""
    report = await Checker(parts.store, parts.sandbox).check()
    return [f"{finding.code}: {finding}" for finding in report.findings]


async def _main(kind: str, sandbox: str, store: str, seed: str, count: str) -> int:
    async with opened(kind, sandbox, Path(store)) as parts:
        wrong = await builds(parts, seed=int(seed), count=int(count))
    for line in wrong:
        sys.stdout.write(f"{line}\n")
    return len(wrong)


if __name__ == "__main__":
    kind, sandbox, store, seed, count = sys.argv[1:]
    sys.exit(anyio.run(_main, kind, sandbox, store, seed, count))
