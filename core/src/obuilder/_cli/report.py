"""How a command fails: one message on standard error, and the exit status.

Status 1: the build failed, or what was asked for is not there. 2: usage,
configuration or spec. 3: the infrastructure failed, or obuilder itself.
130: interrupted. 143: terminated. docs/failures.md has the codes.
"""

import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

import typer

from obuilder._core.disk import OPEN_FILES, trouble_of
from obuilder.errors import BuildError, ErrorKind, ObuilderError, StoreError

__all__ = [
    "FAILED",
    "INFRASTRUCTURE",
    "INTERRUPTED",
    "TERMINATED",
    "USAGE",
    "OutputError",
    "cannot_write",
    "print_out",
    "quiet_stdout",
    "reporting",
    "said_by",
    "say",
    "show",
    "status_of",
    "step_failed",
    "warnings_shown",
]

FAILED = 1
USAGE = 2
INFRASTRUCTURE = 3
INTERRUPTED = 130
TERMINATED = 143

_TRACEBACK_VARIABLE = "OBUILDER_TRACEBACK"
_LOG_FORMAT = "obuilder: %(levelname)s: %(message)s"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]")


_write: ContextVar[Callable[[bytes], None] | None] = ContextVar("_write", default=None)


class _Said(logging.Handler):
    """Shows what is logged as `say` does."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(_LOG_FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


@contextmanager
def reporting(*, verbose: bool) -> Iterator[None]:
    """Turn what the block raises into a message and `typer.Exit`."""
    logging.basicConfig(handlers=[_Said()], level=logging.DEBUG if verbose else logging.WARNING)
    traced = verbose or bool(os.environ.get(_TRACEBACK_VARIABLE))
    try:
        yield
    except typer.Exit:
        raise
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last resort: a person is told, without a traceback
        with _ctrl_c_kills():
            status = _told(error, traced=traced)
        raise typer.Exit(status) from None


def _told(error: BaseException, *, traced: bool) -> int:
    """Say what ends the command; its status."""
    match error:
        case ObuilderError():
            _trace(error, wanted=traced)
            show(error)
            return status_of(error)
        case KeyboardInterrupt():
            say("Interrupted")
            return INTERRUPTED
        case OutputError(reason=reason):
            return cannot_write(reason)
        case OSError() if trouble_of(error) is OPEN_FILES:
            _trace(error, wanted=traced)
            what = f"{OPEN_FILES.what}: {error.filename or error.strerror}"
            show(StoreError(what, code=OPEN_FILES.code, hint=OPEN_FILES.hint))
            return INFRASTRUCTURE
    _trace(error, wanted=traced)
    text = f"{type(error).__name__}: {error}".strip()
    say(f"obuilder: internal error: {text}")
    again = "" if traced else f" Run it again with -v or {_TRACEBACK_VARIABLE}=1 to see where."
    say(f"  hint: this is a bug in obuilder or in a plugin; please report it.{again}")
    return INFRASTRUCTURE


@contextmanager
def _ctrl_c_kills() -> Iterator[None]:
    """The last words may meet a reader that stalls: Python's own handler would only wake us."""
    before = signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread()
    if not ours or before is None or before is signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def warnings_shown() -> Iterator[None]:
    """Show warnings of the block as `reporting` does, which comes later and decides how much."""
    handler = _Said()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


class OutputError(Exception):
    """Standard output cannot be written."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def print_out(data: bytes | str) -> None:
    """Print at once. OutputError; `reporting` knows what to do about it."""
    encoded = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    try:
        sys.stdout.buffer.write(encoded)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise OutputError(error) from error


def cannot_write(error: OSError) -> int:
    """Say that standard output cannot be written, unless its reader has gone; the status."""
    quiet_stdout()
    if not isinstance(error, BrokenPipeError):
        say(f"obuilder: cannot write output: {error.strerror}")
    return FAILED


def status_of(error: ObuilderError) -> int:
    """The exit status of a command that an error ends."""
    if error.kind is ErrorKind.USAGE:
        return USAGE
    return INFRASTRUCTURE if error.kind is ErrorKind.INFRASTRUCTURE else FAILED


def show(error: ObuilderError) -> None:
    """Print an error and its hint."""
    say(f"obuilder: {error}")


def step_failed(error: ObuilderError) -> None:
    """Print what ended a build, in the words that programs match on."""
    _trace(error, wanted=logging.getLogger().isEnabledFor(logging.DEBUG))
    # The heading of the step stands just before it on standard output.
    place = "" if isinstance(error, BuildError) or not error.where else f"{error.where}: "
    say(f"Build step failed: {place}{error.what}")
    if error.hint:
        say(f"  hint: {error.hint}")


def say(text: str) -> None:
    """A line on standard error; nothing if that is closed.

    Names in it come from specs and archives: bytes that are not UTF-8 are
    written as they are, and control characters so that a terminal obeys none.
    """
    safe = _CONTROL.sub(lambda char: f"\\x{ord(char[0]):02x}", text)
    line = f"{safe}\n".encode("utf-8", "surrogateescape")
    write = _write.get()
    if write is not None:
        write(line)
        return
    with suppress(OSError):  # nobody is there to be told
        sys.stderr.flush()
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()


@contextmanager
def said_by(write: Callable[[bytes], None]) -> Iterator[None]:
    """Have what is said and logged in the block written by `write`, which must not block."""
    token = _write.set(write)
    try:
        yield
    finally:
        _write.reset(token)


def quiet_stdout() -> None:
    """Let what is left in the buffer of a standard output that fails go nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _trace(error: BaseException, *, wanted: bool) -> None:
    if wanted:
        say("".join(traceback.format_exception(error)).rstrip())
