"""The `obuilder` command: answers --version by itself, else hands over to the commands."""

import sys

from obuilder._cli.version import version_line

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit with its status."""
    if sys.argv[1:] == ["--version"]:
        # Before typer is imported, which takes longer than all the rest.
        print(version_line())
        return
    try:
        from obuilder._cli.app import app  # noqa: PLC0415 - see above

        app(prog_name="obuilder")
    except KeyboardInterrupt:  # during an import: nothing has begun
        sys.exit(130)
