"""Helper programs are started, fed, awaited and ended with all their children."""

import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from obuilder import process
from obuilder.errors import ProcessError, SandboxError
from obuilder.process import call, run

pytestmark = pytest.mark.anyio


@contextmanager
def watched(*pids: int) -> Iterator[Callable[[], Awaitable[None]]]:
    """Gives what waits until these processes have died, whoever is to reap them."""
    pidfds = [os.pidfd_open(pid) for pid in pids]

    async def died() -> None:
        with anyio.fail_after(10):
            for pidfd in pidfds:
                await anyio.wait_readable(pidfd)

    try:
        yield died
    finally:
        for pidfd in pidfds:
            os.close(pidfd)


def count_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def read_line(fifo: Path) -> str:
    """What the first program that opens the FIFO writes; waits for it without a thread."""
    with os.fdopen(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)) as reader, anyio.fail_after(20):
        await anyio.wait_readable(reader)
        return reader.readline()


async def test_output_is_returned_whole() -> None:
    code = "import sys; sys.stdout.write('o' * 10**6); sys.stderr.write('e' * 10**6)"
    done = await run([sys.executable, "-c", code])
    assert done.stdout == b"o" * 10**6
    assert done.stderr == b"e" * 10**6
    assert done.returncode == 0


async def test_input_is_fed_while_output_is_read() -> None:
    data = os.urandom(3 << 20)
    assert (await run(["cat"], stdin=data)).stdout == data


async def test_input_is_empty_unless_given() -> None:
    assert (await run(["cat"])).stdout == b""
    assert await call(["cat"]) == 0


async def test_a_program_that_does_not_read_its_input_is_no_error() -> None:
    assert (await run(["true"], stdin=b"x" * (1 << 20))).returncode == 0


async def test_input_can_be_a_descriptor(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from a file")
    with (tmp_path / "file").open("rb") as file:
        assert (await run(["cat"], stdin=file.fileno())).stdout == b"from a file"


async def test_a_failure_quotes_the_end_of_standard_error() -> None:
    with pytest.raises(ProcessError) as caught:
        await run(["sh", "-c", "seq 100000 >&2; echo the reason >&2; exit 7"], hint="do this")
    assert caught.value.returncode == 7
    assert caught.value.what.endswith("the reason")
    assert len(caught.value.what) < 3000
    assert caught.value.hint == "do this"


async def test_a_status_that_was_expected_is_no_failure() -> None:
    assert (await run(["sh", "-c", "exit 3"], ok=(0, 3))).returncode == 3


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (40, "40")])
async def test_a_signal_is_told_from_a_status(number: int, name: str) -> None:
    with pytest.raises(ProcessError, match=f"was ended by signal {name}") as caught:
        await run(["sh", "-c", f"kill -{number} $$"])
    assert caught.value.returncode == -number
    assert await call(["sh", "-c", f"kill -{number} $$"]) == -number


async def test_a_missing_program_is_told_from_a_failure() -> None:
    with pytest.raises(ProcessError) as caught:
        await run(["no-such-program"], hint="apt-get install it")
    assert caught.value.code == "process.not-found"
    assert caught.value.returncode is None


async def test_a_directory_that_is_missing_is_a_process_error(tmp_path: Path) -> None:
    with pytest.raises(ProcessError) as caught:
        await run(["true"], cwd=tmp_path / "missing")
    assert caught.value.code == "process.not-started"


async def test_the_environment_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "x")
    printed = (await run(["env"], env={"GIVEN": "y"})).stdout.decode()
    assert "SECRET_OF_THE_HOST" not in printed
    assert "GIVEN=y" in printed
    assert "LC_ALL=C.UTF-8" in printed


async def test_descriptors_are_passed_only_when_named() -> None:
    reader, writer = os.pipe()
    try:
        command = ["sh", "-c", f"test -e /proc/self/fd/{writer}"]
        assert (await run(command, pass_fds=[writer])).returncode == 0
        assert (await run(command, ok=(0, 1))).returncode == 1
    finally:
        os.close(reader)
        os.close(writer)


