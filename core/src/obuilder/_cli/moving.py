"""Copying a result from one store to another."""

import typer

from obuilder import Settings, open_builder
from obuilder._cli.output import Output
from obuilder._cli.supervise import supervised
from obuilder.types import Id

__all__ = ["run_move"]


def run_move(id: Id, source: Settings, target: Settings) -> None:
    """Send the result and receive it at the same time; `typer.Exit` if that is interrupted."""

    async def work(output: Output) -> int:
        async with open_builder(source) as sender, open_builder(target) as receiver:
            copied = await sender.push(id, receiver)
        said = "Copied" if copied else "There already:"
        output.write(f"{said} {id}\n".encode())
        return 0

    status = supervised(work)
    if status:
        raise typer.Exit(status)
