"""Steps that do what a test tells them, and clients that follow: for tests of sharing."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from obuilder._core.build_log import StepLog
from obuilder._core.inflight import Followers, Inflight, Outcome, Work
from obuilder._core.pieces import Piece, Sink
from obuilder.errors import BuildError, StoreError
from obuilder.types import Id

__all__ = ["ID", "Bench", "Client", "open_bench"]

ID = Id("id")
LIMIT_S = 30


@dataclass
class Client:
    """One follower in a task of its own."""

    seen: list[Piece] = field(default_factory=list)
    outcome: Outcome | None = None
    error: Exception | None = None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    left: anyio.Event = field(default_factory=anyio.Event)
    got: anyio.Event = field(default_factory=anyio.Event)
    waiting_for: bytes = b""
    may_read_on: anyio.Event | None = None

    async def sink(self, piece: Piece) -> None:
        self.seen.append(piece)
        if self.waiting_for in self.output:
            self.got.set()
        if self.may_read_on is not None:
            await self.may_read_on.wait()

    @property
    def output(self) -> bytes:
        return b"".join(piece for piece in self.seen if isinstance(piece, bytes))

    async def run(self, share: Callable[[Sink], Awaitable[Outcome]]) -> None:
        try:
            with self.scope:
                self.outcome = await share(self.sink)
        except (BuildError, StoreError, ZeroDivisionError) as error:
            self.error = error
        finally:
            self.left.set()


@dataclass
class Bench:
    """Steps that do what a test tells them, and the clients that follow."""

    inflight: Inflight
    tasks: TaskGroup
    directory: Path
    started: list[anyio.Event] = field(default_factory=lambda: [anyio.Event() for _ in range(5)])
    over: list[anyio.Event] = field(default_factory=lambda: [anyio.Event() for _ in range(5)])
    ended: list[str] = field(default_factory=list)
    go_on: anyio.Event = field(default_factory=anyio.Event)
    clean_up: anyio.Event = field(default_factory=anyio.Event)
    failure: Exception | None = None
    runs: int = 0
    in_cleanup: anyio.Event = field(default_factory=anyio.Event)

    async def work(self, followers: Followers) -> Outcome:
        run, self.runs = self.runs, self.runs + 1
        log = StepLog(self.directory / "log")
        followers.publish(log)
        try:
            await log.output(b"begun")
            self.started[run].set()
            await self.go_on.wait()
            await log.output(b" ended")
            if self.failure:
                raise self.failure
            self.ended.append("done")
            return Outcome(path=self.directory, cached=False)
        except anyio.get_cancelled_exc_class():
            self.in_cleanup.set()
            with anyio.move_on_after(LIMIT_S, shield=True):
                await self.clean_up.wait()
            self.ended.append("cancelled")
            raise
        finally:
            log.close()
            self.over[run].set()

    def client(self, *, waiting_for: bytes = b"begun", work: Work | None = None) -> Client:
        """A client of a step, by default one that does what this bench says."""
        client = Client(waiting_for=waiting_for)
        self.start(client, work=work)
        return client

    def start(self, client: Client, *, work: Work | None = None) -> None:
        """Let a client follow."""
        share = partial(self.inflight.share, ID, work or self.work)
        self.tasks.start_soon(client.run, share)


@asynccontextmanager
async def open_bench(directory: Path) -> AsyncIterator[Bench]:
    """A bench whose log lies in `directory`; a step that cleans up may end with the block."""
    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as tasks:
            bench = Bench(inflight=Inflight(tasks), tasks=tasks, directory=directory)
            yield bench
            bench.clean_up.set()
