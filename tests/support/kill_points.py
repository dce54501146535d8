"""Dying (SIGKILL) at the N-th durable step of an operation, each in a process of its own.

A durable step is a call that changes a file system, starts or awaits a program, or is a
statement of SQLite's: whatever the next process could tell from what is left. They are seen by
Python's audit events and SQLite's trace, so that the product needs no points of its own. The
process dies just before a step; after it is before the next.
"""

import multiprocessing
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from obuilder import process

__all__ = ["DurableSteps", "Ended", "in_process"]

LIMIT_S = 60.0

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Where each event has its paths; open(2) for reading and SQLite's own files are told apart below.
_PATHS = {
    "open": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.link": (0, 1),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.removexattr": (0,),
    "os.rename": (0, 1),
    "os.rmdir": (0,),
    "os.setxattr": (0,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.utime": (0,),
}
_OURS = re.compile(r"/(obuilder\w*)/(?:(?!/site-packages/).)*$")
_HARNESS = Path(__file__).parent
_ID = re.compile(r"\b[0-9a-f]{64}\b")
_RANDOM = re.compile(r"\b[0-9a-f]{8}\b|\b[0-9a-f]{12}\b|(?<=\.)\d+(?=\.tmp)")


class DurableSteps:
    """Counts the durable steps of this process below some directories; dies at number `last`.

    For a process of its own: audit hooks cannot be taken away.
    """

    def __init__(self, watched: list[Path], *, last: int, tell: Callable[[str], object]) -> None:
        self._watched = [f"{path}/" for path in watched]
        self._last = last
        self._tell = tell
        self._inside = threading.local()
        self._counts = threading.Lock()
        self._begun = False
        self.count = 0

    def begin(self) -> None:
        """Count from now on."""
        if not self._begun:
            self._begun = True
            sys.addaudithook(self._hook)
            setattr(process, "Popen", self._popen())  # noqa: B010 - for this process alone
            sqlite3.connect = self._connect(sqlite3.connect)

    def end(self) -> None:
        """The operation is through: what comes does not count."""
        self._begun = False

    def step(self, what: str) -> None:
        """One durable step, and the end of the process if it is the last."""
        if not self._begun:
            return
        with self._counts:
            self.count += 1
            if self.count == self._last:
                self._tell(f"{what} in {_place()}")
                os.kill(os.getpid(), signal.SIGKILL)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if getattr(self._inside, "hook", False):
            return
        self._inside.hook = True
        try:
            if event == "ctypes.dlsym" and args[1] in {"renameat2", "mount", "umount2", "syncfs"}:
                self.step(args[1])
            elif event in _PATHS:
                self._file(event, args)
        finally:
            self._inside.hook = False

    def _connect(self, connect: Callable[..., sqlite3.Connection]) -> Any:
        def traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            connection = connect(*args, **kwargs)
            connection.set_trace_callback(self._statement)
            return connection

        return traced

    def _statement(self, text: str) -> None:
        reads = text.startswith("SELECT") or (text.startswith("PRAGMA") and "=" not in text)
        if not reads:
            self.step(f"sqlite {' '.join(text.split())[:40]}")

    def _file(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            flags = args[2] if isinstance(args[2], int) else 0
            if not flags & _WRITING or flags & os.O_TMPFILE == os.O_TMPFILE:
                return
        paths = [_path(args[at]) for at in _PATHS[event]]
        if any(f"{path}/".startswith(each) for path in paths for each in self._watched):
            self.step(f"{event} {' '.join(self._shown(path) for path in paths)}")

    def _shown(self, path: str) -> str:
        for number, each in enumerate(self._watched):
            if f"{path}/".startswith(each):
                path = f"{number or ''}:{path[len(each) :]}"
        return _RANDOM.sub("RANDOM", _ID.sub("ID", path))

    def _popen(self) -> type["subprocess.Popen[bytes]"]:
        steps = self

        class Popen(subprocess.Popen[bytes]):
            """A program whose start and end are steps."""

            def __init__(self, args: Any, **kwargs: Any) -> None:
                self._name = " ".join(map(os.path.basename, _without_setpriv(args)[:3]))
                steps.step(f"before {self._name}")
                super().__init__(args, **kwargs)
                steps.step(f"start of {self._name}")

            def poll(self) -> int | None:
                running = self.returncode is None
                status = super().poll()
                if running and status is not None:
                    steps.step(f"end of {self._name}")
                return status

        return Popen


def _without_setpriv(argv: list[str]) -> list[str]:
    words = list(map(str, argv))
    return words[words.index("--") + 1 :] if words[0].endswith("setpriv") else words


def _path(value: Any) -> str:
    if isinstance(value, int):
        return os.readlink(f"/proc/self/fd/{value}")
    return os.fsdecode(value)


def _place() -> str:
    """The innermost function of the product that led here."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if "/src/obuilder" in path and Path(path).parent != _HARNESS:
            return f"{Path(path).stem}.{frame.f_code.co_name}:{frame.f_lineno}"
        frame = frame.f_back
    return "no function of ours"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a process ended: what it returned, or where it was killed."""

    value: Any = None
    killed_at: str | None = None


def in_process(work: Callable[..., Any], *args: Any, last: int = 0, watched: list[Path]) -> Ended:
    """Call `work(steps, *args)`, which can be pickled, in a process that dies at step `last`.

    Step 0 never comes. Raises AssertionError, with the traceback, for an error in there.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, work.__module__])
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(theirs, work, args, last, watched))
    child.start()
    theirs.close()
    with ours:
        return _answer(child, ours)


def _answer(child: BaseProcess, pipe: Connection) -> Ended:
    try:
        told: list[tuple[str, Any]] = []
        while pipe.poll(LIMIT_S):
            try:
                told.append(pipe.recv())
            except EOFError:
                break
        else:
            raise AssertionError(f"it does not end; it said {told}")
        child.join(LIMIT_S)
    finally:
        if child.exitcode is None:
            child.kill()
            child.join(LIMIT_S)
    kind, value = told[-1] if told else ("nothing", None)
    if kind == "killed" and child.exitcode == -signal.SIGKILL:
        return Ended(killed_at=value)
    assert (kind, child.exitcode) == ("returned", 0), f"{kind}, status {child.exitcode}: {value}"
    return Ended(value=value)


def _run(
    pipe: Connection,
    work: Callable[..., Any],
    args: tuple[Any, ...],
    last: int,
    watched: list[Path],
) -> None:
    steps = DurableSteps(watched, last=last, tell=lambda text: pipe.send(("killed", text)))
    try:
        value = work(steps, *args)
        steps.end()
        pipe.send(("returned", value))
    except Exception:  # noqa: BLE001 - told to who waits
        pipe.send(("raised", traceback.format_exc()))
    pipe.close()
