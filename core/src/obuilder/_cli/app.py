"""The commands: each wires what it was given to the builder and prints what came of it."""

from typing import Annotated

import typer

from obuilder._cli.added_commands import CommandGroup
from obuilder._cli.author_commands import conformance, new_backend
from obuilder._cli.dockerfile_commands import dockerfile, from_dockerfile
from obuilder._cli.global_options import GlobalOptions, with_global_options
from obuilder._cli.report import print_out
from obuilder._cli.spec_commands import check, fmt
from obuilder._cli.version import version_line

__all__ = ["app"]

# Modules of the core are imported inside the commands: --help needs none of them.

app = typer.Typer(
    cls=CommandGroup,
    help="Build specs step by step in a sandbox, and keep each step's result.",
    epilog="The options of `obuilder` itself may also stand after the command.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print_out(f"{version_line()}\n")
        raise typer.Exit


@app.callback()
@with_global_options
def root(
    options: GlobalOptions,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Build specs step by step in a sandbox, and keep each step's result."""


@app.command()
@with_global_options
def build(
    options: GlobalOptions,
    source_dir: Annotated[
        str, typer.Argument(metavar="SOURCE_DIR", help="The directory that copy reads from.")
    ],
    spec: Annotated[
        str, typer.Option("-f", "--file", metavar="SPEC", help="The spec; - reads it from stdin.")
    ],
    secret: Annotated[
        list[str] | None,
        typer.Option("--secret", metavar="ID:FILE", help="The value of a secret, from a file."),
    ] = None,
    id_file: Annotated[
        str | None, typer.Option("--id-file", metavar="FILE", help="Write the result's id here.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, metavar="N", help="Make at most N steps at once."),
    ] = None,
    max_steps: Annotated[
        int | None,
        typer.Option(
            "--max-steps",
            min=1,
            max=500,
            metavar="N",
            help="Wait while all processes of the store make N steps.",
        ),
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="After a failure, make what does not depend on it.")
    ] = False,
    drain_on_term: Annotated[
        bool,
        typer.Option("--drain-on-term", help="The first SIGTERM begins no new step, and waits."),
    ] = False,
) -> None:
    """Build a spec; cached steps are not run again."""
    from obuilder._cli import inputs  # noqa: PLC0415

    own = [f"build.jobs={jobs}"] if jobs is not None else []
    own += [f"build.max-steps={max_steps}"] if max_steps is not None else []
    own += ["build.keep-going=true"] if keep_going else []
    settings = options.then(GlobalOptions(option=own)).settings()
    source = inputs.source_directory(source_dir)
    secrets = inputs.read_secrets(secret or ())
    read = inputs.read_spec(spec)
    id_path = inputs.forget_id(id_file, inputs=[spec])

    from obuilder._cli.work import run_build  # noqa: PLC0415

    id = run_build(settings, read, source=source, secrets=secrets, drains=drain_on_term)
    inputs.save_id(id_path, id)


@app.command()
@with_global_options
def healthcheck(options: GlobalOptions) -> None:
    """Run a command in a base image, to see that everything works."""
    from obuilder._cli.work import run_healthcheck  # noqa: PLC0415

    run_healthcheck(options.settings())


@app.command()
@with_global_options
def delete(
    options: GlobalOptions, id: Annotated[str, typer.Argument(metavar="ID", help="A result.")]
) -> None:
    """Remove a result and all that was built on it."""
    from obuilder._cli.inputs import result_id  # noqa: PLC0415
    from obuilder._cli.work import run_removal  # noqa: PLC0415

    which = result_id(id)
    run_removal(options.settings(), lambda builder, tell: builder.delete(which, on_delete=tell))


@app.command()
@with_global_options
def clean(options: GlobalOptions) -> None:
    """Remove every result that no build uses, and every cache."""
    from obuilder._cli.work import run_removal  # noqa: PLC0415

    run_removal(options.settings(), lambda builder, tell: builder.clean(on_delete=tell))


@app.command()
@with_global_options
def prune(
    options: GlobalOptions,
    before: Annotated[
        str, typer.Option(metavar="AGE|DATE", help="Last used before: 12h, 7d, or a date (UTC).")
    ],
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Remove at most N.")] = 2**62,
) -> None:
    """Remove results that nothing was built on, least recently used first."""
    from datetime import UTC, datetime  # noqa: PLC0415

    from obuilder._cli.inputs import time_before  # noqa: PLC0415
    from obuilder._cli.work import run_removal  # noqa: PLC0415

    moment = time_before(before, datetime.now(UTC))
    run_removal(
        options.settings(),
        lambda builder, tell: builder.prune(before=moment, limit=limit, on_delete=tell),
    )


@app.command()
@with_global_options
def fsck(
    options: GlobalOptions,
    repair: Annotated[bool, typer.Option("--repair", help="Repair what is wrong.")] = False,
    rebuild_db: Annotated[
        bool,
        typer.Option("--rebuild-db", help="Make the database anew from the results, first."),
    ] = False,
) -> None:
    """Check a store: results, database, caches, and what crashes left."""
    from obuilder._cli.checking import run_check  # noqa: PLC0415

    run_check(options.settings(), repair=repair, rebuild=rebuild_db)


@app.command()
@with_global_options
def push(
    options: GlobalOptions,
    id: Annotated[str, typer.Argument(metavar="ID", help="A result of this store.")],
    to: Annotated[
        str, typer.Option("--to", metavar="DRIVER:LOCATION", help="The store that gets it.")
    ],
) -> None:
    """Copy a result to another store."""
    from obuilder._cli.inputs import result_id  # noqa: PLC0415
    from obuilder._cli.moving import run_move  # noqa: PLC0415

    run_move(result_id(id), options.settings(), options.with_store(to, option="--to"))


@app.command()
@with_global_options
def pull(
    options: GlobalOptions,
    id: Annotated[str, typer.Argument(metavar="ID", help="A result of the other store.")],
    source: Annotated[
        str, typer.Option("--from", metavar="DRIVER:LOCATION", help="The store that has it.")
    ],
) -> None:
    """Copy a result from another store."""
    from obuilder._cli.inputs import result_id  # noqa: PLC0415
    from obuilder._cli.moving import run_move  # noqa: PLC0415

    run_move(result_id(id), options.with_store(source, option="--from"), options.settings())


@app.command()
@with_global_options
def backends(options: GlobalOptions) -> None:  # noqa: ARG001 - a broken configuration breaks no list
    """List the installed stores, sandboxes and fetchers, and what is wrong with them."""
    from obuilder._cli.table import backend_rows, format_table  # noqa: PLC0415
    from obuilder._core.drivers.plugins import Plugins  # noqa: PLC0415

    print_out(f"{format_table(backend_rows(Plugins()))}\n")


app.command()(check)
app.command()(fmt)
app.command()(dockerfile)
app.command("from-dockerfile")(from_dockerfile)
app.command()(conformance)
app.command("new-backend")(new_backend)
