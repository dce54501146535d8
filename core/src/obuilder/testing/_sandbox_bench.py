"""What the contract of sandboxes works with: a root, a log, runs, and other processes."""

import os
import secrets
import shutil
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from obuilder.interfaces import Sandbox
from obuilder.process import run
from obuilder.testing._logs import MemoryLog
from obuilder.testing._sandbox_other import OtherBuilder, builder_code
from obuilder.testing._tools import LIMIT_S
from obuilder.types import Id, RunConfig

__all__ = ["PATH", "AnySandbox", "OpenSandbox", "SandboxBench", "make_busybox_root"]

AnySandbox = Sandbox[Any]
OpenSandbox = Callable[[], AbstractAsyncContextManager[AnySandbox]]

PATH = ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")


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
    async def other_builder(self, *, id: Id) -> AsyncIterator[OtherBuilder]:
        """Another builder, in whose command we can talk; killed (-9) with it after the block."""
        async with self.open_sandbox() as sandbox:
            kind = type(sandbox)
        args = (str(self.state_dir), self.options, id, str(self.rootfs))
        code = builder_code(kind, self.backend)
        network = () if self.can_isolate_network else ("host",)
        async with OtherBuilder.started(code, args, path=PATH, network=network) as other:
            yield other
