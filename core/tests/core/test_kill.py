"""kill -9 in the middle of a step: the next builder removes what is left and builds."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from support.builds import Events, Parts, stage
from support.containers import child_that_says, processes_in
from support.runc_builds import open_runc

from obuilder._core.build import BuildResult

pytestmark = pytest.mark.anyio

# It goes on when somebody puts a file into its root.
SPEC = """((from busybox) (shell /bin/sh -c) (run (shell "echo first"))
  (run (cache (c (target /c))) (secrets (s (target /s)))
    (shell "echo begun; touch /half /c/used; until test -e /go; do usleep 9000; done; echo ended")))
"""
SECRET = b"hush-hush"
LIMIT_S = 60

CHILD = """
import sys
from pathlib import Path

import anyio

sys.path.insert(0, sys.argv[4])
from support.builds import BusyboxFetcher, open_parts, stage
from obuilder._core.build import BuildContext
from obuilder.events import Output
from obuilder_sandbox_runc import RuncSandbox

def tell(event):
    if isinstance(event, Output):
        print(event.data.decode(), end="", flush=True)

async def main(store, spec):
    async with RuncSandbox.open(Path(store, "state/sandbox/runc"), RuncSandbox.Config()) as sandbox:
        async with open_parts(Path(store), sandbox=sandbox, fetcher=BusyboxFetcher()) as parts:
            context = BuildContext(secrets={"s": b"hush-hush"}, on_event=tell)
            await parts.builder.build(stage(spec), context)

anyio.run(main, sys.argv[1], sys.argv[2], backend=sys.argv[3])
"""


@asynccontextmanager
async def building_child(store: Path, backend: str) -> AsyncIterator[anyio.abc.Process]:
    """Another process whose step has begun."""
    containers = store / "state" / "sandbox" / "runc"
    args = (str(store), SPEC, backend)
    async with child_that_says(b"begun", CHILD, *args, containers=containers) as child:
        yield child


async def build_to_the_end(parts: Parts) -> tuple[BuildResult, Events]:
    """Build, and let the step that waits go on."""
    seen = Events()
    results: list[BuildResult] = []

    async def client() -> None:
        results.append(await parts.builder.build(stage(SPEC), seen.context(s=SECRET)))

    with anyio.fail_after(LIMIT_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client)
            await seen.wait_for(b"begun")
            (running,) = (parts.store.root / "result-tmp").iterdir()
            (running / "rootfs" / "go").touch()
    return results[0], seen


def secrets_below(store: Path) -> list[Path]:
    files = (path for path in store.rglob("*") if path.is_file())
    return [path for path in files if SECRET in path.read_bytes()]


async def test_after_a_kill_the_next_builder_removes_all_and_builds(
    tmp_path: Path, anyio_backend_name: str
) -> None:
    store = tmp_path / "store"
    async with building_child(store, anyio_backend_name) as child:
        assert len(os.listdir(store / "result-tmp")) == 1
        os.kill(child.pid, signal.SIGKILL)
        await child.wait()
        async with open_runc(store) as parts:
            # Recovered by now; what the kernel does with a killed process takes its own time.
            for place in ("result-tmp", "cache-tmp", "state/locks", "state/sandbox/runc/bundles"):
                assert os.listdir(store / place) == []
            assert await parts.sandbox.leftovers() == []
            assert processes_in(store / "result-tmp") == []
            assert secrets_below(store) == []
            result, seen = await build_to_the_end(parts)
            assert [cached for _, cached in seen.steps] == [True, True, False]
            assert seen.output == b"first\nbegun\nended\n"
            assert (result.path / "rootfs" / "half").exists()
    assert os.listdir(store / "state" / "db") == ["db.sqlite"]


async def test_who_follows_one_that_is_killed_follows_the_next_who_makes_the_step(
    tmp_path: Path, anyio_backend_name: str
) -> None:
    store = tmp_path / "store"
    clients = Events(), Events()
    async with (
        building_child(store, anyio_backend_name) as child,
        open_runc(store) as one,
        open_runc(store) as two,
    ):
        with anyio.fail_after(LIMIT_S):
            async with anyio.create_task_group() as tasks:
                for parts, seen in zip((one, two), clients, strict=True):
                    tasks.start_soon(parts.builder.build, stage(SPEC), seen.context(s=SECRET))
                    await seen.wait_for(b"begun")
                os.kill(child.pid, signal.SIGKILL)
                await child.wait()
                for seen in clients:
                    await seen.wait_for(b"begun\nbegun\n")  # while it runs
                (running,) = (store / "result-tmp").iterdir()
                (running / "rootfs" / "go").touch()
    assert [seen.output for seen in clients] == [b"first\nbegun\nbegun\nended\n"] * 2
    assert sorted(seen.notes[-1] for seen in clients) == [
        "the process that made this step did not finish it; another makes it again",
        "the process that made this step did not finish it; it is made again",
    ]


async def test_a_live_builder_in_another_process_is_not_disturbed(
    tmp_path: Path, anyio_backend_name: str
) -> None:
    store = tmp_path / "store"
    async with building_child(store, anyio_backend_name) as child:
        async with open_runc(store) as parts:
            assert len(os.listdir(store / "result-tmp")) == 1
            assert len(await parts.sandbox.leftovers()) == 1
            assert await parts.builder.clean() == 0
        (running,) = (store / "result-tmp").iterdir()
        (running / "rootfs" / "go").touch()
        with anyio.fail_after(LIMIT_S):
            assert await child.wait() == 0
    assert len(os.listdir(store / "result")) == 3


async def test_a_second_builder_waits_and_takes_over_when_the_first_is_killed(
    tmp_path: Path, anyio_backend_name: str
) -> None:
    store = tmp_path / "store"
    async with building_child(store, anyio_backend_name) as child, open_runc(store) as parts:
        seen = Events()
        results: list[BuildResult] = []

        async def client() -> None:
            context = seen.context(s=SECRET)
            results.append(await parts.builder.build(stage(SPEC), context))

        with anyio.fail_after(LIMIT_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client)
                # Of the first, whose log is followed; and then of this one's own.
                await seen.wait_for(b"begun\n")
                os.kill(child.pid, signal.SIGKILL)
                await seen.wait_for(b"begun\nbegun\n")
                (running,) = (store / "result-tmp").iterdir()
                (running / "rootfs" / "go").touch()
        assert results[0].path.exists()
        assert await parts.sandbox.leftovers() == []
        assert processes_in(store / "result-tmp") == []
