"""Telling the client of a build what happens: numbered events, one after the other."""

from collections.abc import Callable
from typing import Any

import anyio

from obuilder import events
from obuilder._core.pieces import Piece, Wait
from obuilder.errors import ObuilderError
from obuilder.spec.ast import Op
from obuilder.types import Holder, Id

__all__ = ["Telling"]


class _Counter:
    def __init__(self) -> None:
        self.last = 0
        # Stages are made side by side; a client gets one event after the other.
        self.turn = anyio.Lock(fast_acquire=True)


class Telling:
    """Makes the events of one build, numbered, for one stage of it."""

    def __init__(
        self,
        sink: events.EventSink | None,
        *,
        stage: tuple[str, ...] = (),
        counter: _Counter | None = None,
    ) -> None:
        self._sink = sink or _nobody
        self._stage = stage
        self._counter = counter or _Counter()

    def inside(self, name: str) -> "Telling":
        """For the nested stage `name`."""
        return Telling(self._sink, stage=(*self._stage, name), counter=self._counter)

    async def stage_started(self, name: str) -> None:
        await self._tell(events.StageStarted, name=name)

    async def stage_finished(self, name: str, id: Id) -> None:
        await self._tell(events.StageFinished, name=name, id=id)

    async def stage_failed(self, error: ObuilderError) -> None:
        await self._tell(events.StageFailed, error=error)

    async def base_started(self, base: str) -> None:
        await self._tell(events.BaseStarted, base=base)

    async def op_started(self, op: Op, workdir: str) -> None:
        await self._tell(events.OpStarted, op=op, workdir=workdir)

    async def step_started(self, id: Id, kind: str) -> None:
        await self._tell(events.StepStarted, id=id, kind=kind)

    async def piece(self, piece: Piece) -> None:
        """Output of the current step, a note, or what it waits for."""
        match piece:
            case bytes(data):
                await self._tell(events.Output, data=data)
            case str(text):
                await self._tell(events.Note, text=text)
            case Wait(what=what, holder=Holder(pid=pid, since=since, others=others)):
                await self._tell(events.Waiting, what=what, pid=pid, since=since, others=others)

    async def step_finished(self, id: Id, *, cached: bool) -> None:
        await self._tell(events.StepFinished, id=id, cached=cached)

    async def build_finished(self, id: Id) -> None:
        await self._tell(events.BuildFinished, id=id)

    async def _tell(self, event: Callable[..., events.Event], /, **fields: Any) -> None:
        async with self._counter.turn:
            self._counter.last += 1
            waiting = self._sink(event(seq=self._counter.last, stage=self._stage, **fields))
            if waiting is not None:
                await waiting


def _nobody(event: events.Event) -> None:
    del event
