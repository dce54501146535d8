"""What the contract of sandboxes works with: a root, a log, runs, and other processes."""

import json
import os
import secrets
import shutil
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from obuilder.interfaces import Sandbox
from obuilder.process import call, run
from obuilder.testing._logs import MemoryLog
from obuilder.testing._tools import CONFIG_FROM_JSON, LIMIT_S, children_running
from obuilder.types import Id, RunConfig

__all__ = ["PATH", "AnySandbox", "OpenSandbox", "SandboxBench", "make_busybox_root"]

AnySandbox = Sandbox[Any]
OpenSandbox = Callable[[], AbstractAsyncContextManager[AnySandbox]]

PATH = ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")

# A builder of its own that runs one command, whose output is its own.
_CHILD = """
import json, sys, anyio
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from obuilder.interfaces import BuildLog
from obuilder.types import RunConfig
from {module} import {name} as Backend

class Log(BuildLog):
    async def output(self, data):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    async def note(self, text):
        pass
    @asynccontextmanager
    async def pipe(self):
        yield 1

async def main(state_dir, options, id, rootfs, argv, env):
    config = config_from_json(Backend.Config, options)
    async with Backend.open(Path(state_dir), config) as sandbox:
        run = RunConfig(id=id, argv=tuple(json.loads(argv)), env=(tuple(json.loads(env)),))
        await sandbox.run(run, Path(rootfs), log=Log())

anyio.run(main, *sys.argv[1:], backend={backend!r})
"""


def make_busybox_root(root: Path) -> None:
    """A root of a static busybox with its applets, and nothing else. Fails if there is none."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.fail("no busybox in PATH for a root file system: apt-get install busybox-static")
    (root / "bin").mkdir(parents=True)
    shutil.copy(busybox, root / "bin" / "busybox")
    listed = anyio.run(run, (busybox, "--list"))
    for name in listed.stdout.decode().split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    (root / "tmp").mkdir(mode=0o1777)
    # Shells want it; some sandboxes mount no /dev of their own.
    (root / "dev").mkdir()
    os.mknod(root / "dev" / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (root / "dev" / "null").chmod(0o666)
    root.chmod(0o755)


@dataclass(kw_only=True)
class SandboxBench:
    """A sandbox under test, and a root to run commands in."""

    open_sandbox: OpenSandbox
    state_dir: Path
    options: str
    rootfs: Path
    other_rootfs: Path
    backend: str
    can_isolate_network: bool
    can_use_host_network: bool
    can_mount: bool
    can_show_secrets: bool
    can_set_user: bool
    log: MemoryLog = field(default_factory=MemoryLog)

    def config(
        self, command: str | Sequence[str], *, id: Id | None = None, **fields: Any
    ) -> RunConfig:
        """A RunConfig of a shell command (text) or an argument list, by default with a PATH."""
        argv = ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)
        named = Id(secrets.token_hex(32)) if id is None else id
        if not self.can_isolate_network:
            fields.setdefault("network", ("host",))
        return RunConfig(**{"id": named, "argv": argv, "env": (PATH,), **fields})

    async def run(
        self, command: str | Sequence[str], *, stdin: int | None = None, **fields: Any
    ) -> bytes:
        """What a command prints, in a sandbox that is opened for it."""
        self.log = MemoryLog()
        async with self.open_sandbox() as sandbox:
            with anyio.fail_after(LIMIT_S):
                config = self.config(command, **fields)
                await sandbox.run(config, self.rootfs, log=self.log, stdin=stdin)
        return self.log.data

    @property
    def roots(self) -> tuple[Path, Path]:
        """Two, for what runs at the same time: nobody else may use a root that is in use."""
        return self.rootfs, self.other_rootfs

    @property
    def top(self) -> Path:
        """The directory of all that the sandbox works with: its state, and the usual root."""
        return self.state_dir.parent

    @asynccontextmanager
    async def other_process(self, command: str, word: str, *, id: Id) -> AsyncIterator[None]:
        """Another builder runs a command, with `word` as its `$0`; killed (-9) after the block.

        The block begins when the command has printed a line.
        """
        async with self.open_sandbox() as sandbox:
            kind = type(sandbox)
        code = CONFIG_FROM_JSON + _CHILD.format(
            module=kind.__module__, name=kind.__name__, backend=self.backend
        )
        argv = json.dumps(["/bin/sh", "-c", command, word])
        args = (str(self.state_dir), self.options, id, str(self.rootfs), argv, json.dumps(PATH))
        reader, writer = os.pipe()
        failure: Exception | None = None

        async def work() -> None:
            with open(writer, "wb") as stdout:  # noqa: ASYNC230 - a pipe's descriptor
                # The backend may live where the tests do.
                path = {"PYTHONPATH": os.pathsep.join(sys.path)}
                argv = (sys.executable, "-c", code, *args)
                await call(argv, stdout=stdout.fileno(), stderr=2, env=path)

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work)
                with anyio.fail_after(LIMIT_S):
                    await anyio.wait_readable(reader)
                said = os.read(reader, 1000)
                assert said.endswith(b"\n"), f"the other process said {said!r}"
                try:
                    yield
                except Exception as error:  # noqa: BLE001 - raised again outside the task group
                    failure = error
                finally:
                    for pid in children_running(code):
                        os.kill(pid, signal.SIGKILL)
        finally:
            os.close(reader)
        if failure is not None:
            raise failure
