"""The commands about specs alone: they open no store and run as any user."""

from typing import Annotated

import typer

from obuilder._cli.global_options import GlobalOptions, with_global_options

__all__ = ["check", "fmt"]

Specs = Annotated[list[str], typer.Argument(metavar="SPEC…", help="Files; - reads standard input.")]


@with_global_options
def check(options: GlobalOptions, specs: Specs) -> None:  # noqa: ARG001 - specs alone matter
    """Read specs and tell everything that is wrong with them."""
    from obuilder._cli.spec_files import check_files  # noqa: PLC0415

    status = check_files(specs)
    if status:
        raise typer.Exit(status)


@with_global_options
def fmt(
    options: GlobalOptions,  # noqa: ARG001 - specs alone matter
    specs: Specs,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 if something would be.")
    ] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="Change nothing; print what would be.")
    ] = False,
) -> None:
    """Lay specs out in the canonical way; comments and the spelling of atoms stay."""
    from obuilder._cli.spec_files import format_files  # noqa: PLC0415

    status = format_files(specs, check=check, diff=diff)
    if status:
        raise typer.Exit(status)