async def test_call_writes_to_the_descriptors_that_it_is_given(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        status = await call(["sh", "-c", "echo a; echo b >&2; exit 4"], stdout=out.fileno())
    assert status == 4
    assert (tmp_path / "out").read_text() == "a\n"


@pytest.mark.parametrize("ignores", ["", "trap '' TERM;"])
async def test_cancelling_ends_the_program_and_its_children(tmp_path: Path, ignores: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = f"{ignores} sleep 1000 & echo $$ $! > {fifo}; wait"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, ["sh", "-c", command])
        with watched(*map(int, (await read_line(fifo)).split())) as died:
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await died()


async def test_cancelling_ends_children_that_outlived_the_program(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with anyio.create_task_group() as tasks:
        # The child holds the output open, so the call waits although the shell has ended.
        tasks.start_soon(run, ["sh", "-c", f"sleep 1000 & echo $! > {fifo}"])
        with watched(int(await read_line(fifo))) as died:
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await died()


async def test_stop_replaces_the_first_signal(tmp_path: Path) -> None:
    fifo, said = tmp_path / "fifo", tmp_path / "said"
    os.mkfifo(fifo)
    command = f"trap 'echo by hand > {said}; exit' USR1; echo $$ > {fifo}; sleep 1000 & wait"
    pid = 0

    async def stop() -> None:
        os.kill(pid, signal.SIGUSR1)

    async def start() -> None:
        await call(["sh", "-c", command], stop=stop)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(start)
        pid = int(await read_line(fifo))
        tasks.cancel_scope.cancel()
    assert said.read_text() == "by hand\n"


async def test_a_stop_that_fails_is_followed_by_the_kill(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    pid = 0

    async def stop() -> None:
        os.kill(pid, signal.SIGKILL)
        raise SandboxError("the container is not there")

    async def start() -> None:
        await call(["sh", "-c", f"echo $$ > {fifo}; exec sleep 1000"], stop=stop)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(start)
        pid = int(await read_line(fifo))
        with watched(pid) as died:
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await died()


async def test_a_program_belongs_to_a_thread_that_lives_as_long_as_it() -> None:
    # The kernel kills it when the thread that started it ends: a pool thread would not do.
    code = (
        "import os; pid = os.getppid(); tids = os.listdir(f'/proc/{pid}/task')\n"
        "for tid in tids:\n"
        "    with open(f'/proc/{pid}/task/{tid}/children') as file:\n"
        "        if str(os.getpid()) in file.read().split(): print(tid)"
    )
    assert int((await run([sys.executable, "-c", code])).stdout) == os.getpid()


async def test_a_program_dies_with_its_starter(tmp_path: Path, anyio_backend_name: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    code = (
        "import anyio, sys; from obuilder.process import run\n"
        f"anyio.run(run, ['sh', '-c', 'echo $PPID $$ > {fifo}; exec sleep 1000'],"
        f" backend={anyio_backend_name!r})"
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, [sys.executable, "-c", code])
        starter, child = map(int, (await read_line(fifo)).split())
        with watched(child) as died:
            os.kill(starter, signal.SIGKILL)
            await died()


async def test_who_is_cancelled_is_not_told_how_a_program_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Late(subprocess.Popen[bytes]):
        """As if this process got no processor before the program had ended."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            scope.cancel()
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    monkeypatch.setattr(process, "Popen", Late)
    with anyio.CancelScope() as scope:
        status = await call(["false"])
        pytest.fail(f"it is told: {status}")
    assert scope.cancelled_caught


async def test_no_descriptor_is_left_open() -> None:
    await run(["true"])
    before = count_descriptors()
    await run(["cat"], stdin=b"x")
    with pytest.raises(ProcessError):
        await run(["false"])
    with anyio.move_on_after(0.01):
        await run(["sleep", "1000"])
    assert count_descriptors() == before


async def test_many_programs_run_at_once() -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(30):
            tasks.start_soon(run, ["echo", str(number)])
