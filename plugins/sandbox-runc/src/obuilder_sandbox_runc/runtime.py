"""An OCI runtime's command line: run a container, kill it, forget it."""

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import anyio
import anyio.to_thread

from obuilder import process
from obuilder.errors import ProcessError, SandboxError
from obuilder_sandbox_runc import reaper
from obuilder_sandbox_runc.bundle import Bundle

__all__ = ["Runtime"]

_UMASK = 0o022
"""With the builder's own, the working directory and mount points that runc makes would differ."""

_ANY = tuple(range(256))


class Runtime:
    """`program` with its state in `root`, where it keeps a directory for each container."""

    def __init__(self, program: str, root: Path) -> None:
        self.program = program
        self.root = root

    def knows(self, name: str) -> bool:
        """Whether a container of this name exists, running or not."""
        return (self.root / name).exists()

    async def run(self, bundle: Bundle, *, stdin: int | None, output: int) -> int:
        """Run a bundle to its end and return the status, as `process.call` does.

        The bundle's `pid_file` tells the container's status from the runtime's own.
        Raises ProcessError if the reaper could not be started. Cancelling kills
        the container at once, however far it has come. `remove` must follow.
        """
        options = ["--root", str(self.root), "--log", str(bundle.runtime_log)]
        place = ["--bundle", str(bundle.path), "--pid-file", str(bundle.pid_file)]
        return await process.call(
            [
                *(sys.executable, "-I", "-S", reaper.__file__, str(bundle.pid_file)),
                *(self.program, *options, "--log-format", "json"),
                *("run", "--detach", *place, bundle.path.name),
            ],
            stdin=stdin,
            stdout=output,
            stderr=output,
            umask=_UMASK,
        )

    async def remove(self, name: str) -> None:
        """Kill a container, wait for its death, and forget it; nothing if there is none.

        Raises SandboxError if that fails.
        """
        if not self.knows(name):
            return
        try:
            # Waits for the first process, with which the kernel ends all others.
            said = await self._do("delete", "--force", name)
        except ProcessError as error:
            raise _cannot_remove(name, error.what) from error
        if not self.knows(name):
            return
        if not await anyio.to_thread.run_sync(self._is_damaged, name):
            raise _cannot_remove(name, said.strip())
        await anyio.to_thread.run_sync(shutil.rmtree, self.root / name)

    async def end_orphans(self, name: str) -> None:
        """Kill reapers and runtimes of this container that outlived their builder."""
        while True:
            with ExitStack() as stack:
                pidfds = await anyio.to_thread.run_sync(self._orphans, name)
                for pidfd in pidfds:
                    stack.callback(os.close, pidfd)
                if not pidfds:
                    return
                for pidfd in pidfds:
                    with suppress(ProcessLookupError):  # it ended by itself
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    await anyio.wait_readable(pidfd)
            # Again: the one that was killed may have started another before.

    async def _do(self, *arguments: str) -> str:
        """Run a command of the runtime; returns what it complained about, or nothing."""
        argv = [self.program, "--root", str(self.root), *arguments]
        done = await process.run(argv, ok=_ANY)
        if done.returncode == 0:
            return ""
        return done.stderr.decode(errors="replace") or f"status {done.returncode}"

    def _is_damaged(self, name: str) -> bool:
        # A runtime replaces this file as a whole: it is damaged only after the
        # machine has crashed, and then nothing of the container lives.
        try:
            json.loads((self.root / name / "state.json").read_bytes())
        except ValueError:
            return True
        except OSError:  # none yet: the runtime removes it, or its error is the one to report
            return False
        return False

    def _orphans(self, name: str) -> Sequence[int]:
        wanted = {os.fsencode(name), os.fsencode(self.root)}
        found = []
        for entry in Path("/proc").iterdir():
            if not re.fullmatch(r"\d+", entry.name) or int(entry.name) == os.getpid():
                continue
            try:
                pidfd = os.pidfd_open(int(entry.name))
            except OSError:  # it has ended
                continue
            try:
                # Read after the descriptor was got: it is still the same process.
                arguments = set((entry / "cmdline").read_bytes().split(b"\0"))
            except OSError:  # it has ended
                arguments = set()
            if wanted <= arguments:
                found.append(pidfd)
            else:
                os.close(pidfd)
        return found


def _cannot_remove(name: str, why: str) -> SandboxError:
    return SandboxError(f"cannot remove container {name}: {why}", code="sandbox.leftover")
