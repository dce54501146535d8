"""A build's events as plain text: OBuilder's output, line for line and byte for byte."""

from collections.abc import Awaitable

from obuilder import events
from obuilder._cli.output import Output
from obuilder._cli.turns import Made, Turns
from obuilder.spec import quoted, step_heading
from obuilder.types import Holder

__all__ = ["PlainRenderer"]


class PlainRenderer:
    """Writes each event to the output, as soon as it is the turn of the event's stage."""

    def __init__(self, output: Output, *, keep_going: bool) -> None:
        self._turns = Turns(output, keep_going=keep_going)

    def __call__(self, event: events.Event) -> Awaitable[None] | None:
        """Write one event; what it returns is awaited before the next one comes."""
        data = _bytes(event)
        match event:
            case events.StepFinished(id=id, cached=cached):
                saved, using = (f'---> saved as "{id}"\n', f'---> using "{id}" from cache\n')
                made = Made(id=id, cached=cached, first=saved.encode(), again=using.encode())
                return self._turns.write(event.stage, made)
            case events.StageStarted(stage=stage):
                return self._turns.start(stage, data)
            case events.StageFinished(stage=stage):
                return self._then_end(self._turns.write(stage, data), stage)
            case events.StageFailed(stage=stage, error=error):
                drained = error.code == "build.drained"
                return self._turns.end(stage, failed=True, drained=drained)
        return self._turns.write(event.stage, data) if data else None

    def finish(self) -> Awaitable[None] | None:
        """The build has failed: write what its error is to stand behind, or all that go on."""
        return self._turns.finish()

    def close(self) -> None:
        """Write no more."""
        self._turns.close()

    def _then_end(
        self, waiting: Awaitable[None] | None, stage: tuple[str, ...]
    ) -> Awaitable[None] | None:
        if waiting is None:
            return self._turns.end(stage)

        async def both() -> None:
            await waiting
            then = self._turns.end(stage)
            if then is not None:
                await then

        return both()


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
        case events.Note(text=text):
            line = text
        case events.Waiting(what=what, pid=pid, since=since, others=others):
            holder = Holder(pid=pid, since=since, others=others)
            line = f"Waiting for {what}, which {holder}"
        case events.BuildFinished(id=id):
            line = f'Got: "{id}"'
        case _:
            # An event of a later release: this output has no line for it.
            return b""
    return f"{line}\n".encode("utf-8", "surrogateescape")
