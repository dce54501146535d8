"""The parent of one container: starts the runtime, then waits for what that leaves behind.

In the foreground runc copies the two outputs of a container through two pipes,
and the order of what was written to them is lost. Detached, it lets the
container have runc's own descriptors, and ends: the container becomes a child
of the nearest ancestor that asked for orphans (a "subreaper", prctl(2)). That
must not be the builder, which may be part of somebody's program: so it is this
one, which the builder starts for each container.

Run by its path with `python -I -S PID_FILE RUNTIME ARGUMENT…`: 20 ms. The
status is the container's, or 128 and the number of the signal that ended it; if
the runtime fails it is the runtime's, and there is no PID_FILE. SIGTERM kills
the container.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

__all__ = ["SIGNALED", "Reaper", "main"]

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
SIGNALED = 128
"""Plus a signal's number: the status of what that signal ended, as shells have it."""

_CANNOT_START = 127


class Reaper:
    """Knows the container's first process as soon as there is one."""

    def __init__(self) -> None:
        self._stopping = False
        self._container = 0

    def stop(self, number: int, frame: FrameType | None) -> None:
        """A signal handler: kills the container, now or when it has been made."""
        del number, frame
        self._stopping = True
        self._kill()

    def run(self, pid_file: Path, command: Sequence[str]) -> int:
        """Run the runtime, then wait for the container. Raises OSError."""
        # Python ignores these two, and what is ignored stays so in a new program.
        defaults = [signal.SIGPIPE, signal.SIGXFSZ]
        runtime = os.posix_spawn(command[0], [*command], os.environ, setsigdef=defaults)
        _let_go()
        status = _wait(runtime)
        if status:
            pid_file.unlink(missing_ok=True)
            return status
        container = self._container = int(pid_file.read_text())
        if self._stopping:
            self._kill()
        os.waitid(os.P_PID, container, os.WEXITED | os.WNOWAIT)
        self._container = 0  # before the number can become another's
        return _wait(container)

    def _kill(self) -> None:
        if self._container:
            os.kill(self._container, signal.SIGKILL)


def main(arguments: Sequence[str]) -> int:
    """Adopt orphans, then run; the exit status."""
    reaper = Reaper()
    signal.signal(signal.SIGTERM, reaper.stop)
    pid_file, *command = arguments
    try:
        _adopt_orphans()
        return reaper.run(Path(pid_file), command)
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error}\n".encode())
        Path(pid_file).unlink(missing_ok=True)
        return _CANNOT_START


def _adopt_orphans() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _let_go() -> None:
    # So that the ends of the pipes are the container's alone: who writes to one that
    # it has closed must see that.
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(2):
        os.dup2(nothing, descriptor)


def _wait(pid: int) -> int:
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return SIGNALED - code if code < 0 else code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
