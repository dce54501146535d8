"""The `env` file of a result: the base image's environment, in OBuilder's form."""

from pathlib import Path

from obuilder.errors import SpecError, StoreError
from obuilder.spec import Sexp, parse_sexps, to_hum
from obuilder.types import Env

__all__ = ["read_env", "write_env"]


def write_env(path: Path, env: Env) -> None:
    """Write `((env ((K V)…)))`, like OBuilder without a newline. Blocking; raises OSError."""
    text = to_hum((("env", env),))
    path.write_bytes(text.encode("utf-8", "surrogateescape"))


def read_env(path: Path) -> Env:
    """Read it back. Blocking; raises StoreError if it is missing or damaged."""
    try:
        nodes = parse_sexps(path.read_bytes(), file=str(path))
    except (OSError, SpecError) as error:
        raise _damaged(path) from error
    match [node.sexp() for node in nodes]:
        case [(("env", tuple(pairs)),)]:
            return tuple(_pair(pair, path) for pair in pairs)
    raise _damaged(path)


def _pair(pair: Sexp, path: Path) -> tuple[str, str]:
    match pair:
        case (str(name), str(value)):
            return name, value
    raise _damaged(path)


def _damaged(path: Path) -> StoreError:
    return StoreError(
        f"{path} is missing or damaged",
        code="store.damaged-result",
        hint=f"remove the result: obuilder delete {path.parent.name}",
    )
