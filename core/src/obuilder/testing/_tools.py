"""What the contract of stores works with: builds, other processes to be killed, a bench."""

import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from obuilder.interfaces import Store
from obuilder.locks import Locks
from obuilder.process import call
from obuilder.testing._trees import Trees
from obuilder.types import Id

__all__ = [
    "CONFIG_FROM_JSON",
    "LIMIT_S",
    "ODD_NAMES",
    "AnyStore",
    "Bench",
    "BodyFailed",
    "OpenStore",
    "children_running",
    "descriptors",
    "new_id",
]

AnyStore = Store[Any]
OpenStore = Callable[[], AbstractAsyncContextManager[AnyStore]]

LIMIT_S = 60.0

ODD_NAMES = ["..", ".", "a/b", "", "%", "c-", "x" * 200, "y" * 300, "caf\udce9", "new\nline", "é"]

# Makes a Config of its options as JSON, which has no tuples and no paths.
CONFIG_FROM_JSON = """
import json, typing
from pathlib import Path

def config_from_json(kind, text):
    hints = typing.get_type_hints(kind)

    def value(name, given):
        if isinstance(given, list):
            return tuple(given)
        is_path = Path in (hints[name], *typing.get_args(hints[name]))
        return Path(given) if is_path and isinstance(given, str) else given

    return kind(**{name: value(name, given) for name, given in json.loads(text).items()})
"""

# A builder of its own, which says how far it came. Its arguments: location, options of the
# Config, what to do, key, and what that needs: a base, a text, the path of a stream.
_CHILD = """
import sys, anyio
from contextlib import AsyncExitStack
from obuilder.locks import Locks
from obuilder.result_stream import receive, receive_header
from obuilder.types import Id, User
from {module} import {name} as Backend

def tell(text):
    print(text, flush=True)

async def main(location, options, what, key, needed):
    async with AsyncExitStack() as stack:
        config = config_from_json(Backend.Config, options)
        store = await stack.enter_async_context(Backend.open(location, config))
        if what not in ("cache", "release"):
            locks = Locks(store.state_dir / "locks")
            await stack.enter_async_context(locks.hold(key))
        if what == "delete":
            tell("ready")
            await store.delete(Id(key))
            tell("done")
            return
        if what == "import":
            stream = stack.enter_context(open(needed, "rb")).fileno()
            header = await receive_header(stream)
            tell("ready")
            async with receive(store, header, stream):
                pass
            tell("done")
            return
        if what in ("cache", "release"):
            block = store.cache(key, user=User(uid=0, gid=0))
        else:
            block = store.build(Id(key), base=Id(needed) if needed else None)
        if what == "clone":
            tell("ready")
        async with block as path:
            (path / "half").write_text("half")
            if what in ("build", "cache"):
                tell("ready")
                await anyio.sleep_forever()
            if what == "release":
                for file in path.rglob("*"):
                    if file.is_file():
                        file.write_text(needed)
            if what in ("publish", "release"):
                tell("ready")
        tell("done")

anyio.run(main, *sys.argv[1:], backend={backend!r})
"""


class BodyFailed(Exception):
    """What a test's build dies of."""


def new_id() -> Id:
    """An id that no result has."""
    return Id(secrets.token_hex(32))


def descriptors() -> set[str]:
    """The open descriptors of this process."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} {entry.readlink()}")
        except FileNotFoundError:  # the listing's own
            continue
    return found


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A store under test and how to look into it."""

    open_store: OpenStore
    trees: Trees
    location: str | None
    options: str
    can_send_plain: bool
    backend: str

    async def built(self, store: AnyStore, content: str = "x", *, base: Id | None = None) -> Id:
        """A new result that holds a file and a log."""
        id = new_id()
        async with store.build(id, base=base) as path:
            await self.trees.write(path / "rootfs", content)
            (path / "log").write_text(f"log of {content}")
        return id

    async def content(self, store: AnyStore, id: Id) -> str | None:
        """What the file in a result says; fails if there is no such result."""
        saved = await store.result(id)
        assert saved is not None, f"result {id} is gone"
        return await self.trees.read(saved / "rootfs")

    async def failing_build(
        self, store: AnyStore, id: Id, spoil: Callable[[Path], Awaitable[None]] | None = None
    ) -> Path:
        """A build that dies after `spoil` has been at its directory, which is returned."""
        path = Path()
        with pytest.raises(BodyFailed):  # noqa: PT012 - what fails is the block of a build
            async with store.build(id) as path:
                if spoil is not None:
                    await spoil(path)
                raise BodyFailed
        return path

    def lock(self, store: AnyStore, key: str) -> AbstractAsyncContextManager[None]:
        """The lock that the core holds while it builds, deletes or discards `key`."""
        return Locks(store.state_dir / "locks").hold(key)

    @asynccontextmanager
    async def other_process(
        self, store: AnyStore, what: str, key: str, *, base: Id | None = None, needed: str = ""
    ) -> AsyncIterator["OtherProcess"]:
        """Another process that does `what`; it is dead by `kill -9` after the block.

        `build` and `cache` wait inside their block; `clone`, `publish`, `delete`,
        `release` (of a cache in which each file holds the text `needed`) and `import`
        (of the stream in the file `needed`) say "ready" just before, and go on.
        """
        kind = type(store)
        code = CONFIG_FROM_JSON + _CHILD.format(
            module=kind.__module__, name=kind.__name__, backend=self.backend
        )
        location = self.location or str(store.root)
        argv = (sys.executable, "-c", code, location, self.options, what, key, base or needed)
        reader, writer = os.pipe()
        ended = anyio.Event()

        async def run() -> None:
            with open(writer, "wb") as stdout:  # noqa: ASYNC230 - a pipe's descriptor
                # The backend may live where the tests do.
                path = {"PYTHONPATH": os.pathsep.join(sys.path)}
                await call(argv, stdout=stdout.fileno(), stderr=2, env=path)
            ended.set()

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                with anyio.fail_after(LIMIT_S):
                    await anyio.wait_readable(reader)
                said = os.read(reader, 100)
                assert said.startswith(b"ready\n"), f"the other process said {said!r}"
                try:
                    yield OtherProcess(code, ended)
                finally:
                    for pid in children_running(code):
                        os.kill(pid, signal.SIGKILL)
        finally:
            os.close(reader)


@dataclass(frozen=True)
class OtherProcess:
    """One that is in the middle of something."""

    code: str
    ended: anyio.Event

    async def go_on_for(self, delay_s: float) -> bool:
        """Let it run for at most so long; whether it has ended by itself."""
        with anyio.move_on_after(delay_s):
            await self.ended.wait()
        return self.ended.is_set()


def children_running(code: str) -> list[int]:
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in pids if _runs(pid, code)]


def _runs(pid: str, code: str) -> bool:
    try:
        return code.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return False
