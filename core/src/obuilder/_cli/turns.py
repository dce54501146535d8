"""Whose turn it is: stages that are made side by side print as if they were made one by one."""

import tempfile
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from typing import IO

from obuilder._cli.output import Output
from obuilder.errors import StoreError

__all__ = ["Made", "Turns"]

Path = tuple[str, ...]

_IN_MEMORY_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The end of a step: one of two lines, for who prints the id first in the build or not."""

    id: str
    cached: bool
    first: bytes
    again: bytes


@dataclass(slots=True, eq=False)
class _Stage:
    parent: "_Stage | None" = None
    head: bytes = b""
    children: list["_Stage"] = field(default_factory=list)
    has_begun: bool = False
    has_ended: bool = False
    has_failed: bool = False
    _held: IO[bytes] | None = None
    _size_bytes: int = 0
    _between: list[tuple[int, Made]] = field(default_factory=list)
    """What stands in what is held, and where."""

    def hold(self, data: bytes | Made) -> None:
        try:
            if self._held is None:
                self._held = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115 - closed below
            if isinstance(data, Made):
                self._between.append((self._size_bytes, data))
            else:
                self._size_bytes += self._held.write(data)
        except OSError as error:
            raise StoreError(
                f"cannot keep the output of a stage in {tempfile.gettempdir()}: {error.strerror}",
                hint="make room there, name another directory in TMPDIR, or build with --jobs 1",
                code="store.output",
            ) from error

    def drop(self) -> None:
        if self._held is not None:
            self._held.close()

    def released(self) -> Iterator[bytes | Made]:
        held, self._held = self._held, None
        if held is None:
            return
        with held:
            held.seek(0)
            for place, made in self._between:
                yield from _chunks(held, until=place)
                yield made
            yield from _chunks(held, until=self._size_bytes)


class Turns:
    """Writes to the output what the stage whose turn it is prints, and keeps what others do.

    A stage's turn is after those that were started in it, in the order of their starts. What
    `start`, `write`, `end` and `finish` return is to be awaited, if it is anything.
    """

    def __init__(self, output: Output, *, keep_going: bool) -> None:
        self._output = output
        self._keep_going = keep_going
        self._made: set[str] = set()
        self._told: set[str] = set()
        self._root = _Stage(has_begun=True)
        self._now = self._root
        self._stages: dict[Path, _Stage] = {(): self._root}
        self._first_failed: _Stage | None = None

    def start(self, path: Path, head: bytes) -> Awaitable[None] | None:
        """A stage is started; `head` is the line that it begins with."""
        parent = self._stages[path[:-1]]
        stage = self._stages[path] = _Stage(parent, head)
        parent.children.append(stage)
        return self._send(self._begin(stage)) if parent is self._now else None

    def write(self, path: Path, data: bytes | Made) -> Awaitable[None] | None:
        """A stage prints something."""
        if isinstance(data, Made) and not data.cached:
            self._made.add(data.id)
        stage = self._stages[path]
        if stage is self._now:
            return self._output.write(self._line(data))
        stage.hold(data)
        return None

    def end(
        self, path: Path, *, failed: bool = False, drained: bool = False
    ) -> Awaitable[None] | None:
        """A stage prints no more; `drained`: it failed for nothing but that the builder drains."""
        stage = self._stages[path]
        stage.has_ended, stage.has_failed = True, failed
        if failed and not drained and self._first_failed is None:
            self._first_failed = stage
        if failed and not self._keep_going:
            return None  # the error stands just behind what it is of
        return self._send(self._pass_on())

    def finish(self) -> Awaitable[None] | None:
        """The build has failed: write what the stage whose error it is has printed, or all.

        All with `keep_going`; those that were drained if none failed otherwise.
        """
        if self._first_failed is not None and not self._keep_going:
            stages = [self._first_failed]
        else:
            stages = [each for each in self._stages.values() if self._keep_going or each.has_failed]
        return self._send(data for each in stages for data in _rest(each))

    def close(self) -> None:
        """Give up what is still kept."""
        for stage in self._stages.values():
            stage.drop()

    def _line(self, data: bytes | Made) -> bytes:
        if not isinstance(data, Made):
            return data
        # One by one, whoever is printed first would have made it.
        first = data.id in self._made and data.id not in self._told
        self._told.add(data.id)
        return data.first if first else data.again

    def _begin(self, stage: _Stage) -> Iterator[bytes | Made]:
        self._now, stage.has_begun = stage, True
        yield stage.head
        yield from self._go_on(stage)

    def _go_on(self, stage: _Stage) -> Iterator[bytes | Made]:
        for child in stage.children:
            if not child.has_begun:
                yield from self._begin(child)
                return
        self._now = stage
        yield from stage.released()

    def _pass_on(self) -> Iterator[bytes | Made]:
        while self._now.has_ended and self._now.parent is not None:
            yield from self._go_on(self._now.parent)

    def _send(self, chunks: Iterator[bytes | Made]) -> Awaitable[None] | None:
        for data in chunks:
            waiting = self._output.write(self._line(data))
            if waiting is not None:
                return self._send_rest(waiting, chunks)
        return None

    async def _send_rest(self, waiting: Awaitable[None], chunks: Iterator[bytes | Made]) -> None:
        await waiting
        for data in chunks:
            another = self._output.write(self._line(data))
            if another is not None:
                await another


def _chunks(held: IO[bytes], *, until: int) -> Iterator[bytes]:
    # What could not be kept for want of room is missing from it.
    while (left := until - held.tell()) > 0 and (data := held.read(min(left, _CHUNK_BYTES))):
        yield data


def _rest(stage: _Stage) -> Iterator[bytes | Made]:
    for data in stage.released():
        if not stage.has_begun:
            stage.has_begun = True
            yield stage.head
        yield data
