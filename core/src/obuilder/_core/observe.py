"""Telling what happens: events to the client of a build, hooks to observers."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from obuilder import events
from obuilder._core.pieces import Piece, Wait
from obuilder.spec.ast import Op
from obuilder.types import Holder, Id

__all__ = ["BuildObserver", "Observer", "StepObserved", "Telling"]


class Observer(Protocol):
    """What a hook manager offers; it must never raise."""

    def build_started(self) -> None:
        """A build begins."""

    def build_finished(self, *, seconds: float, error: BaseException | None) -> None:
        """A build has ended."""

    def step_started(self, *, id: Id, kind: str) -> None:
        """A step is looked up or made."""

    def step_finished(
        self,
        *,
        id: Id,
        kind: str,
        cached: bool,
        seconds: float,
        error: BaseException | None,
    ) -> None:
        """A step has ended for one client."""


@dataclass(slots=True)
class StepObserved:
    """What the builder fills in while a step is observed."""

    cached: bool = False


class BuildObserver:
    """Wraps a build and its steps in calls to an observer, if there is one."""

    def __init__(self, observer: Observer | None) -> None:
        self._observer = observer

    @asynccontextmanager
    async def build(self) -> AsyncIterator[None]:
        """Around a whole build."""
        begun, error = time.monotonic(), None
        if self._observer:
            self._observer.build_started()
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            if self._observer:
                self._observer.build_finished(seconds=time.monotonic() - begun, error=error)

    @asynccontextmanager
    async def step(self, id: Id, kind: str) -> AsyncIterator[StepObserved]:
        """Around one step."""
        begun, error, observed = time.monotonic(), None, StepObserved()
        if self._observer:
            self._observer.step_started(id=id, kind=kind)
        try:
            yield observed
        except BaseException as raised:
            error = raised
            raise
        finally:
            if self._observer:
                self._observer.step_finished(
                    id=id,
                    kind=kind,
                    cached=observed.cached,
                    seconds=time.monotonic() - begun,
                    error=error,
                )


class _Counter:
    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        self._last += 1
        return self._last


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
        await self._tell(events.StageStarted(seq=self._seq(), stage=self._stage, name=name))

    async def stage_finished(self, name: str, id: Id) -> None:
        await self._tell(events.StageFinished(seq=self._seq(), stage=self._stage, name=name, id=id))

    async def base_started(self, base: str) -> None:
        await self._tell(events.BaseStarted(seq=self._seq(), stage=self._stage, base=base))

    async def op_started(self, op: Op, workdir: str) -> None:
        await self._tell(
            events.OpStarted(seq=self._seq(), stage=self._stage, op=op, workdir=workdir)
        )

    async def step_started(self, id: Id, kind: str) -> None:
        await self._tell(events.StepStarted(seq=self._seq(), stage=self._stage, id=id, kind=kind))

    async def piece(self, piece: Piece) -> None:
        """Output of the current step, a note, or what it waits for."""
        seq, stage = self._seq(), self._stage
        match piece:
            case bytes(data):
                await self._tell(events.Output(seq=seq, stage=stage, data=data))
            case str(text):
                await self._tell(events.Note(seq=seq, stage=stage, text=text))
            case Wait(what=what, holder=Holder(pid=pid, since=since)):
                event = events.Waiting(seq=seq, stage=stage, what=what, pid=pid, since=since)
                await self._tell(event)

    async def step_finished(self, id: Id, *, cached: bool) -> None:
        await self._tell(
            events.StepFinished(seq=self._seq(), stage=self._stage, id=id, cached=cached)
        )

    async def build_finished(self, id: Id) -> None:
        await self._tell(events.BuildFinished(seq=self._seq(), stage=self._stage, id=id))

    async def _tell(self, event: events.Event) -> None:
        waiting = self._sink(event)
        if waiting is not None:
            await waiting

    def _seq(self) -> int:
        return self._counter.next()


def _nobody(event: events.Event) -> None:
    del event
