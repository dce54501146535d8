"""The environment file beside an archive: NAME=VALUE lines."""

import re

from obuilder.errors import ImageError
from obuilder.types import Env

__all__ = ["DEFAULT_ENV", "parse_env"]

DEFAULT_ENV: Env = (("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),)
"""Of an archive with no such file; the same as Docker's."""


def parse_env(data: bytes, *, where: str) -> Env:
    """The pairs in the order of their lines; blank lines and `#` comments do not count.

    A value is taken as it stands, up to the end of the line. ImageError
    archive.invalid-env with `where`:LINE if a line is something else, or names
    a variable a second time.
    """
    pairs: dict[str, str] = {}
    text = data.decode("utf-8", "surrogateescape")
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.removesuffix("\r")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not re.fullmatch(r"[^\s\0]+", name) or "\0" in value:
            problem = f"found {line[:80]!r}, expected NAME=VALUE"
        elif name in pairs:
            problem = f"{name} is set a second time"
        else:
            pairs[name] = value
            continue
        raise ImageError(
            problem,
            where=f"{where}:{number}",
            hint="one NAME=VALUE a line, no quotes, no `export`",
            code="archive.invalid-env",
        )
    return tuple(pairs.items())
