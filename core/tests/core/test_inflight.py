"""One execution per id: shared, failed for all, cancelled by the last, restarted by a newcomer."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup
from support.builds import descriptors

from obuilder._core.build_log import StepLog
from obuilder._core.inflight import Followers, Inflight, Outcome
from obuilder._core.pieces import Piece
from obuilder.errors import BuildError, StoreError
from obuilder.types import Id

pytestmark = pytest.mark.anyio

ID = Id("id")


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

    async def sink(self, piece: Piece) -> None:
        self.seen.append(piece)
        if self.waiting_for in self.output:
            self.got.set()

    @property
    def output(self) -> bytes:
        return b"".join(piece for piece in self.seen if isinstance(piece, bytes))

    async def run(self, call: "Callable[[Client], Awaitable[Outcome]]") -> None:
        try:
            with self.scope:
                self.outcome = await call(self)
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
            with anyio.CancelScope(shield=True):
                await self.clean_up.wait()
            self.ended.append("cancelled")
            raise
        finally:
            log.close()

    def client(self, *, waiting_for: bytes = b"begun") -> Client:
        client = Client(waiting_for=waiting_for)

        async def share(client: Client) -> Outcome:
            return await self.inflight.share(ID, self.work, client.sink)

        self.tasks.start_soon(client.run, share)
        return client


OpenBench = Callable[[], AbstractAsyncContextManager[Bench]]


@pytest.fixture
def open_bench(tmp_path: Path) -> OpenBench:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Bench]:
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                bench = Bench(inflight=Inflight(tasks), tasks=tasks, directory=tmp_path)
                yield bench
                bench.clean_up.set()

    return opened


async def test_two_clients_share_one_execution(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        first = bench.client()
        await bench.started[0].wait()
        second = bench.client()
        await second.got.wait()  # what was said before it came
        bench.go_on.set()
        await first.left.wait()
        await second.left.wait()
    assert bench.runs == 1
    assert first.outcome == second.outcome == Outcome(path=bench.directory, cached=False)
    assert first.output == second.output == b"begun ended"
    assert not bench.inflight.is_running(ID)


async def test_an_error_reaches_both(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        bench.failure = BuildError("no")
        clients = [bench.client(), bench.client()]
        for client in clients:
            await client.got.wait()
        bench.go_on.set()
        for client in clients:
            await client.left.wait()
    assert bench.runs == 1
    assert [client.error for client in clients] == [bench.failure] * 2
    assert [client.output for client in clients] == [b"begun ended"] * 2


async def test_a_bug_in_a_step_is_the_clients_error_and_not_the_builders(
    open_bench: OpenBench,
) -> None:
    async with open_bench() as bench:
        bench.failure = ZeroDivisionError()
        client = bench.client()
        bench.go_on.set()
        await client.left.wait()
        assert client.error is bench.failure
        bench.failure = None
        again = bench.client()
        await again.left.wait()
        assert again.outcome
    assert bench.runs == 2


async def test_one_of_two_that_cancels_leaves_the_step_to_the_other(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        first, second = bench.client(), bench.client()
        await first.got.wait()
        await second.got.wait()
        first.scope.cancel()
        await first.left.wait()
        assert bench.ended == []
        bench.go_on.set()
        await second.left.wait()
    assert (first.outcome, first.error) == (None, None)
    assert second.outcome
    assert bench.ended == ["done"]


async def test_the_last_follower_leaving_cancels_the_step(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        first, second = bench.client(), bench.client()
        await first.got.wait()
        await second.got.wait()
        first.scope.cancel()
        second.scope.cancel()
        await bench.in_cleanup.wait()
        await second.left.wait()
        assert bench.inflight.is_running(ID)
    assert bench.ended == ["cancelled"]
    assert not bench.inflight.is_running(ID)


async def test_a_newcomer_waits_for_the_cancelled_step_and_starts_it_again(
    open_bench: OpenBench,
) -> None:
    async with open_bench() as bench:
        first = bench.client()
        await first.got.wait()
        first.scope.cancel()
        await bench.in_cleanup.wait()
        newcomers = [bench.client(), bench.client()]
        await anyio.lowlevel.checkpoint()
        assert bench.runs == 1
        bench.clean_up.set()
        await bench.started[1].wait()
        assert bench.ended == ["cancelled"]
        bench.go_on.set()
        for newcomer in newcomers:
            await newcomer.left.wait()
    assert bench.runs == 2
    assert [newcomer.output for newcomer in newcomers] == [b"begun ended"] * 2
    assert bench.ended == ["cancelled", "done"]


async def test_a_newcomer_that_gives_up_waiting_starts_nothing(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        first = bench.client()
        await first.got.wait()
        first.scope.cancel()
        await bench.in_cleanup.wait()
        newcomer = bench.client()
        await anyio.lowlevel.checkpoint()
        newcomer.scope.cancel()
        await newcomer.left.wait()
    assert bench.runs == 1


async def test_who_attaches_just_as_the_step_fails_gets_log_and_error(
    open_bench: OpenBench,
) -> None:
    async with open_bench() as bench:
        attached: list[Client] = []
        failure = BuildError("no")

        async def work(followers: Followers) -> Outcome:
            log = StepLog(bench.directory / "log")
            followers.publish(log)
            await log.output(b"all")
            log.close()
            # The file's descriptor is free now, and so for anybody.
            attached.append(bench.client(waiting_for=b"all"))
            with (bench.directory / "other").open("w+b") as other:
                other.write(b"not the log")
                other.flush()
                await attached[0].got.wait()
            raise failure

        first = Client()

        async def share(client: Client) -> Outcome:
            return await bench.inflight.share(ID, work, client.sink)

        bench.tasks.start_soon(first.run, share)
        await first.left.wait()
        await attached[0].left.wait()
        # And who comes a moment later starts it again.
        bench.go_on.set()
        later = bench.client()
        await later.left.wait()
    assert [first.error, attached[0].error] == [failure, failure]
    assert [first.output, attached[0].output] == [b"all", b"all"]
    assert later.outcome


async def test_a_step_that_has_no_log_is_shared_too(open_bench: OpenBench) -> None:
    async with open_bench() as bench:

        async def work(followers: Followers) -> Outcome:
            await bench.go_on.wait()
            return Outcome(path=bench.directory, cached=True)

        async def share(client: Client) -> Outcome:
            return await bench.inflight.share(ID, work, client.sink)

        clients = [Client(), Client()]
        for client in clients:
            bench.tasks.start_soon(client.run, share)
        await anyio.lowlevel.checkpoint()
        bench.go_on.set()
        for client in clients:
            await client.left.wait()
    assert [client.outcome for client in clients] == [
        Outcome(path=bench.directory, cached=True)
    ] * 2
    assert [client.seen for client in clients] == [[], []]


async def test_a_client_whose_sink_fails_leaves_alone(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        other = bench.client()
        await other.got.wait()

        async def fail(piece: Piece) -> None:
            raise ZeroDivisionError

        broken = Client()

        async def share(client: Client) -> Outcome:
            return await bench.inflight.share(ID, bench.work, fail)

        bench.tasks.start_soon(broken.run, share)
        await broken.left.wait()
        assert isinstance(broken.error, ZeroDivisionError)
        bench.go_on.set()
        await other.left.wait()
    assert other.outcome
    assert bench.runs == 1


async def test_ending_all_steps_is_an_error_to_their_clients(open_bench: OpenBench) -> None:
    async with open_bench() as bench, anyio.create_task_group() as steps:
        inflight = Inflight(steps)
        client = Client(waiting_for=b"begun")

        async def share(client: Client) -> Outcome:
            return await inflight.share(ID, bench.work, client.sink)

        bench.tasks.start_soon(client.run, share)
        await client.got.wait()
        steps.cancel_scope.cancel()
        bench.clean_up.set()
        await client.left.wait()
        assert isinstance(client.error, BuildError)
        assert client.error.code == "build.cancelled"


async def test_a_step_that_has_ended_holds_no_descriptor(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        before = descriptors()
        first, second = bench.client(), bench.client()
        await second.got.wait()
        assert len(descriptors()) == len(before) + 2
        first.scope.cancel()
        bench.go_on.set()
        await second.left.wait()
        assert descriptors() == before
