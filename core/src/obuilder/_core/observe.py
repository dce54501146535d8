"""Telling observers, which are hook plugins, of builds and steps."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from obuilder.types import Id

__all__ = ["BuildObserver", "Observer", "StepObserved"]


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
