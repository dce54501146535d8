"""A fetch that is cancelled leaves no container and no process, at whatever moment."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from anyio.abc import ByteStream
from support.docker_engine import DockerEngine
from support.docker_fetch import Fetch, running

from obuilder.errors import FetchError
from obuilder.process import call
from obuilder_fetcher_docker import fetcher

pytestmark = pytest.mark.anyio

Wrapper = Callable[[str], str]
LIMIT_S = 60.0


async def cancelled(fetch: Fetch, base: str, *, when: Callable[[], object]) -> None:
    """Start a fetch, cancel it when the awaitable that `when` gives is done, wait for its end."""
    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fetch, base)
            await when()  # type: ignore[misc] # an awaitable of any kind
            tasks.cancel_scope.cancel()


async def test_cancelling_a_pull_ends_it(engine: DockerEngine, fetch: Fetch) -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    asked = anyio.Event()

    async def never_answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            asked.set()
            await anyio.sleep_forever()

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, never_answer)
        await cancelled(fetch, f"localhost:{port}/slow", when=asked.wait)
        tasks.cancel_scope.cancel()
    assert running(f"DOCKER_HOST={engine.host}", str(fetch.rootfs)) == []
    assert engine.containers() == []


@pytest.mark.parametrize(
    ("command", "script"),
    [
        pytest.param("create", 'echo >"$fifo"; exec "$docker" "$@"', id="before-create"),
        pytest.param("create", '"$docker" "$@"; echo >"$fifo"', id="after-create"),
        pytest.param("export", 'echo >"$fifo"; exec "$docker" "$@"', id="before-export"),
        pytest.param(
            "export", '"$docker" "$@"; echo >"$fifo"; read -r never <"$fifo.never"', id="in-export"
        ),
    ],
)
async def test_cancelling_leaves_no_container(
    engine: DockerEngine, fetch: Fetch, *, wrapper: Wrapper, command: str, script: str
) -> None:
    fifo = fetch.directory / "fifo"
    os.mkfifo(fifo)
    os.mkfifo(f"{fifo}.never")
    fetch.docker = wrapper(
        f'fifo={fifo}\nif [ "$1" = {command} ]; then {script}; else exec "$docker" "$@"; fi'
    )
    reached = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        await cancelled(fetch, "busybox", when=lambda: anyio.wait_readable(reached))
    finally:
        os.close(reached)
    assert running(f"DOCKER_HOST={engine.host}", str(fetch.rootfs)) == []
    assert engine.containers() == []


class SlowCreation:
    """Stands before an engine; passes on a request to create only some time later.

    That is as soon as a container was removed, whoever asked, else after HELD_S.
    """

    HELD_S = 0.5

    def __init__(self, engine: str) -> None:
        self._engine = engine.removeprefix("unix://")
        self.asked = anyio.Event()
        self.created = anyio.Event()
        self._removed = anyio.Event()

    async def serve(self, client: ByteStream) -> None:
        asked = b""
        async with (
            client,
            await anyio.connect_unix(self._engine) as engine,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(self._answers, engine, client)
            async for data in client:
                asked += data
                if b"/containers/create" in data:
                    self.asked.set()
                    with anyio.move_on_after(self.HELD_S):
                        await self._removed.wait()
                await engine.send(data)
            await engine.send_eof()
        if b"DELETE " in asked:
            self._removed.set()
        if b"/containers/create" in asked:
            self.created.set()

    async def _answers(self, engine: ByteStream, client: ByteStream) -> None:
        with suppress(anyio.BrokenResourceError):  # the client has gone
            async for data in engine:
                await client.send(data)


async def test_a_creation_that_the_engine_has_not_ended_is_waited_for(
    engine: DockerEngine, fetch: Fetch
) -> None:
    slow = SlowCreation(engine.host)
    path = fetch.directory / "slow.sock"
    fetch.host = f"unix://{path}"
    listener = await anyio.create_unix_listener(path)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, slow.serve)
        await cancelled(fetch, "busybox", when=slow.asked.wait)
        with anyio.fail_after(LIMIT_S):
            await slow.created.wait()
        tasks.cancel_scope.cancel()
    assert engine.containers() == []


KILLED = """
import anyio, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from support.docker_fetch import Fetch
fetch = Fetch(Path(sys.argv[1]), host=sys.argv[2])
fetch.docker = sys.argv[4]
anyio.run(fetch, "busybox")
"""


async def test_the_container_of_a_killed_builder_goes_with_the_next_fetch(
    engine: DockerEngine, fetch: Fetch, wrapper: Wrapper, tmp_path: Path
) -> None:
    # The builder dies once the container is there, as by `kill -9`.
    docker = wrapper(
        'if [ "$1" = export ]; then kill -9 "$PPID"; exec sleep 1000; else exec "$docker" "$@"; fi'
    )
    (tmp_path / "killed" / "config").mkdir(parents=True)
    tests = str(Path(__file__).parents[3] / "tests")
    argv = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), engine.host, tests, docker]
    path = {"PATH": os.environ["PATH"], "DOCKER_CONFIG": str(tmp_path / "config")}
    assert await call(argv, env=path, stderr=2) == -signal.SIGKILL
    assert len(engine.containers()) == 1
    # One of a maker of whom nothing is known here is let alone.
    other = "obuilder-fetch-other"
    label = "obuilder.fetch=elsewhere x 1 1"
    engine.docker("create", "--label", label, "--name", other, "busybox", "/none")
    try:
        await fetch("busybox")
        assert engine.docker("ps", "--all", "--format", "{{.Names}}").split() == [other]
    finally:
        engine.docker("rm", "--force", other)


async def test_who_is_cancelled_is_not_told_that_the_export_ended_early(
    engine: DockerEngine, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def late(archive: int, rootfs: Path) -> None:
        scope.cancel()
        # As if this process got no processor before the unpacker had seen the end.
        with anyio.CancelScope(shield=True):
            while await anyio.to_thread.run_sync(os.read, archive, 1 << 16):
                pass
        raise FetchError(f"the archive for {rootfs} is cut")

    monkeypatch.setattr(fetcher, "unpack", late)
    with anyio.fail_after(LIMIT_S), anyio.CancelScope() as scope:
        await fetch("busybox")
    assert scope.cancelled_caught
    assert engine.containers() == []
