"""One execution per id: shared, failed for all, cancelled by the last, restarted by a newcomer."""

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from support.builds import descriptors
from support.inflight import ID, Client, open_bench

from obuilder import locks
from obuilder._core.build_log import StepLog
from obuilder._core.inflight import Followers, Inflight, Outcome
from obuilder._core.pieces import Piece, Sink, Wait
from obuilder.errors import BuildError

pytestmark = pytest.mark.anyio


async def test_two_clients_share_one_execution(tmp_path: Path) -> None:
    async with open_bench(tmp_path) as bench:
        first = bench.client()
        await first.got.wait()
        second = bench.client()
        await second.got.wait()  # what was said before it came
        # Both have it while the step is held: it has been told live.
        assert first.output == second.output == b"begun"
        bench.go_on.set()
        await first.left.wait()
        await second.left.wait()
    assert bench.runs == 1
    assert first.outcome == second.outcome == Outcome(path=bench.directory, cached=False)
    assert first.output == second.output == b"begun ended"
    assert not bench.inflight.is_running(ID)


async def test_an_error_reaches_both(tmp_path: Path) -> None:
    async with open_bench(tmp_path) as bench:
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
    tmp_path: Path,
) -> None:
    async with open_bench(tmp_path) as bench:
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


async def test_one_of_two_that_cancels_leaves_the_step_to_the_other(tmp_path: Path) -> None:
    async with open_bench(tmp_path) as bench:
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


async def test_the_last_follower_leaving_cancels_the_step_and_leaves_with_it(
    tmp_path: Path,
) -> None:
    async with open_bench(tmp_path) as bench:
        first, second = bench.client(), bench.client()
        await first.got.wait()
        await second.got.wait()
        first.scope.cancel()
        await first.left.wait()
        second.scope.cancel()
        await bench.in_cleanup.wait()
        await anyio.wait_all_tasks_blocked()
        assert not second.left.is_set()
        assert bench.inflight.is_running(ID)
        bench.clean_up.set()
        await second.left.wait()
        assert bench.ended == ["cancelled"]
        assert not bench.inflight.is_running(ID)
    assert (second.outcome, second.error) == (None, None)
    assert second.scope.cancelled_caught


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncios_own_cancellation_of_the_last_is_delivered_no_sooner(
    tmp_path: Path,
) -> None:
    async with open_bench(tmp_path) as bench:
        client = Client(waiting_for=b"begun")
        task = asyncio.create_task(bench.inflight.share(ID, bench.work, client.sink))
        await client.got.wait()
        task.cancel()
        await bench.in_cleanup.wait()
        await anyio.wait_all_tasks_blocked()
        assert not task.done()
        bench.clean_up.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert bench.ended == ["cancelled"]


async def test_a_newcomer_is_told_once_that_it_waits_for_the_clean_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "TELL_AFTER_S", 0.01)
    begun = datetime.now(UTC)
    async with open_bench(tmp_path) as bench:
        first = bench.client()
        await first.got.wait()
        first.scope.cancel()
        await bench.in_cleanup.wait()
        newcomer = bench.client(waiting_for=b"")
        await newcomer.got.wait()
        (wait,) = newcomer.seen
        assert isinstance(wait, Wait)
        assert wait.what == f"the clean-up of cancelled {ID}"
        assert wait.holder.pid == os.getpid()
        assert begun <= wait.holder.since <= datetime.now(UTC)
        bench.clean_up.set()
        bench.go_on.set()
        await newcomer.left.wait()
    assert newcomer.output == b"begun ended"
    assert sum(isinstance(piece, Wait) for piece in newcomer.seen) == 1


async def test_a_newcomer_waits_for_the_cancelled_step_and_starts_it_again(
    tmp_path: Path,
) -> None:
    async with open_bench(tmp_path) as bench:
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


async def test_a_newcomer_that_gives_up_waiting_starts_nothing(tmp_path: Path) -> None:
    async with open_bench(tmp_path) as bench:
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
    tmp_path: Path,
) -> None:
    async with open_bench(tmp_path) as bench:
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

        first = bench.client(work=work)
        await first.left.wait()
        await attached[0].left.wait()
        # And who comes a moment later starts it again.
        bench.go_on.set()
        later = bench.client()
        await later.left.wait()
    assert [first.error, attached[0].error] == [failure, failure]
    assert [first.output, attached[0].output] == [b"all", b"all"]
    assert later.outcome


