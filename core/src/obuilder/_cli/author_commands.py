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
            help="An ability of the contract that the backend does not claim, such as"
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
    base: Annotated[
        str | None,
        typer.Option(metavar="BASE", help="For a fetcher: a base that there is."),
    ] = None,
    missing_base: Annotated[
        str | None,
        typer.Option(metavar="BASE", help="One that there is not; default: BASE with a tail."),
    ] = None,
) -> None:
    """Try every promise of a backend (--store, --sandbox, --fetcher), and tell which it keeps.

    Tried are those that are named, or the configured store. Existing results
    are not touched: each promise is tried in a new store below the location,
    LOCATION/obuilder-conformance-…, which is removed again. It takes some
    100 MiB there, root's rights, and the extra obuilder[testing]. A sandbox
    runs a static busybox from PATH.

    Exit status: 0 all kept, 1 some broken, 2 it cannot be tried.
    """
    from obuilder._cli.conformance import Wishes, run_conformance  # noqa: PLC0415

    wishes = Wishes(lacks=lacks or (), only=only or (), base=base, missing_base=missing_base)
    status = run_conformance(options, wishes)
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
