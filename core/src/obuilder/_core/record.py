"""What we keep for each id besides OBuilder's columns, in the database and beside the result."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from obuilder._core.disk import trouble_of
from obuilder.errors import StoreError
from obuilder.locks import Tenure
from obuilder.types import Id

__all__ = ["SIDE_FILE", "StepRecord", "read_side_file", "side_file", "tenure_of"]

SIDE_FILE = "obuilder.json"
"""Beside `rootfs`, `log` and `env`; a clone inherits its base's until it writes its own."""

_VERSION = 1
_ID = re.compile("[0-9a-f]{64}")
_LARGEST_BYTES = 1 << 28
"""A pre-image lists all files of a `copy`, in some 120 bytes each: two million of them."""
_LARGEST_NUMBER = 1 << 63
"""SQLite's integers have 64 bits, one of them the sign; https://sqlite.org/datatype3.html."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """`preimage` is redacted; `digest` and `platform` are those of a base import."""

    op: str
    context: str
    preimage: str
    duration_s: float
    size_bytes: int | None = None
    digest: str | None = None
    platform: str | None = None


_FIELDS: Final[dict[str, tuple[type, bool]]] = {
    "op": (str, False),
    "context": (str, False),
    "preimage": (str, False),
    "duration_s": (float, False),
    "size_bytes": (int, True),
    "digest": (str, True),
    "platform": (str, True),
}
_KINDS: Final = {str: "text", int: "integer", float: "number"}


def side_file(
    id: Id, parent: Id | None, record: StepRecord, *, tenure: Tenure | None = None
) -> bytes:
    """The contents of the file beside the result; `tenure` is the maker's, with the lock of it."""
    head = {"version": _VERSION, "id": id, "parent": parent, "tenure": tenure}
    return json.dumps({**head, **asdict(record)}, indent=1).encode()


def tenure_of(result: Path) -> Tenure | None:
    """Whose turn with its lock a result was made in; None: its file does not say.

    Blocking. OSError if the disk does not let it be read.
    """
    try:
        inode, turn = _parsed(result / SIDE_FILE)["tenure"]
        return int(inode), int(turn)
    except OSError as error:
        if trouble_of(error) is not None:
            raise
        return None
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None  # it was not made here, or is damaged: `read_side_file` tells


def read_side_file(result: Path, id: Id) -> tuple[Id | None, StepRecord] | None:
    """Parent and record of a result; None if it has none of its own (OBuilder made it).

    Blocking. Raises StoreError for one that is damaged: it may have come from elsewhere.
    """
    path = result / SIDE_FILE
    try:
        data = _parsed(path)
        if data["id"] != id:
            return None
        parent = _parent(data["parent"])
        fields = {name: _checked(name, data[name]) for name in StepRecord.__slots__}
    except FileNotFoundError:
        return None
    except KeyError as error:
        raise _damaged(path, id, f"{error} is missing") from error
    except RecursionError as error:
        raise _damaged(path, id, "it is nested too deep") from error
    except (OSError, ValueError) as error:
        raise _damaged(path, id, str(error)) from error
    return parent, StepRecord(**fields)


def _parsed(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        text = file.read(_LARGEST_BYTES + 1)
    if len(text) > _LARGEST_BYTES:
        raise ValueError(f"it has more than {_LARGEST_BYTES} bytes")
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - the file's fault, not a caller's
    return data


def _parent(value: Any) -> Id | None:
    if value is not None and not (isinstance(value, str) and _ID.fullmatch(value)):
        raise ValueError(f"parent is {value!r:.80}, which is no id")
    return None if value is None else Id(value)


def _checked(name: str, value: Any) -> Any:
    """A value as the database takes it. ValueError."""
    kind, may_be_missing = _FIELDS[name]
    if value is None and may_be_missing:
        return None
    # A bool is an int to isinstance.
    if type(value) is int and kind is float:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"{name} is {value!r:.80}, which is no {_KINDS[kind]}")
    if isinstance(value, str):
        value.encode()  # JSON can name half a character: UnicodeEncodeError
    elif isinstance(value, int | float) and not 0 <= value < _LARGEST_NUMBER:  # NaN is in none
        raise ValueError(f"{name} is {value!r:.80}, which is out of range")
    return value


def _damaged(path: Path, id: Id, why: str) -> StoreError:
    return StoreError(
        f"{path} cannot be read: {why}",
        code="store.damaged-result",
        hint=f"remove the result: obuilder delete {id}",
    )
