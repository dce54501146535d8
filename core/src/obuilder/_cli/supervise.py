"""Runs a command's work so that a signal or a closed output ends it cleanly.

The first SIGINT, SIGTERM or SIGHUP cancels; the second ends the process at once.
"""

import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio

from obuilder._cli.output import Output
from obuilder._cli.report import (
    FAILED,
    INTERRUPTED,
    TERMINATED,
    quiet_stdout,
    said_by,
    say,
    show,
)
from obuilder.errors import ObuilderError

__all__ = ["Drain", "Work", "supervised"]

Work = Callable[[Output], Awaitable[int]]
"""Does something, writes to the output, and returns the exit status."""

Drain = Callable[[], None]
"""Has the work begin nothing new."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LAST_WORDS_S = 1.0
"""What a cancelled command had still to print gets this long, and as long what it says of that."""


class _Ending:
    """Why the work was ended from outside: the first reason counts."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.status: int | None = None
        self.message = ""

    def end(self, status: int, message: str) -> None:
        if self.status is None:
            self.status, self.message = status, message
        self.scope.cancel()

    def output_closed(self, error: OSError) -> None:
        quiet_stdout()
        quiet = isinstance(error, BrokenPipeError)
        self.end(FAILED, "" if quiet else f"obuilder: cannot write output: {error.strerror}")


def supervised(work: Work, *, drain: Drain | None = None) -> int:
    """Run `work` to its end and return its exit status, or that of what ended it.

    With `drain`, the first SIGTERM calls that, and the next signal is the first.
    """
    return anyio.run(_supervise, work, drain)


async def _supervise(work: Work, drain: Drain | None) -> int:
    ending = _Ending()
    failure: Exception | None = None
    status = FAILED
    output, errors = Output(sys.stdout.buffer), Output(sys.stderr.buffer)
    # A signal that the parent had ignored (nohup, a shell's `&`) stays ignored.
    handled = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    with anyio.open_signal_receiver(*handled) as received, said_by(errors.put):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_watch, received, ending, drain)
            tasks.start_soon(output.watch, ending.output_closed)
            tasks.start_soon(errors.watch, _nobody_is_told)
            with ending.scope:
                try:
                    status = await work(output)
                except Exception as error:  # noqa: BLE001 - raised again outside the task group
                    failure = error
                await output.drained()
                await errors.drained()
            with anyio.move_on_after(_LAST_WORDS_S):
                await output.drained()
            if output.error is not None:  # of what was written last
                ending.output_closed(output.error)
            if ending.status is not None:
                failure = _last_words(ending, failure)
            with anyio.move_on_after(_LAST_WORDS_S):
                await errors.drained()
            tasks.cancel_scope.cancel()
    output.close()
    errors.close()
    if ending.status in (INTERRUPTED, TERMINATED):
        for number in handled:  # nothing is left to be cleaned up
            signal.signal(number, signal.SIG_DFL)
    if failure is not None:
        raise failure
    return status if ending.status is None else ending.status


def _last_words(ending: _Ending, failure: Exception | None) -> Exception | None:
    """Say what ended the work; what is still to be raised."""
    if isinstance(failure, ObuilderError):
        show(failure)  # the clean-up's; the status stays that of what ended the work
        failure = None
    if failure is None and ending.message:
        say(ending.message)
    return failure


def _nobody_is_told(error: OSError) -> None:
    """Standard error is closed: what is said goes nowhere, as without us."""
    del error


async def _watch(
    received: AsyncIterator[signal.Signals], ending: _Ending, drain: Drain | None
) -> None:
    seen = 0
    async for number in received:
        if drain is not None and number == signal.SIGTERM:
            say("obuilder: draining: no new step is begun, what runs is ended")
            drain()
            drain = None
            continue
        status = INTERRUPTED if number == signal.SIGINT else TERMINATED
        seen += 1
        if seen > 1:
            # Locks end with the process; the next command clears up what is left.
            os._exit(ending.status or status)
        ending.end(status, "Interrupted" if status == INTERRUPTED else "Build cancelled")
