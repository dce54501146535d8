"""A root file system, a log and a private sandbox for the tests of the runc sandbox."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from obuilder.interfaces import BuildLog
from obuilder.testing._logs import MemoryLog
from obuilder.types import Id, RunConfig
from obuilder_sandbox_runc import RuncSandbox

BUSYBOX = Path("/bin/busybox")
ENV = (("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),)


@pytest.fixture(scope="session")
def _can_run() -> None:
    missing = [name for name in ("runc", "busybox", "mount") if shutil.which(name) is None]
    if os.geteuid() != 0:
        missing.append("root")
    if missing:
        reason = f"containers need {', '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}: must not be missing under CI=true")
        pytest.skip(reason)


@pytest.fixture
def rootfs(tmp_path: Path, _can_run: None) -> Path:
    """A static busybox with its applets, and nothing else."""
    root = tmp_path / "result" / "rootfs"
    (root / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX.resolve(), root / "bin/busybox")
    applets = subprocess.check_output([BUSYBOX, "--list"], text=True)
    for name in applets.split():
        if name != "busybox":
            (root / "bin" / name).symlink_to("busybox")
    root.chmod(0o755)
    return root


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """Where the sandbox keeps its state; a blank in it, which mountinfo escapes."""
    return tmp_path / "sandbox state"


@pytest.fixture
def step_id(tmp_path: Path) -> Id:
    return Id(hashlib.sha256(os.fsencode(tmp_path)).hexdigest())


@pytest.fixture
def config(step_id: Id) -> Callable[..., RunConfig]:
    """Makes a RunConfig of a shell command (text) or an argument list."""

    def make(command: str | Sequence[str], **fields: object) -> RunConfig:
        argv = ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)
        return RunConfig(**{"id": step_id, "argv": argv, "env": ENV, **fields})  # type: ignore[arg-type] # any field

    return make


@pytest.fixture
def log() -> BuildLog:
    return MemoryLog()


@pytest.fixture
def said(log: MemoryLog) -> Callable[[], bytes]:
    """All output so far."""
    return lambda: log.data


@pytest.fixture
def wait_for(log: MemoryLog) -> Callable[[bytes], Awaitable[None]]:
    """Waits until the output contains a text."""
    return log.wait_for


@pytest.fixture
def open_sandbox(
    state_dir: Path,
) -> Callable[..., AbstractAsyncContextManager[RuncSandbox]]:
    """Opens the sandbox of this test; options are the Config's."""

    def open_it(**options: object) -> AbstractAsyncContextManager[RuncSandbox]:
        return RuncSandbox.open(state_dir, RuncSandbox.Config(**options))  # type: ignore[arg-type] # any option

    return open_it


@pytest.fixture
def living(step_id: Id) -> Callable[[], list[int]]:
    """The processes on this machine that are in a container of this test's step."""

    def find() -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                inside = step_id in (entry / "cgroup").read_text()
                # A dead orphan that the machine's first process has not reaped yet.
                dead = b") Z " in (entry / "stat").read_bytes()
            except OSError:  # it has ended meanwhile
                continue
            if inside and not dead:
                found.append(int(entry.name))
        return found

    return find


@pytest.fixture
def left(state_dir: Path, step_id: Id, living: Callable[[], list[int]]) -> Callable[[], list[str]]:
    """Everything that a step should have taken away with it and has not."""

    def find() -> list[str]:
        escaped = str(state_dir).replace(" ", "\\040")
        mountinfo = Path("/proc/self/mountinfo").read_text().splitlines()
        mounts = [line for line in mountinfo if escaped in line]
        files = [*(state_dir / "bundles").iterdir(), *(state_dir / "runc").iterdir()]
        # Not glob: other steps' groups vanish while it looks.
        walk = os.walk("/sys/fs/cgroup")
        groups = [f"{path}/{name}" for path, names, _ in walk for name in names if step_id in name]
        return [*map(str, files), *groups, *mounts, *map(str, living())]

    return find


@pytest.fixture
def run(
    open_sandbox: Callable[..., AbstractAsyncContextManager[RuncSandbox]],
    config: Callable[..., RunConfig],
    rootfs: Path,
    log: MemoryLog,
    left: Callable[[], list[str]],
) -> Callable[..., Awaitable[bytes]]:
    """Runs a command; returns its output, and sees to it that nothing else remains."""

    async def run_it(
        command: str | Sequence[str],
        *,
        stdin: int | None = None,
        fast_sync: bool = False,
        **fields: object,
    ) -> bytes:
        log.data = b""
        async with open_sandbox(fast_sync=fast_sync) as sandbox:
            try:
                await sandbox.run(config(command, **fields), rootfs, log=log, stdin=stdin)
            finally:
                assert left() == []
        return log.data

    return run_it
