"""The runc sandbox: each command in a container of its own, of which nothing remains."""

import logging
import os
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import ClassVar, Self

import anyio
import anyio.to_thread

from obuilder.errors import BackendError, ConfigError, ProcessError, SandboxError
from obuilder.interfaces import BuildLog, Sandbox
from obuilder.types import Leftover, LeftoverKind, RunConfig
from obuilder_sandbox_runc.bundle import Bundle, make_bundle, remove_bundle
from obuilder_sandbox_runc.failure import failure, read_ending
from obuilder_sandbox_runc.oci import check
from obuilder_sandbox_runc.runtime import Runtime

__all__ = ["RuncSandbox"]

_logger = logging.getLogger(__name__)

# Unique on the machine and not only in the store: a container's name is also its
# control group's, and two stores may run the same step at the same time.
_NAME = re.compile(r"(?P<id>.+)-[0-9a-f]{8}")

CLEANUP_LIMIT_S = 60.0
"""How long removing a container may take before it is left to `leftovers`."""

_ADMIN_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where runtimes are, even if the PATH of whoever became root does not say so."""


class RuncSandbox(Sandbox["RuncSandbox.Config"]):
    """Runs commands with runc, or any program with the same command line."""

    API: ClassVar[int] = 1

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Options of the runc sandbox.

        runtime: the OCI runtime, a program in PATH or a path.
        fast_sync: let sync system calls return at once, without syncing. A
        result is saved only when its step has ended, so that a crash costs the
        step, never a result.
        """

        runtime: str = "runc"
        fast_sync: bool = False

    @classmethod
    @asynccontextmanager
    async def open(cls, state_dir: Path, config: Config) -> AsyncIterator[Self]:
        """See Sandbox.open. Needs root and the runtime."""
        if os.geteuid() != 0:
            raise ConfigError(
                "the runc sandbox needs root",
                where="runc",
                hint="run it with sudo",
                code="sandbox.not-root",
            )
        yield cls(_made(state_dir), _find_runtime(config.runtime), fast_sync=config.fast_sync)

    def __init__(self, state_dir: Path, program: str, *, fast_sync: bool) -> None:
        self._bundles = state_dir / "bundles"
        self._runtime = Runtime(program, state_dir / "runc")
        self._fast_sync = fast_sync

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        """See Sandbox.run."""
        check(config)
        for leftover in await self.leftovers():
            if leftover.key == config.id:  # its builder is dead: the caller holds the lock
                await self.discard(leftover)
        failed: BackendError | None = None
        status = 0
        async with self._bundle(config, rootfs) as bundle:
            # Nothing is raised inside this block: the log's task group would wrap it.
            async with log.pipe() as output:
                try:
                    status = await self._runtime.run(bundle, stdin=stdin, output=output)
                except ProcessError as error:
                    failed = error
                finally:
                    # One that lives on, its parent killed, would hold the pipe open.
                    try:
                        async with _shielded():
                            await self._runtime.remove(bundle.path.name)
                    except SandboxError as error:
                        failed = error
            ending = await anyio.to_thread.run_sync(read_ending, bundle, status)
        if failed is not None:
            raise SandboxError(failed.what, hint=failed.hint, code="sandbox.runtime") from failed
        wrong = failure(config, ending, runtime=self._runtime.program)
        if wrong is not None:
            raise wrong

    async def leftovers(self) -> Sequence[Leftover]:
        """See Sandbox.leftovers. What a bundle's directory or the runtime knows of."""

        def names() -> set[str]:
            return {*os.listdir(self._bundles), *os.listdir(self._runtime.root)}

        found = sorted(await anyio.to_thread.run_sync(names))
        matches = ((name, _NAME.fullmatch(name)) for name in found)
        return [
            Leftover(kind=LeftoverKind.CONTAINER, key=match["id"], path=self._bundles / name)
            for name, match in matches
            if match
        ]

    async def discard(self, leftover: Leftover) -> None:
        """See Sandbox.discard. Raises SandboxError if something of it resists."""
        if leftover.path is None:
            for other in await self.leftovers():
                if other.key == leftover.key:
                    await self.discard(other)
            return
        async with _shielded():
            await self._runtime.end_orphans(leftover.path.name)
            await self._runtime.remove(leftover.path.name)
            await remove_bundle(leftover.path)

    @asynccontextmanager
    async def _bundle(self, config: RunConfig, rootfs: Path) -> AsyncIterator[Bundle]:
        path = self._bundles / f"{config.id}-{token_hex(4)}"
        try:
            yield await make_bundle(path, config, rootfs, fast_sync=self._fast_sync)
        except BaseException:
            try:
                async with _shielded():
                    await remove_bundle(path)
            except SandboxError as error:
                # The first error is the one to report; leftovers() still lists this.
                _logger.warning("%s", error)
            raise
        async with _shielded():
            await remove_bundle(path)


@asynccontextmanager
async def _shielded() -> AsyncIterator[None]:
    try:
        with anyio.fail_after(CLEANUP_LIMIT_S, shield=True):
            yield
    except TimeoutError as error:
        raise SandboxError(
            f"what a step left could not be removed in {CLEANUP_LIMIT_S:.0f} s",
            hint="is a process stuck in the kernel? see dmesg",
            code="sandbox.leftover",
        ) from error


def _find_runtime(name: str) -> str:
    program = shutil.which(name) or shutil.which(name, path=_ADMIN_PATH)
    if program is None:
        what = "is not executable" if Path(name).is_file() else "is not in PATH"
        raise ConfigError(
            f"the program {name!r} {what}",
            where="runc.runtime",
            hint="apt-get install runc, or set runc.runtime to an OCI runtime that is here",
            code="sandbox.no-runtime",
        )
    return str(Path(program).absolute())


def _made(state_dir: Path) -> Path:
    try:
        str(state_dir.resolve()).encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"the path of the store is not UTF-8 text: {str(state_dir)!a}",
            where="store",
            hint="an OCI runtime takes nothing else: choose another location",
            code="store.location",
        ) from None
    try:
        for directory in (state_dir, state_dir / "bundles", state_dir / "runc"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return state_dir.resolve()
    except OSError as error:
        raise ConfigError(
            f"cannot make the sandbox's directory: {error.strerror}",
            where=str(state_dir),
            code="sandbox.state-dir",
        ) from error
