"""What a build tells: typed events, in order, to whoever watches.

Everything that a person sees is made from these; the builder knows no renderer.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from obuilder.errors import ObuilderError
from obuilder.spec.ast import Op
from obuilder.types import Id

__all__ = [
    "BaseStarted",
    "BuildFinished",
    "Event",
    "EventSink",
    "Note",
    "OpStarted",
    "Output",
    "StageFailed",
    "StageFinished",
    "StageStarted",
    "StepFinished",
    "StepStarted",
    "Waiting",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`seq` counts from 1 in a build; `stage` is the path of stage names, () outermost."""

    seq: int
    stage: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted(Event):
    """A nested stage begins; `stage` ends with `name`."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFinished(Event):
    """A nested stage is built; `id` is its result."""

    name: str
    id: Id


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFailed(Event):
    """A step of the stage has failed, or could not be begun. The others go on, or are cancelled."""

    error: ObuilderError


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseStarted(Event):
    """The import of a base is next."""

    base: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpStarted(Event):
    """An op is next; `workdir` is the directory before it."""

    op: Op
    workdir: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStarted(Event):
    """A step is looked up, or made if it has no result yet; `kind` is `from`, `run` or `copy`.

    If it fails, its log and error are kept under `id` in the store's `state/failed`.
    """

    id: Id
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Output(Event):
    """Raw output of the current step, live or replayed, in any size of pieces."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Note(Event):
    """Something that the step's backend tells and the log does not keep."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Event):
    """The step waits, for more than a second already, for `what`.

    Process `pid` has it since `since`; None: a process that cannot be seen from here.
    `others`: of what several have, such as the slots of a store, further processes.
    """

    what: str
    pid: int | None
    since: datetime
    others: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFinished(Event):
    """The step has a result; `cached` if it was there before."""

    id: Id
    cached: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildFinished(Event):
    """The outermost stage is built."""

    id: Id


EventSink = Callable[[Event], Awaitable[None] | None]
"""Called in the event loop for each event, in order; it must not block.

It may be a coroutine function: what it returns is awaited before this build's
next event, so that a slow reader holds up nothing but its own build.
"""
