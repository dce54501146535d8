"""The commands that turn a spec into a Dockerfile and back."""

import os
import stat
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from obuilder._cli.global_options import GlobalOptions, with_global_options
from obuilder._cli.report import print_out, say

if TYPE_CHECKING:
    from obuilder.spec.from_dockerfile import Kind

__all__ = ["dockerfile", "from_dockerfile"]


class Escape(Enum):
    """The choices of --escape."""

    unix = "unix"
    windows = "windows"


@with_global_options
def dockerfile(
    options: GlobalOptions,  # noqa: ARG001 - a broken configuration breaks no conversion
    spec: Annotated[
        str, typer.Option("-f", "--file", metavar="SPEC", help="The spec; - reads it from stdin.")
    ],
    buildkit: Annotated[
        bool, typer.Option("--buildkit", help="Write caches and secrets, as BuildKit has them.")
    ] = False,
    escape: Annotated[
        Escape, typer.Option("--escape", help="The escape character: a backslash or a backtick.")
    ] = Escape.unix,
) -> None:
    """Print a spec as a Dockerfile."""
    from obuilder._cli.inputs import read_spec  # noqa: PLC0415
    from obuilder.spec.dockerfile import to_dockerfile  # noqa: PLC0415

    stage = read_spec(spec).stage
    print_out(to_dockerfile(stage, buildkit=buildkit, escape=escape.value))


@with_global_options
def from_dockerfile(
    options: GlobalOptions,  # noqa: ARG001 - as above
    dockerfile: Annotated[
        str, typer.Argument(metavar="DOCKERFILE", help="The file; - reads it from stdin.")
    ],
    ignore_metadata: Annotated[
        bool, typer.Option("--ignore-metadata", help="Drop CMD, LABEL and the like with a note.")
    ] = False,
    context: Annotated[
        str | None,
        typer.Option("--context", metavar="DIR", help="Tell files from directories to copy here."),
    ] = None,
) -> None:
    """Print a Dockerfile as a spec, or all that has no equal in one."""
    from obuilder._cli import inputs  # noqa: PLC0415
    from obuilder.spec import from_dockerfile as convert  # noqa: PLC0415

    text = inputs.read_input(dockerfile, where="DOCKERFILE", code="cli.dockerfile")
    directory = None if context is None else inputs.source_directory(context)
    file = "<stdin>" if dockerfile == "-" else dockerfile
    converted = convert.from_dockerfile(
        text, file=file, ignore_metadata=ignore_metadata, kind=_kind(directory)
    )
    for note in converted.notes:
        say(f"obuilder: note: {note}")
    print_out(f"{converted.stage}\n")


def _kind(context: Path | None) -> "Kind":
    def look(source: str) -> Literal["file", "directory", "other"] | None:
        if context is None:
            return None
        try:
            mode = os.lstat(context / source.lstrip("/")).st_mode
        except (OSError, ValueError):  # not there, yet perhaps; or no path at all
            return None
        if stat.S_ISDIR(mode):
            return "directory"
        return "file" if stat.S_ISREG(mode) else "other"

    return look
