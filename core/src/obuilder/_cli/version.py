"""What --version prints."""

from importlib import metadata

__all__ = ["version_line"]


def version_line() -> str:
    """The program's name and the installed distribution's version."""
    return f"obuilder {metadata.version('obuilder')}"
