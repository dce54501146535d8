"""Measures what docs/durability.md reports: what one lock costs, and all of them in a step.

Everything is made in a temporary directory (TMPDIR), and removed. As root, for the store.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self
from unittest.mock import patch

import anyio

from obuilder import Builder
from obuilder._core.slots import Slots
from obuilder.interfaces import BuildLog, Fetcher, Sandbox
from obuilder.locks import Locks
from obuilder.spec import Spec, cache, run
from obuilder.types import BaseImage, FetchContext, Holder, RunConfig
from obuilder_store_rsync import RsyncStore

TURNS = 2000
STEPS = 20
ROUNDS = 5


class NoFetcher(Fetcher["NoFetcher.Config"]):
    """Bases that are empty."""

    API: ClassVar[int] = 1

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """No options."""

    @classmethod
    @asynccontextmanager
    async def open(cls, config: Config) -> AsyncIterator[Self]:  # noqa: ARG003 - has no options
        """See Fetcher.open."""
        yield cls()

    async def fetch(
        self,
        base: str,  # noqa: ARG002 - all are alike
        rootfs: Path,  # noqa: ARG002 - stays empty
        *,
        log: BuildLog,  # noqa: ARG002 - nothing to say
        scratch: Path,  # noqa: ARG002 - nothing to keep
        context: FetchContext,  # noqa: ARG002 - all are alike
    ) -> BaseImage:
        """See Fetcher.fetch."""
        return BaseImage(env=())


class NoSandbox(Sandbox["NoSandbox.Config"]):
    """Steps that do nothing."""

    API: ClassVar[int] = 1

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """No options."""

    default_shell = ("sh", "-c")

    @classmethod
    @asynccontextmanager
    async def open(cls, state_dir: Path, config: Config) -> AsyncIterator[Self]:  # noqa: ARG003 - keeps nothing
        """See Sandbox.open."""
        yield cls()

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        """See Sandbox.run."""


class Spent:
    """Seconds that the locks of this process took, and how many were taken."""

    def __init__(self) -> None:
        self.taken = 0
        self.seconds = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the block's seconds."""
        begun = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - begun

    @contextmanager
    def watching(self) -> Iterator[None]:
        """In the block all locks are counted, and timed but for what is done under them."""
        hold, try_hold, names = Locks.hold, Locks.try_hold, Locks.names

        @asynccontextmanager
        async def held(*args: Any, **options: Any) -> AsyncIterator[None]:
            lock = hold(*args, **options)
            with self.timed():
                await lock.__aenter__()
            self.taken += 1
            try:
                yield
            finally:
                with self.timed():
                    await lock.__aexit__(None, None, None)

        @contextmanager
        def tried(*args: Any, **options: Any) -> Iterator[bool]:
            lock = try_hold(*args, **options)
            with self.timed():
                free = lock.__enter__()
            self.taken += 1
            try:
                yield free
            finally:
                with self.timed():
                    lock.__exit__(None, None, None)

        def listed(locks: Locks) -> list[str]:
            with self.timed():
                return names(locks)

        with (
            patch.object(Locks, "hold", held),
            patch.object(Locks, "try_hold", tried),
            patch.object(Locks, "names", listed),
        ):
            yield


async def median_us(lock: Callable[[], AbstractAsyncContextManager[object]]) -> float:
    """Microseconds to take and release a lock that nobody else wants."""
    taken = []
    for _ in range(TURNS):
        begun = time.perf_counter()
        async with lock():
            pass
        taken.append((time.perf_counter() - begun) * 1e6)
    return statistics.median(taken)


async def untold(holder: Holder) -> None:
    """Nobody waits here."""
    del holder


async def measure_one(directory: Path) -> None:
    """The first lines: single locks."""
    locks = Locks(directory)
    slots = Slots(locks, 4)
    for name, lock in (
        ("a lock", lambda: locks.hold("it")),
        ("a shared lock", lambda: locks.hold("it", shared=True)),
        ("one of 4 slots (max-steps)", lambda: slots.hold(on_wait=untold)),
    ):
        sys.stdout.write(f"{name:45} {await median_us(lock):6.0f} µs\n")


async def measure_build(root: Path, *, with_cache: bool, max_steps: int | None) -> None:
    """A line: the locks of a build, for each step; the least of some rounds, as others run too."""
    caches = [cache("c", "/c")] if with_cache else []
    rounds = []
    async with (
        RsyncStore.open(str(root), RsyncStore.Config()) as store,
        Builder(store, NoSandbox(), NoFetcher(), max_steps=max_steps) as builder,
    ):
        await builder.build(Spec(from_="empty"))
        for number in range(ROUNDS):
            steps = [run(f"round {number} step {n}", cache=caches) for n in range(STEPS)]
            spent, begun = Spent(), time.perf_counter()
            with spent.watching():
                await builder.build(Spec(from_="empty", ops=steps))
            rounds.append((spent.seconds, spent.taken, time.perf_counter() - begun))
    seconds, taken, _ = min(rounds)
    whole_s = min(whole for _, _, whole in rounds)
    what = f"a step{', a cache' if with_cache else ''}{', max-steps' if max_steps else ''}"
    sys.stdout.write(
        f"{what:45} {seconds / STEPS * 1e6:6.0f} µs for {taken / STEPS:.1f} locks, "
        f"of {whole_s / STEPS * 1e3:.1f} ms with a sandbox that does nothing\n"
    )


async def main() -> None:
    """Print one line for each."""
    with tempfile.TemporaryDirectory(prefix="locks-") as name:
        directory = Path(name)
        await measure_one(directory / "locks")
        for with_cache in (False, True):
            for max_steps in (None, 4):
                root = directory / f"store-{with_cache}-{max_steps}"
                await measure_build(root, with_cache=with_cache, max_steps=max_steps)


if __name__ == "__main__":
    anyio.run(main)
