"""The one door through which helper programs are started.

Always an argument list, never a shell; standard input is given or empty; a
small environment; a session of its own, so that all its children can be
signalled; killed by the kernel if this process dies first.

The kernel does that when the *thread* that started the program ends, and trio
starts programs in pool threads that end after 10 idle seconds. So programs
are started here in the event loop's own thread, and waited for by a pidfd.
"""

import functools
import os
import shlex
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import IO

import anyio
import anyio.lowlevel

from obuilder._inherited import descriptors
from obuilder.errors import ObuilderError, ProcessError

__all__ = ["Completed", "call", "run"]

TERM_GRACE_S = 1.0
"""Between SIGTERM and SIGKILL for a program that is cancelled."""

KILL_LIMIT_S = 10.0
"""How long a cancelled program may take to die; one in the kernel's hands can be slow."""

STDERR_QUOTED_BYTES = 2000
_CHUNK_BYTES = 65536
_INHERITED = ("PATH", "HOME", "USER", "TMPDIR")
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Stop = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Program:
    """A started program; `pidfd` becomes readable when it ends."""

    popen: Popen[bytes]
    pidfd: int

    async def wait(self) -> int:
        while self.popen.poll() is None:
            await anyio.wait_readable(self.pidfd)
        return self.popen.returncode


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """How a program ended: `returncode` is minus the signal's number if one ended it."""

    returncode: int
    stdout: bytes
    stderr: bytes


async def run(  # noqa: PLR0913 - the options of one door, all but argv by keyword
    argv: Sequence[str],
    *,
    stdin: bytes | int | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    ok: Sequence[int] = (0,),
    hint: str | None = None,
) -> Completed:
    """Run a program to its end and return what it printed.

    `stdin` is the input's bytes, a descriptor, or empty; `env` is added to a
    small inherited environment; a status not in `ok` raises ProcessError that
    quotes the end of standard error and carries `hint`. Cancelling ends the
    program and its children. It also gets the locks that are held (_inherited.py).
    """
    collected: dict[str, bytes] = {}

    async def collect(name: str, pipe: IO[bytes]) -> None:
        collected[name] = await _read_all(pipe)

    source = PIPE if isinstance(stdin, bytes) else DEVNULL if stdin is None else stdin
    given = (*pass_fds, *descriptors())
    async with _started(
        argv, (source, PIPE, PIPE), env=env, cwd=cwd, pass_fds=given, hint=hint
    ) as program:
        async with anyio.create_task_group() as tasks:
            if isinstance(stdin, bytes) and program.popen.stdin:
                tasks.start_soon(_feed, program.popen.stdin, stdin)
            if program.popen.stdout and program.popen.stderr:
                tasks.start_soon(collect, "stdout", program.popen.stdout)
                tasks.start_soon(collect, "stderr", program.popen.stderr)
        returncode = await program.wait()
    if returncode not in ok:
        raise _failure(argv, returncode, stderr=collected["stderr"], hint=hint)
    return Completed(returncode=returncode, stdout=collected["stdout"], stderr=collected["stderr"])


async def call(  # noqa: PLR0913 - the options of one door, all but argv by keyword
    argv: Sequence[str],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    umask: int = -1,
    stop: Stop | None = None,
) -> int:
    """Run a program on descriptors (None: empty, discarded) and return its status.

    `umask` is the program's, -1: as this process has it. The status is minus
    the signal's number if one ended it. Raises ProcessError only if it
    could not be started. `stop` replaces SIGTERM when the call is cancelled: a
    way to end the program that it knows better; SIGKILL follows all the same.
    Locks stay here: what a sandbox leaves is found and ended by its own means.
    """
    streams = tuple(DEVNULL if fd is None else fd for fd in (stdin, stdout, stderr))
    async with _started(
        argv, streams, env=env, cwd=cwd, pass_fds=pass_fds, umask=umask, stop=stop
    ) as program:
        returncode = await program.wait()
    # Where it ended at once there was no wait to cancel, and a cancel may be why it failed.
    await anyio.lowlevel.checkpoint_if_cancelled()
    return returncode


