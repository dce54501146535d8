"""Kills (-9) at random moments over builds that share steps and a cache.

OBUILDER_STORM says how many rounds for each store, OBUILDER_SEED the seed.
"""

import os
import random
import select
import signal
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

import anyio
import pytest
from support.command import LIMIT_S, Command
from support.containers import descendants
from support.paired_builds import paired_spec, started
from support.store_kinds import KINDS

__all__ = ["LIMIT", "storm"]

ROUNDS = int(os.environ.get("OBUILDER_STORM", "5"))
LIMIT = pytest.mark.timeout(60 + 30 * ROUNDS)
LONGEST_S = 1.2

STEP = (
    '(run (cache (shared (target /c))) (shell "echo begin {name}; for i in 1 2 3; do'
    ' echo {name} > /{name}-$i; done; echo {name} >> /c/log; echo end {name}"))'
)


def kill(process: "subprocess.Popen[bytes]", how: str) -> None:
    """Kill, and wait until no helper has a lock of the store any more.

    They die with their builder, but the kernel may first have to finish what one is doing.
    """
    below = list(descendants(process.pid))
    killed = {"builder": [process.pid], "helpers": below, "all": [process.pid, *below]}[how]
    with ExitStack() as opened:
        helpers = [opened.enter_context(pidfd) for pid in below if (pidfd := holding(pid))]
        for pid in killed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pidfd in helpers:
            assert select.select([pidfd], [], [], LIMIT_S)[0], "it does not die"


def holding(pid: int) -> BinaryIO | None:
    """A descriptor of a process that has a lock; None: it has none."""
    with suppress(OSError):  # it has ended
        opened = Path(f"/proc/{pid}/fd")
        if any("/state/locks/" in os.readlink(opened / name) for name in os.listdir(opened)):
            return os.fdopen(os.pidfd_open(pid), "rb")
    return None


async def check_results(kind: str, root: Path) -> None:
    """Every result of a step is whole: its log has an end, its files what was written."""
    async with KINDS[kind].open(str(root), KINDS[kind].Config()) as store:
        for id in await store.results():
            result = await store.result(id)
            assert result is not None
            words = (result / "log").read_text().split()
            if "begin" in words:
                assert words[-2] == "end", result
                files = [result / "rootfs" / f"{words[-1]}-{n}" for n in (1, 2, 3)]
                assert [file.read_text() for file in files] == [f"{words[-1]}\n"] * 3


def storm(kind: str, store: Path, obuilder: Command) -> None:
    """After each round the next build passes, `fsck` is clean, and every result is whole."""
    obuilder.store = f"{kind}:{store}"
    seed = int(os.environ.get("OBUILDER_SEED", "1"))
    chance = random.Random(seed)
    kills: Counter[str] = Counter()
    for number in range(ROUNDS):
        texts = [paired_spec(STEP, number, branch) for branch in "ab"]
        builds = [started(obuilder, text, f"spec{i}") for i, text in enumerate(texts)]
        spared = chance.choice([None, None, builds[0], builds[1]])
        for process in builds:
            if process is spared:
                continue
            with suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0, LONGEST_S))
            # Whoever follows a command that was killed gets its status, as if it had failed.
            ways = ["builder", "all"] if spared else ["builder", "helpers", "all"]
            way = chance.choice(ways)
            kills[f"{way}, which had ended" if process.returncode is not None else way] += 1
            kill(process, way)
        for process in builds:
            _, complaint = process.communicate(timeout=LIMIT_S)
            if process is spared:
                assert process.returncode == 0, (number, complaint)
        again = obuilder("build", "-f", str(obuilder.directory / "spec0"), str(obuilder.source))
        assert again.returncode == 0, (number, again.stderr)
        checked = obuilder("fsck")
        assert checked.returncode == 0, (number, checked.stdout)
        anyio.run(check_results, kind, store)
    assert os.listdir(store / "cache-tmp") == []
    told = ", ".join(f"{count} of {what}" for what, count in sorted(kills.items()))
    sys.stdout.write(f"{kind}: {ROUNDS} rounds, seed {seed}, {kills.total()} kills: {told}\n")
