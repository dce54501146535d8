"""A step's log: order, followers at any time, the pipe to its last byte, and what goes wrong."""

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from support.builds import descriptors
from support.filesystems import mounted_tmpfs

from obuilder import process
from obuilder._core.build_log import StepLog, read_chunks
from obuilder._core.pieces import Piece
from obuilder.errors import StoreError

pytestmark = pytest.mark.anyio

Pieces = list[Piece]


async def followed(log: StepLog) -> Pieces:
    """Everything, with neighbouring pieces of output joined."""
    out: Pieces = []
    async with aclosing(log.follow()) as pieces:
        async for piece in pieces:
            if isinstance(piece, bytes) and out and isinstance(out[-1], bytes):
                out[-1] += piece
            else:
                out.append(piece)
    return out


@pytest.fixture
def log(tmp_path: Path) -> Iterator[StepLog]:
    log = StepLog(tmp_path / "log")
    yield log
    log.dispose()


@asynccontextmanager
async def following(log: StepLog) -> AsyncIterator[Pieces]:
    """What a follower that starts now has got when the block is left and the log is closed."""
    out: Pieces = []

    async def follow() -> None:
        out.extend(await followed(log))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        await anyio.lowlevel.checkpoint()
        yield out


async def test_notes_and_output_keep_their_order_for_early_and_late_followers(
    log: StepLog, tmp_path: Path
) -> None:
    async with following(log) as early:
        await log.note("first")
        await log.output(b"one")
        await log.output(b"two")
        await log.note("second")
        await log.note("third")
        async with following(log) as late:
            await log.output(b"three")
            log.close()
    expected = ["first", b"onetwo", "second", "third", b"three"]
    assert early == late == await followed(log) == expected
    assert (tmp_path / "log").read_bytes() == b"onetwothree"


async def test_a_follower_sees_each_piece_as_it_comes(log: StepLog) -> None:
    async with aclosing(log.follow()) as pieces:
        for number in range(3):
            await log.output(b"%d" % number)
            assert await anext(pieces) == b"%d" % number
            await log.note(str(number))
            assert await anext(pieces) == str(number)
        log.close()
        with pytest.raises(StopAsyncIteration):
            await anext(pieces)