@asynccontextmanager
async def _started(  # noqa: PLR0913 - private: what run and call have in common
    argv: Sequence[str],
    streams: tuple[int, ...],
    *,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    pass_fds: Sequence[int],
    umask: int = -1,
    stop: Stop | None = None,
    hint: str | None = None,
) -> AsyncIterator[_Program]:
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    environment.setdefault("PATH", _DEFAULT_PATH)
    environment["LC_ALL"] = "C.UTF-8"
    environment.update(env or {})
    if shutil.which(argv[0], path=environment["PATH"]) is None:
        raise ProcessError(
            f"program {argv[0]!r} was not found in PATH", hint=hint, code="process.not-found"
        )
    try:
        popen = Popen(  # noqa: ASYNC220 - blocks for the exec, 1 ms; why here: see the top
            [*_die_with_parent(), *argv],
            bufsize=0,
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            env=environment,
            cwd=cwd,
            pass_fds=pass_fds,
            umask=umask,
            start_new_session=True,
        )
    except OSError as error:
        what = f"cannot start {argv[0]!r}: {error.strerror}"
        raise ProcessError(what, hint=hint, code="process.not-started") from error
    program = _Program(popen, _pidfd(popen, hint=hint))
    try:
        yield program
    except BaseException:
        # Also when the program itself has ended: its children may hold its output open.
        with anyio.CancelScope(shield=True):
            await _end(program, stop)
        raise
    finally:
        _close(popen)
        os.close(program.pidfd)


def _pidfd(popen: Popen[bytes], *, hint: str | None) -> int:
    try:
        return os.pidfd_open(popen.pid)
    except OSError as error:  # no descriptors left: without one the program cannot be followed
        popen.kill()
        popen.wait()
        _close(popen)
        what = f"cannot follow process {popen.pid}: {error.strerror}"
        raise ProcessError(what, hint=hint, code="process.not-started") from error


def _close(popen: Popen[bytes]) -> None:
    for pipe in (popen.stdin, popen.stdout, popen.stderr):
        if pipe is not None:
            pipe.close()


async def _end(program: _Program, stop: Stop | None) -> None:
    if program.popen.poll() is None:
        with anyio.move_on_after(TERM_GRACE_S if stop is None else KILL_LIMIT_S):
            if stop is None:
                _signal_group(program, signal.SIGTERM)
            else:
                with suppress(ObuilderError):  # it could not help; SIGKILL does
                    await stop()
            await program.wait()
    _signal_group(program, signal.SIGKILL)
    with anyio.move_on_after(KILL_LIMIT_S):
        await program.wait()


def _signal_group(program: _Program, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # the whole group has ended by itself
        os.killpg(program.popen.pid, number)


async def _read_all(pipe: IO[bytes]) -> bytes:
    chunks: list[bytes] = []
    while True:
        await anyio.wait_readable(pipe)
        chunk = os.read(pipe.fileno(), _CHUNK_BYTES)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)


async def _feed(pipe: IO[bytes], data: bytes) -> None:
    os.set_blocking(pipe.fileno(), False)
    rest = memoryview(data)
    # A program that ends without reading reports that itself, by its status.
    with suppress(BrokenPipeError):
        while rest:
            await anyio.wait_writable(pipe)
            rest = rest[os.write(pipe.fileno(), rest[:_CHUNK_BYTES]) :]
    pipe.close()


@functools.cache
def _die_with_parent() -> tuple[str, ...]:
    # util-linux; without it a killed builder's helpers end on their own.
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()


def _failure(
    argv: Sequence[str], returncode: int, *, stderr: bytes, hint: str | None
) -> ProcessError:
    how = (
        f"was ended by signal {_signal_name(-returncode)}"
        if returncode < 0
        else f"failed with exit status {returncode}"
    )
    said = stderr[-STDERR_QUOTED_BYTES:].decode("utf-8", "backslashreplace").strip()
    what = f"{shlex.join(argv)} {how}" + (f": {said}" if said else "")
    return ProcessError(what, returncode=returncode, stderr=stderr, hint=hint)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time signals have no name
        return str(number)