async def test_who_leaves_a_failed_step_does_not_touch_its_replacement(tmp_path: Path) -> None:
    async with open_bench(tmp_path) as bench:
        bench.failure = BuildError("no")
        # It reads so slowly that the step has failed, and begun anew, before it knows.
        slow = Client(waiting_for=b"begun", may_read_on=anyio.Event())
        bench.start(slow)
        await slow.got.wait()
        bench.go_on.set()
        await bench.over[0].wait()
        bench.go_on, bench.failure = anyio.Event(), None
        second = bench.client()
        await second.got.wait()
        assert bench.runs == 2
        slow.scope.cancel()
        await slow.left.wait()
        third = bench.client()
        await third.got.wait()
        assert bench.inflight.is_running(ID)
        bench.go_on.set()
        await second.left.wait()
        await third.left.wait()
    assert (slow.outcome, slow.error) == (None, None)
    assert second.outcome is third.outcome is not None
    assert second.output == third.output == b"begun ended"
    assert bench.runs == 2
    assert bench.ended == ["done"]


async def test_a_newcomer_that_gives_up_does_not_keep_the_next_from_starting_it(
    tmp_path: Path,
) -> None:
    async with open_bench(tmp_path) as bench:
        first = bench.client()
        await first.got.wait()
        first.scope.cancel()
        await bench.in_cleanup.wait()
        leaving, staying = bench.client(), bench.client()
        await anyio.lowlevel.checkpoint()
        leaving.scope.cancel()
        await leaving.left.wait()
        bench.clean_up.set()
        await staying.got.wait()
        bench.go_on.set()
        await staying.left.wait()
    assert staying.outcome
    assert bench.ended == ["cancelled", "done"]


async def test_a_step_that_has_no_log_is_shared_too(tmp_path: Path) -> None:
    async with open_bench(tmp_path) as bench:

        async def work(followers: Followers) -> Outcome:
            await bench.go_on.wait()
            return Outcome(path=bench.directory, cached=True)

        clients = [bench.client(work=work), bench.client(work=work)]
        await anyio.lowlevel.checkpoint()
        bench.go_on.set()
        for client in clients:
            await client.left.wait()
    assert [client.outcome for client in clients] == [
        Outcome(path=bench.directory, cached=True)
    ] * 2
    assert [client.seen for client in clients] == [[], []]


async def test_a_client_whose_sink_fails_leaves_alone(tmp_path: Path) -> None:
    async with open_bench(tmp_path) as bench:
        other = bench.client()
        await other.got.wait()

        async def fail(piece: Piece) -> None:
            raise ZeroDivisionError

        async def share(_: Sink) -> Outcome:
            return await bench.inflight.share(ID, bench.work, fail)

        broken = Client()
        bench.tasks.start_soon(broken.run, share)
        await broken.left.wait()
        assert isinstance(broken.error, ZeroDivisionError)
        bench.go_on.set()
        await other.left.wait()
    assert other.outcome
    assert bench.runs == 1


async def test_ending_all_steps_is_an_error_to_their_clients(tmp_path: Path) -> None:
    async with open_bench(tmp_path) as bench, anyio.create_task_group() as steps:
        bench.inflight = Inflight(steps)
        client = bench.client()
        await client.got.wait()
        steps.cancel_scope.cancel()
        bench.clean_up.set()
        await client.left.wait()
        assert isinstance(client.error, BuildError)
        assert client.error.code == "build.cancelled"


async def test_nothing_begins_once_the_tasks_have_ended(tmp_path: Path) -> None:
    async with open_bench(tmp_path) as bench:
        bench.go_on.set()
    for _ in range(2):  # the first leaves nothing that the second would wait for
        client = Client()
        with anyio.fail_after(60), pytest.raises(BuildError) as caught:
            await bench.inflight.share(ID, bench.work, client.sink)
        assert caught.value.code == "build.closed"
    assert not bench.inflight.is_running(ID)


async def test_a_step_that_has_ended_holds_no_descriptor(tmp_path: Path) -> None:
    async with open_bench(tmp_path) as bench:
        before = descriptors()
        first, second = bench.client(), bench.client()
        await second.got.wait()
        assert len(descriptors()) == len(before) + 2
        first.scope.cancel()
        bench.go_on.set()
        await second.left.wait()
        assert descriptors() == before
