"""A build's events as plain text: OBuilder's output, line for line and byte for byte."""

from collections.abc import Callable
from typing import BinaryIO

from obuilder import events
from obuilder.spec import quoted, step_heading

__all__ = ["PlainRenderer"]


class PlainRenderer:
    """Writes each event as it comes.

    When the reader has gone, `stop` is called once with the error, and the rest
    is dropped: an event sink must not raise.
    """

    def __init__(self, out: BinaryIO, *, stop: Callable[[OSError], None]) -> None:
        self._out = out
        self._stop = stop
        self._broken = False

    def __call__(self, event: events.Event) -> None:
        """Write one event."""
        data = _bytes(event)
        if self._broken or not data:
            return
        try:
            self._out.write(data)
            self._out.flush()
        except OSError as error:
            self._broken = True
            self._stop(error)


def _bytes(event: events.Event) -> bytes:
    match event:
        case events.Output(data=data):
            # As it comes: what follows output without a newline stands on its line.
            return data
        case events.StageStarted(name=name):
            line = f"(build {quoted(name)} …)"
        case events.StageFinished(name=name):
            line = f"--> finished {quoted(name)}"
        case events.BaseStarted(base=base):
            line = f"(from {base})"
        case events.OpStarted(op=op, workdir=workdir):
            line = step_heading(workdir, op)
        case events.StepFinished(id=id, cached=True):
            line = f'---> using "{id}" from cache'
        case events.StepFinished(id=id):
            line = f'---> saved as "{id}"'
        case events.Note(text=text):
            line = text
        case events.BuildFinished(id=id):
            line = f'Got: "{id}"'
        case _:
            # An event of a later release: this output has no line for it.
            return b""
    return f"{line}\n".encode("utf-8", "surrogateescape")
