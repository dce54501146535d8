"""Many builds at once, in one process and in several, while results are pruned: none fails.

OBUILDER_STRESS says how many builds, OBUILDER_STRESS_RUNC how many whose steps really run.
"""

import os
import sys
import threading
from pathlib import Path

import anyio
import pytest
from support.builds import descriptors
from support.stress import builds, found_wrong, opened, pruning

from obuilder.process import call

__all__ = ["LIMIT", "in_one_process", "in_several_processes"]

BUILDS = {
    "inside": int(os.environ.get("OBUILDER_STRESS", "24")),
    "runc": int(os.environ.get("OBUILDER_STRESS_RUNC", "8")),
}
LIMIT = pytest.mark.timeout(120 + 8 * max(BUILDS.values()))
PROCESSES = 4
HERE = Path(__file__).parent.parent


def held() -> list[str]:
    """The open descriptors, but for those of the trees that overlayfs keeps ready: 16 at most."""
    every = descriptors()
    rest = [each for each in every if "/state/views/" not in each]
    assert len(every) - len(rest) <= 16
    return rest


async def in_one_process(kind: str, sandbox: str, store: Path) -> None:
    """Builds of one process share, and leak nothing."""
    async with opened(kind, sandbox, store) as parts:
        await builds(parts, seed=0, count=3)  # what is made once and kept
        before, threads = held(), threading.active_count()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pruning, parts)
            wrong = await builds(parts, seed=1, count=BUILDS[sandbox])
            tasks.cancel_scope.cancel()
        assert wrong == []
        assert len(held()) <= len(before)
        assert threading.active_count() <= threads + 40  # anyio's own pool of workers
        assert await found_wrong(parts) == []


async def in_several_processes(kind: str, sandbox: str, store: Path) -> None:
    """Builds of several processes share, and nothing is wrong."""
    statuses: list[int] = []

    async def process(seed: int) -> None:
        argv = [sys.executable, "-m", "support.stress", kind, sandbox, str(store), str(seed)]
        environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
        count = str(BUILDS[sandbox] // PROCESSES)
        statuses.append(await call([*argv, count], stdout=2, stderr=2, env=environment, cwd=HERE))

    async with opened(kind, sandbox, store) as parts, anyio.create_task_group() as tasks:
        tasks.start_soon(pruning, parts)
        async with anyio.create_task_group() as running:
            for seed in range(PROCESSES):
                running.start_soon(process, seed)
        tasks.cancel_scope.cancel()
    assert statuses == [0] * PROCESSES
    async with opened(kind, sandbox, store) as parts:
        assert await found_wrong(parts) == []
