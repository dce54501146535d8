"""The `obuilder` command: answers --version by itself, else hands over to the commands."""

import os
import sys

from obuilder._cli.version import version_line

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit with its status."""
    _open_standard_streams()
    try:
        if sys.argv[1:] == ["--version"]:
            # Before typer is imported, which takes longer than all the rest.
            print(version_line(), flush=True)
            return
        from obuilder._cli.app import app  # noqa: PLC0415 - see above

        app(prog_name="obuilder")
    except KeyboardInterrupt:  # during an import: nothing has begun
        sys.exit(130)
    except OSError as error:  # --help and --version; the commands report their own
        from obuilder._cli.report import cannot_write  # noqa: PLC0415 - rarely needed

        sys.exit(cannot_write(error))


def _open_standard_streams() -> None:
    """Let what the caller has closed be /dev/null: else a file of ours would get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY
            null = os.open(os.devnull, flags)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
