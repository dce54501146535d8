"""Copying a result from one store to another."""

import os

import anyio
import typer

from obuilder import Builder, Settings, open_builder
from obuilder._cli.output import Output
from obuilder._cli.supervise import supervised
from obuilder.errors import ObuilderError
from obuilder.types import Id

__all__ = ["run_move"]


def run_move(id: Id, source: Settings, target: Settings) -> None:
    """Send the result and receive it at the same time; `typer.Exit` if that is interrupted."""

    async def work(output: Output) -> int:
        async with open_builder(source) as sender, open_builder(target) as receiver:
            copied = await _move(id, sender, receiver)
        said = "Copied" if copied else "There already:"
        output.write(f"{said} {id}\n".encode())
        return 0

    status = supervised(work)
    if status:
        raise typer.Exit(status)


async def _move(id: Id, sender: Builder, receiver: Builder) -> bool:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    failures: list[ObuilderError] = []
    copied = False

    async def send() -> None:
        try:
            await sender.export(id, writer)
        except ObuilderError as error:
            failures.insert(0, error)  # why the other one found the stream too short
        finally:
            os.close(writer)

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            try:
                copied = await receiver.import_(id, reader)
            except ObuilderError as error:
                failures.append(error)
            tasks.cancel_scope.cancel()
    finally:
        os.close(reader)
    if failures:
        raise failures[0]
    return copied
