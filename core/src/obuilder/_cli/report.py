"""How a command fails: one message on standard error, and the exit status.

Status 1: the build or the infrastructure failed. 2: usage, configuration or
spec. 130: interrupted. 143: terminated.
"""

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import typer

from obuilder.errors import BuildError, ConfigError, ObuilderError, SpecError

__all__ = ["FAILED", "INTERRUPTED", "TERMINATED", "USAGE", "reporting", "show", "step_failed"]

FAILED = 1
USAGE = 2
INTERRUPTED = 130
TERMINATED = 143

_TRACEBACK_VARIABLE = "OBUILDER_TRACEBACK"


@contextmanager
def reporting(*, verbose: bool) -> Iterator[None]:
    """Turn what the block raises into a message and `typer.Exit`."""
    logging.basicConfig(
        format="obuilder: %(levelname)s: %(message)s",
        level=logging.DEBUG if verbose else logging.WARNING,
    )
    traced = verbose or bool(os.environ.get(_TRACEBACK_VARIABLE))
    try:
        yield
    except typer.Exit:
        raise
    except ObuilderError as error:
        _trace(error, wanted=traced)
        show(error)
        usage = isinstance(error, ConfigError | SpecError)
        raise typer.Exit(USAGE if usage else FAILED) from None
    except KeyboardInterrupt:
        say("Interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        quiet_stdout()
        raise typer.Exit(FAILED) from None
    except Exception as error:  # noqa: BLE001 - the last resort: a person is told, without a traceback
        _trace(error, wanted=traced)
        text = f"{type(error).__name__}: {error}".strip()
        say(f"obuilder: internal error: {text}")
        again = "" if traced else f" Run it again with -v or {_TRACEBACK_VARIABLE}=1 to see where."
        say(f"  hint: this is a bug in obuilder or in a plugin; please report it.{again}")
        raise typer.Exit(FAILED) from None


def show(error: ObuilderError) -> None:
    """Print an error and its hint."""
    say(f"obuilder: {error}")


def step_failed(error: ObuilderError) -> None:
    """Print what ended a build, in the words that programs match on."""
    # The heading of the step stands just before it on standard output.
    place = "" if isinstance(error, BuildError) or not error.where else f"{error.where}: "
    say(f"Build step failed: {place}{error.what}")
    if error.hint:
        say(f"  hint: {error.hint}")


def say(text: str) -> None:
    """A line on standard error; nothing if that is closed."""
    with suppress(OSError):  # nobody is there to be told
        print(text, file=sys.stderr, flush=True)


def quiet_stdout() -> None:
    """Let what is left in the buffer of a closed standard output go nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _trace(error: BaseException, *, wanted: bool) -> None:
    if wanted:
        say("".join(traceback.format_exception(error)).rstrip())
