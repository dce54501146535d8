"""The commands for authors of backends: one writes a new one, one tries a store."""

from typing import Annotated

import typer

from obuilder._cli.global_options import GlobalOptions, with_global_options
from obuilder._cli.report import print_out

__all__ = ["conformance", "new_backend"]


@with_global_options
def conformance(
    options: GlobalOptions,
    lacks: Annotated[
        list[str] | None,
        typer.Option(
            "--lacks",
            metavar="ABILITY",
            help="An ability of the contract that the store does not claim, such as"
            " can_delete_middle; may be given many times.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="WORDS",
            help="Try the promises with these words; may be given many times.",
        ),
    ] = None,
) -> None:
    """Try every promise of a store (--store), and tell which it keeps.

    Existing results are not touched: each promise is tried in a new store below
    the location, LOCATION/obuilder-conformance-…/N, which is removed again. It
    takes some 100 MiB there, root's rights, and the extra obuilder[testing].

    Exit status: 0 all kept, 1 some broken, 2 the store cannot be tried. Only
    stores have a contract so far: a sandbox or fetcher is not tried.
    """
    from obuilder._cli.conformance import run_conformance  # noqa: PLC0415

    status = run_conformance(options, lacks=lacks or (), only=only or ())
    if status:
        raise typer.Exit(status)


@with_global_options
def new_backend(
    options: GlobalOptions,  # noqa: ARG001 - nothing is configured for it
    kind: Annotated[str, typer.Argument(metavar="KIND", help="store, sandbox or fetcher.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="The driver's name, such as foo.")],
    directory: Annotated[
        str | None, typer.Argument(metavar="[DIR]", help="Where; default: obuilder-KIND-NAME.")
    ] = None,
) -> None:
    """Write a repository for a new backend: a class that works, its tests, its packaging."""
    from pathlib import Path  # noqa: PLC0415

    from obuilder._cli.new_backend import write_backend  # noqa: PLC0415

    where = write_backend(kind, name, None if directory is None else Path(directory))
    print_out(f"{where}\n")
