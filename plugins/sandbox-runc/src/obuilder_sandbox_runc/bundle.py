"""A container's bundle: a private directory, with the secrets on a tmpfs that leaves no trace."""

import os
import platform
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

from obuilder import process
from obuilder.errors import ProcessError, SandboxError
from obuilder.types import RunConfig, User
from obuilder_sandbox_runc.oci import Places, config_json

__all__ = ["Bundle", "make_bundle", "remove_bundle"]

RESOLV_CONF = Path("/etc/resolv.conf")

_UTIL_LINUX = "apt-get install mount"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A directory with `config.json`; its name is the container's."""

    path: Path

    @property
    def runtime_log(self) -> Path:
        """Where the runtime writes its own messages."""
        return self.path / "runtime.log"

    @property
    def pid_file(self) -> Path:
        """Where the runtime writes that it has started the container."""
        return self.path / "pid"


async def make_bundle(path: Path, config: RunConfig, rootfs: Path, *, fast_sync: bool) -> Bundle:
    """Fill the new directory `path`; whatever happens, `remove_bundle` takes it away again.

    Raises SandboxError, BuildError. A cancel may come at any time.
    """
    secrets = path / "secrets"
    files = [secrets / str(number) for number in range(len(config.secrets))]

    def write() -> None:
        places = Places(
            # Of the last part only the name: a runtime refuses a root that is a link, rightly.
            rootfs=rootfs.parent.resolve() / rootfs.name,
            hosts=path / "hosts",
            resolv_conf=RESOLV_CONF if RESOLV_CONF.exists() else None,
            secrets=files,
        )
        text = config_json(config, places, fast_sync=fast_sync, machine=platform.machine())
        path.mkdir(mode=0o700)
        _write(places.hosts, f"127.0.0.1 localhost {config.hostname}".encode(), mode=0o644)
        _write(path / "config.json", text, mode=0o600)
        if files:
            secrets.mkdir(mode=0o700)

    def write_secrets() -> None:
        for file, secret in zip(files, config.secrets, strict=True):
            _write(file, secret.value, mode=0o400, owner=config.user)

    async with _failures(f"cannot make the bundle {path}"):
        await anyio.to_thread.run_sync(write)
        if files:
            options = "mode=0700,nosuid,nodev,noexec"
            argv = ["mount", "-t", "tmpfs", "-o", options, "obuilder-secrets", str(secrets)]
            await process.run(argv, hint=_UTIL_LINUX)
            await anyio.to_thread.run_sync(write_secrets)
    return Bundle(path)


async def remove_bundle(path: Path) -> None:
    """Unmount what is mounted below `path` and remove it; nothing if it is gone.

    Raises SandboxError; then the directory is still there.
    """

    def remove() -> None:
        if path.exists():
            shutil.rmtree(path)

    async with _failures(f"cannot remove the bundle {path}"):
        for point in reversed(await anyio.to_thread.run_sync(_mounted_below, path)):
            try:
                await process.run(["umount", "--", str(point)])
            except ProcessError:
                # Somebody looks into it: out of sight now, gone when they leave.
                await process.run(["umount", "--lazy", "--", str(point)], hint=_UTIL_LINUX)
        await anyio.to_thread.run_sync(remove)


@asynccontextmanager
async def _failures(what: str) -> AsyncIterator[None]:
    try:
        yield
    except OSError as error:
        raise SandboxError(f"{what}: {error.strerror}", code="sandbox.bundle") from error
    except ProcessError as error:
        raise SandboxError(
            f"{what}: {error.what}", hint=error.hint, code="sandbox.bundle"
        ) from error


def _write(path: Path, data: bytes, *, mode: int, owner: User | None = None) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask is
        if owner is not None:
            os.fchown(file.fileno(), owner.uid, owner.gid)
        file.write(data)


def _mounted_below(path: Path) -> Sequence[Path]:
    """Mount points, oldest first, from the fifth column of proc_pid_mountinfo(5)."""
    with Path("/proc/self/mountinfo").open("rb") as lines:
        points = [Path(os.fsdecode(_unescaped(line.split(b" ")[4]))) for line in lines]
    return [point for point in points if point.is_relative_to(path)]


def _unescaped(text: bytes) -> bytes:
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), text)
