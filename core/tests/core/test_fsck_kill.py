"""kill -9 in the middle of a step: the checker sees what is left, and nothing while it lives."""

import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from support.builds import BusyboxFetcher, Events, open_parts, stage
from support.containers import child_that_says

from obuilder import Checker, Report
from obuilder_sandbox_runc import RuncSandbox
from obuilder_store_rsync import RsyncStore

# The last is runc's own, which removes it after the command has begun.
_OF_A_CONTAINER = re.compile("/(result-tmp|cache-tmp|bundles)/[^/]+/|/exec[.]fifo$")

pytestmark = pytest.mark.anyio

# It goes on when somebody puts a file into its root.
SPEC = """((from busybox) (shell /bin/sh -c) (run (shell "echo first"))
  (run (cache (c (target /c)))
    (shell "echo begun; touch /c/used; until test -e /go; do usleep 9000; done; echo ended")))
"""
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

class Slow(BusyboxFetcher):
    async def fetch(self, base, rootfs, *, log, scratch, context):
        if base == "stuck":
            (scratch / "half").touch()
            print("fetching", flush=True)
            await anyio.sleep_forever()
        return await super().fetch(base, rootfs, log=log, scratch=scratch, context=context)

def tell(event):
    if isinstance(event, Output):
        print(event.data.decode(), end="", flush=True)

async def main(store, spec):
    async with RuncSandbox.open(Path(store, "state/sandboxes/runc"), RuncSandbox.Config()) as box:
        async with open_parts(Path(store), sandbox=box, fetcher=Slow()) as parts:
            await parts.builder.build(stage(spec), BuildContext(on_event=tell))

anyio.run(main, sys.argv[1], sys.argv[2], backend=sys.argv[3])
"""


@asynccontextmanager
async def building_child(
    root: Path, backend: str, *, spec: str = SPEC, until: bytes = b"begun"
) -> AsyncIterator[anyio.abc.Process]:
    """Another process in the middle of a step."""
    containers = root / "state/sandboxes/runc"
    args = (str(root), spec, backend)
    async with child_that_says(until, CHILD, *args, containers=containers) as child:
        yield child


@asynccontextmanager
async def open_runc(root: Path) -> AsyncIterator[RuncSandbox]:
    async with RuncSandbox.open(root / "state/sandboxes/runc", RuncSandbox.Config()) as sandbox:
        yield sandbox


async def check(root: Path, *, repair: bool = False) -> Report:
    async with (
        open_runc(root) as sandbox,
        RsyncStore.open(str(root), RsyncStore.Config()) as store,
    ):
        return await Checker(store, sandbox).check(repair=repair)


def codes(report: Report) -> set[str]:
    return {finding.code.value for finding in report.faults}


def names(root: Path) -> set[str]:
    """Of all files, but for those that a container that lives on may write, or runc remove."""
    return {str(path) for path in root.rglob("*") if not _OF_A_CONTAINER.search(str(path))}


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "state/db").iterdir()}


async def kill(child: anyio.abc.Process) -> None:
    os.kill(child.pid, signal.SIGKILL)
    with anyio.fail_after(LIMIT_S):
        await child.wait()


async def test_what_a_killed_builder_leaves_is_found_and_repaired(
    tmp_path: Path, anyio_backend_name: str
) -> None:
    root = tmp_path / "store"
    async with building_child(root, anyio_backend_name) as child:
        assert (await check(root, repair=True)).findings == ()
        await kill(child)
        before, database = names(root), contents(root)
        # The database's log is still there, and must be read without being emptied.
        assert len(database) == 3
        assert codes(await check(root)) == {
            "fsck.leftover-container",
            "fsck.leftover-result",
            "fsck.leftover-cache-copy",
            "fsck.stale-lock",
        }
        assert names(root) == before
        assert contents(root) == database
        assert (await check(root, repair=True)).faults == ()
    assert (await check(root)).findings == ()
    for place in ("result-tmp", "cache-tmp", "state/locks", "state/sandboxes/runc/bundles"):
        assert os.listdir(root / place) == []
    seen = Events()
    async with (
        open_runc(root) as sandbox,
        open_parts(root, sandbox=sandbox, fetcher=BusyboxFetcher()) as parts,
    ):
        short = '((from busybox) (shell /bin/sh -c) (run (shell "echo first")) (run (shell ls)))'
        await parts.builder.build(stage(short), seen.context())
    assert [cached for _, cached in seen.steps] == [True, True, False]
    assert (await check(root)).findings == ()


async def test_an_import_that_was_killed_leaves_scratch(
    tmp_path: Path, anyio_backend_name: str
) -> None:
    root = tmp_path / "store"
    async with building_child(
        root, anyio_backend_name, spec="((from stuck))", until=b"fetching"
    ) as child:
        assert (await check(root)).findings == ()
        await kill(child)
    assert codes(await check(root)) == {
        "fsck.scratch",
        "fsck.leftover-result",
        "fsck.stale-lock",
    }
    assert (await check(root, repair=True)).faults == ()
    assert os.listdir(root / "state/scratch") == []


async def test_nothing_is_found_while_builds_save_and_delete_results(
    tmp_path: Path, anyio_backend_name: str
) -> None:
    root = tmp_path / "store"
    reports = []
    async with (
        building_child(root, anyio_backend_name) as child,
        open_parts(root, fetcher=BusyboxFetcher()) as parts,
        anyio.create_task_group() as tasks,
    ):

        async def churn() -> None:
            for number in range(8):
                runs = " ".join(
                    f"(run (cache (c (target /c))) (shell {number}-{at}))" for at in "abc"
                )
                built = await parts.builder.build(stage(f"((from b) {runs})"))
                await parts.builder.delete(built.id)
            tasks.cancel_scope.cancel()

        tasks.start_soon(churn)
        while True:
            reports.append(await check(root))
            await anyio.lowlevel.checkpoint()
            if tasks.cancel_scope.cancel_called:
                break
    assert child.returncode is not None
    assert len(reports) > 3
    assert [report.findings for report in reports] == [()] * len(reports)
