"""Whose turn it is: stages that are made side by side print as if they were made one by one."""

import tempfile
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from typing import IO

from obuilder._cli.output import Output
from obuilder._cli.report import OutputError

__all__ = ["Turns"]

Path = tuple[str, ...]

_IN_MEMORY_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16


@dataclass(slots=True, eq=False)
class _Stage:
    parent: "_Stage | None" = None
    head: bytes = b""
    children: list["_Stage"] = field(default_factory=list)
    has_begun: bool = False
    has_ended: bool = False
    has_failed: bool = False
    _held: IO[bytes] | None = None

    def hold(self, data: bytes) -> None:
        try:
            if self._held is None:
                self._held = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115 - closed below
            self._held.write(data)
        except OSError as error:
            raise OutputError(error) from error

    def drop(self) -> None:
        if self._held is not None:
            self._held.close()

    def released(self) -> Iterator[bytes]:
        held, self._held = self._held, None
        if held is not None:
            with held:
                held.seek(0)
                while data := held.read(_CHUNK_BYTES):
                    yield data


class Turns:
    """Writes to the output what the stage whose turn it is prints, and keeps what others do.

    A stage's turn is after those that were started in it, in the order of their starts. What
    `start`, `write`, `end` and `finish` return is to be awaited, if it is anything.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._root = _Stage(has_begun=True)
        self._now = self._root
        self._stages: dict[Path, _Stage] = {(): self._root}

    def start(self, path: Path, head: bytes) -> Awaitable[None] | None:
        """A stage is started; `head` is the line that it begins with."""
        parent = self._stages[path[:-1]]
        stage = self._stages[path] = _Stage(parent, head)
        parent.children.append(stage)
        return self._send(self._begin(stage)) if parent is self._now else None

    def write(self, path: Path, data: bytes) -> Awaitable[None] | None:
        """A stage prints something."""
        stage = self._stages[path]
        if stage is self._now:
            return self._output.write(data)
        stage.hold(data)
        return None

    def end(self, path: Path, *, failed: bool = False) -> Awaitable[None] | None:
        """A stage prints no more."""
        stage = self._stages[path]
        stage.has_ended, stage.has_failed = True, failed
        return self._send(self._pass_on())

    def finish(self, *, everything: bool) -> Awaitable[None] | None:
        """The build has failed: write what failed stages have printed, or all of them."""
        stages = [each for each in self._stages.values() if everything or each.has_failed]
        return self._send(data for each in stages for data in _rest(each))

    def close(self) -> None:
        """Give up what is still kept."""
        for stage in self._stages.values():
            stage.drop()

    def _begin(self, stage: _Stage) -> Iterator[bytes]:
        self._now, stage.has_begun = stage, True
        yield stage.head
        yield from self._go_on(stage)

    def _go_on(self, stage: _Stage) -> Iterator[bytes]:
        for child in stage.children:
            if not child.has_begun:
                yield from self._begin(child)
                return
        self._now = stage
        yield from stage.released()

    def _pass_on(self) -> Iterator[bytes]:
        while self._now.has_ended and self._now.parent is not None:
            yield from self._go_on(self._now.parent)

    def _send(self, chunks: Iterator[bytes]) -> Awaitable[None] | None:
        for data in chunks:
            waiting = self._output.write(data)
            if waiting is not None:
                return self._send_rest(waiting, chunks)
        return None

    async def _send_rest(self, waiting: Awaitable[None], chunks: Iterator[bytes]) -> None:
        await waiting
        for data in chunks:
            another = self._output.write(data)
            if another is not None:
                await another


def _rest(stage: _Stage) -> Iterator[bytes]:
    for data in stage.released():
        if not stage.has_begun:
            stage.has_begun = True
            yield stage.head
        yield data