async def test_an_old_log_is_truncated(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("the base's log")
    log = StepLog(tmp_path / "log")
    await log.output(b"new")
    log.dispose()
    assert (tmp_path / "log").read_bytes() == b"new"


async def test_followers_go_on_when_the_result_is_published(tmp_path: Path) -> None:
    (tmp_path / "result-tmp").mkdir()
    log = StepLog(tmp_path / "result-tmp" / "log")
    await log.output(b"x" * 100_000)
    async with following(log) as early:
        log.close()
        (tmp_path / "result-tmp").rename(tmp_path / "result")
        # Who comes between the publication and the end still gets it whole.
        late = await followed(log)
    assert early == late == [b"x" * 100_000]
    log.dispose()


async def test_followers_of_a_detached_log_hold_nothing_open_where_it_lay(tmp_path: Path) -> None:
    place, elsewhere = tmp_path / "result-tmp", tmp_path / "state"
    place.mkdir()
    elsewhere.mkdir()
    log = StepLog(place / "log")
    await log.output(b"x" * 100_000)
    async with following(log) as early:
        log.close()
        log.detach(elsewhere)
        assert not [each for each in descriptors() if str(place) in each]
        shutil.rmtree(place)
        late = await followed(log)
    assert early == late == [b"x" * 100_000]
    assert os.listdir(elsewhere) == []
    log.dispose()
    log.detach(elsewhere)


async def test_a_closed_log_takes_no_more_and_touches_no_other_file(
    log: StepLog, tmp_path: Path
) -> None:
    log.close()
    log.close()
    # These get the numbers of descriptors that were closed.
    others = [os.open(tmp_path / f"other{number}", os.O_RDWR | os.O_CREAT) for number in range(4)]
    try:
        with pytest.raises(StoreError):
            await log.output(b"late")
        assert await followed(log) == []
        assert [os.fstat(other).st_size for other in others] == [0, 0, 0, 0]
    finally:
        for other in others:
            os.close(other)


async def test_the_pipe_is_drained_after_the_block(log: StepLog) -> None:
    async with log.pipe() as output:
        argv = ["sh", "-c", "printf out; printf err >&2; printf out2"]
        await process.call(argv, stdout=output, stderr=output)
    log.close()
    assert await followed(log) == [b"outerrout2"]


async def test_more_than_a_pipe_holds_goes_through(log: StepLog) -> None:
    async with log.pipe() as output:
        await process.call(["head", "-c", "3000000", "/dev/zero"], stdout=output)
    log.close()
    assert await followed(log) == [bytes(3_000_000)]


async def test_what_was_written_before_an_exception_is_kept_and_it_comes_alone(
    log: StepLog,
) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - what fails is the block of a pipe
        async with log.pipe() as output:
            os.write(output, b"before")
            raise ZeroDivisionError
    log.close()
    assert await followed(log) == [b"before"]


async def test_what_was_written_before_a_cancel_is_kept(log: StepLog) -> None:
    with anyio.CancelScope() as scope:
        async with log.pipe() as output:
            os.write(output, b"before")
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    log.close()
    assert await followed(log) == [b"before"]


async def test_a_command_that_floods_its_output_can_be_cancelled(log: StepLog) -> None:
    enough = anyio.Event()

    async def watch() -> None:
        seen = 0
        async with aclosing(log.follow()) as pieces:
            async for piece in pieces:
                assert isinstance(piece, bytes)
                seen += len(piece)
                if seen > 1_000_000:
                    enough.set()
                    return

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:

            async def flood() -> None:
                async with log.pipe() as output:
                    await process.call(["yes"], stdout=output)

            tasks.start_soon(flood)
            tasks.start_soon(watch)
            await enough.wait()
            tasks.cancel_scope.cancel()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    with mounted_tmpfs(tmp_path / "small", "size=64k") as mounted:
        yield mounted


async def test_a_full_disk_is_an_error_that_names_the_log(small_disk: Path) -> None:
    log = StepLog(small_disk / "log")
    try:
        with pytest.raises(StoreError, match="No space left") as caught:
            await log.output(bytes(100_000))
        assert caught.value.code == "store.log-write"
        assert str(small_disk / "log") in caught.value.what
        assert caught.value.hint
    finally:
        log.dispose()


async def test_a_command_on_a_full_disk_is_ended_and_the_error_is_the_disks(
    small_disk: Path,
) -> None:
    log = StepLog(small_disk / "log")
    try:
        with anyio.fail_after(60), pytest.raises(StoreError) as caught:
            async with log.pipe() as output:
                await process.call(["yes"], stdout=output)
        assert caught.value.code == "store.log-write"
        log.close()
        (kept,) = await followed(log)
        assert isinstance(kept, bytes)
        assert len(kept) == 65536
    finally:
        log.dispose()


async def test_a_log_that_cannot_be_made_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path / "no" / "log", tmp_path, tmp_path / "link"):
        before = descriptors()
        with pytest.raises(StoreError, match=str(path)):
            StepLog(path)
        assert descriptors() == before
    assert not (tmp_path / "elsewhere").exists()


async def test_no_descriptor_remains(tmp_path: Path) -> None:
    async def use() -> None:
        log = StepLog(tmp_path / "log")
        async with following(log):
            async with log.pipe() as output:
                os.write(output, b"x")
            log.close()
        with pytest.raises(ZeroDivisionError):
            async with log.pipe():
                raise ZeroDivisionError
        with anyio.move_on_after(0):
            async with log.pipe():
                await anyio.sleep_forever()
        log.dispose()
        log.dispose()

    await use()
    before = descriptors()
    await use()
    assert descriptors() == before


async def test_a_stored_log_is_read_whole_and_a_missing_one_is_empty(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(bytes(200_000))
    assert b"".join([data async for data in read_chunks(tmp_path / "log")]) == bytes(200_000)
    assert [data async for data in read_chunks(tmp_path / "none")] == []
    with pytest.raises(StoreError, match=str(tmp_path)):
        await anext(read_chunks(tmp_path))
